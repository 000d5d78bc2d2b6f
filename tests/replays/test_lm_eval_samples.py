"""Samples that lm-eval 0.4.3 to 0.4.13 wrote themselves are replayed as they were decoded.

`tools/lm_eval_samples.py` recorded them: the embedded target, `--model hf`, `--log_samples`.

python -m pytest tests/replays/test_lm_eval_samples.py
"""

from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from lm_eval_specfair.decoding.loading import EMBEDDED_DRAFTERS, EMBEDDED_TARGET
from lm_eval_specfair.records import read_records
from lm_eval_specfair.replays.replay_run import replay

from support.decoding_runs import decode, model_drafter, request

SAMPLES = Path(__file__).with_name("samples")
VERSIONS = ("0.4.3", "0.4.5", "0.4.8", "0.4.13")
PROMPTS = ("The window shows", "Das Fenster zeigt", "La fenêtre affiche", "Вікно показує")


@pytest.fixture(scope="module")
def decoded():
    """The same prompts decoded by this package's engine."""
    target, drafter = (
        AutoModelForCausalLM.from_pretrained(folder).eval()
        for folder in (EMBEDDED_TARGET, EMBEDDED_DRAFTERS["embedded"])
    )
    tokenizer = AutoTokenizer.from_pretrained(EMBEDDED_TARGET)
    asked = [request(tokenizer(text).input_ids, 16, name=text) for text in PROMPTS]
    return decode(target, model_drafter(drafter, 8192), asked)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_versions_samples_are_replayed_as_they_were_decoded(decoded, tmp_path, version):
    done = replay(
        [SAMPLES / version], ["embedded"], tmp_path / "out", target="embedded", device="cpu",
        show_progress=False,
    )  # fmt: skip
    records = {record.doc_id: record for record in read_records(tmp_path / "out")}

    assert not done.departures
    assert sum(source.num_left_out for source in done.sources) == 8  # that were scored
    assert sorted(records) == [0, 1, 2, 3]
    assert [records[n].group_fields["language"] for n in range(4)] == ["en", "de", "fr", "uk"]
    assert {record.task for record in records.values()} == {"window_generated"}
    for number, each in enumerate(decoded):
        record = records[number]
        assert record.generated_token_ids == each.token_ids
        assert record.accepted_per_step == each.counters.accepted_per_step
        assert record.drafted_per_step == each.counters.drafted_per_step
        assert record.overlap_sum == pytest.approx(each.counters.overlap_sum, rel=1e-4)
        assert record.finish_reason == each.finish_reason
        assert record.num_uncertain_tokens is None
