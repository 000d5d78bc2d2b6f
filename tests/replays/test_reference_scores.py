"""References read by both models, against their own passes, text by text.

python -m pytest tests/replays/test_reference_scores.py
"""

import json
import math

import pytest
import torch

from lm_eval_specfair.cli import main
from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.records import read_records, read_run
from lm_eval_specfair.replays.replay_run import replay
from lm_eval_specfair.reporting.report.build_report import build_summary

TEXTS = {"en": "the rest of a text", "el": "το υπόλοιπο", "th": "ส่วนที่เหลือ"}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    path = tmp_path_factory.mktemp("references") / "texts.jsonl"
    lines = [
        {
            "id": f"{language}/{number}",
            "language": language,
            "prompt": f"{number} " * (number + 1),
            "response": f"{text} {number}",
        }
        for number in range(5)
        for language, text in TEXTS.items()
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def read(source, pair_folder, output, **options):
    return replay(
        [source],
        [str(pair_folder / "drafter")],
        output,
        device="cpu",
        show_progress=False,
        **{"target": str(pair_folder / "target"), "references": True} | options,
    )


@torch.no_grad()
def expected(line, target, drafter):
    """From two passes of transformers' own over one text; the tokens are its bytes."""
    from lm_eval_specfair.conformance.tiny_models import byte_tokenizer

    tokenizer = byte_tokenizer()
    before = tokenizer(line["prompt"]).input_ids
    whole = tokenizer(line["prompt"] + line["response"]).input_ids
    assert whole[: len(before)] == before
    ids = torch.tensor([whole])
    places = slice(len(before) - 1, -1)
    p = target(ids).logits[0, places].double().softmax(-1)
    q = drafter(ids).logits[0, places].double().softmax(-1)
    chosen = ids[0, len(before) :, None]
    return {
        "num_scored_tokens": len(whole) - len(before),
        "num_scored_bytes": len(line["response"].encode()),
        "overlap_sum": float(torch.minimum(p, q).sum()),
        "kl_sum": float((p * (p / q).log()).sum()),
        "target_nll_sum": -float(p.gather(1, chosen).log().sum()),
        "drafter_nll_sum": -float(q.gather(1, chosen).log().sum()),
        "target_reference_probability_sum": float(p.gather(1, chosen).sum()),
        "drafter_reference_probability_sum": float(q.gather(1, chosen).sum()),
        "num_agreeing_positions": int((p.argmax(-1) == q.argmax(-1)).sum()),
        "is_greedy": bool((p.argmax(-1) == chosen[:, 0]).all()),
    }


def test_the_sums_are_those_of_two_plain_passes(
    source, pair_folder, target, near_drafter, tmp_path
):
    done = read(source, pair_folder, tmp_path / "out")
    assert len(done.notes()) == 1
    assert "15 texts were read as references" in done.notes()[0]
    records = {record.request_id: record for record in read_records(tmp_path / "out")}
    agreeing = 0
    for line in map(json.loads, source.read_text().splitlines()):
        record = records.pop(line["id"])
        assert record.request_type == "loglikelihood"
        assert record.generated_text is None
        assert record.group_fields["language"] == line["language"]
        for name, value in expected(line, target, near_drafter).items():
            assert getattr(record, name) == pytest.approx(value, rel=1e-4, abs=1e-4), name
        agreeing += record.num_agreeing_positions
    assert not records
    assert agreeing > 0


def test_a_report_has_the_reference_measures_by_group(source, pair_folder, tmp_path):
    read(source, pair_folder, tmp_path / "out")
    summary = build_summary([tmp_path / "out"])
    records = list(read_records(tmp_path / "out"))
    for language, estimates in summary.groups.items():
        own = [each for each in records if each.group_fields["language"] == language]
        tokens = sum(each.num_scored_tokens for each in own)
        for name, total in (
            ("scored_agreement", sum(each.num_agreeing_positions for each in own)),
            ("scored_overlap", sum(each.overlap_sum for each in own)),
            ("scored_bytes_per_token", sum(each.num_scored_bytes for each in own)),
        ):
            assert estimates[name].value == pytest.approx(total / tokens), name
        assert estimates["conditional_acceptance_rate"] is None
        bits = sum(each.target_nll_sum for each in own) / math.log(2)
        assert estimates["bits_per_byte"].value == pytest.approx(
            bits / sum(each.num_scored_bytes for each in own)
        )


def test_the_targets_pass_serves_from_the_disk(source, pair_folder, tmp_path, capsys):
    arguments = (str(source), "--references", "--drafter", str(pair_folder / "drafter"))
    cached = ("--target-cache", str(tmp_path / "pass"), "--device", "cpu")
    named = ("--target", str(pair_folder / "target"))
    assert main(["replay", *arguments, *cached, *named, "-o", str(tmp_path / "one")]) == 0
    tokenizer = ("--tokenizer", str(pair_folder / "target"))
    assert main(["replay", *arguments, *cached, *tokenizer, "-o", str(tmp_path / "two")]) == 0
    assert list(read_records(tmp_path / "one")) == list(read_records(tmp_path / "two"))
    assert read_run(tmp_path / "one")["replay"]["references"] is True
    # The same texts replayed as the target's own are something else, in a folder of their own.
    assert (
        main(["replay", *arguments[:1], *arguments[2:], *named, "-o", str(tmp_path / "one")]) == 2
    )
    assert "holds a replay with other texts, references" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"target": None}, "name the target with --target"),
        ({"lengths": (2, 4)}, "nothing is drafted"),
    ],
)
def test_what_cannot_be_read_as_references(source, pair_folder, tmp_path, options, said):
    with pytest.raises(ConfigError, match=said):
        read(source, pair_folder, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_prompt_lookup_and_runs_are_refused(source, pair_folder, tmp_path):
    with pytest.raises(ConfigError, match="no distribution at each token"):
        replay([source], ["prompt_lookup"], tmp_path / "out", target="embedded", references=True)
    read(source, pair_folder, tmp_path / "run")
    with pytest.raises(ConfigError, match="which its target wrote"):
        read(tmp_path / "run", pair_folder, tmp_path / "out")
