"""Runs whose drafter is a head: the target's own texts, what is on record, and wrong heads."""

import json

import pytest

from lm_eval_specfair.cli import main
from lm_eval_specfair.conformance.tiny_models import byte_tokenizer, llama
from lm_eval_specfair.decoding.heads.head_folder import write_head
from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.records import read_records, read_run
from lm_eval_specfair.replays.replay_run import replay
from lm_eval_specfair.reporting.report.build_report import build_summary, render

from support.evaluations import answers, generation, specfair
from support.tiny_heads import tiny_head

PROMPTS = ["ababab", "Der alte", "1, 2, 3", "x"]
DRAFTED = range(0, 260, 2)


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """A target, and a head in the place of its drafter."""
    folder = tmp_path_factory.mktemp("pair")
    target = llama(5, layers=3)
    target.save_pretrained(folder / "target")
    byte_tokenizer().save_pretrained(folder / "target")
    head = tiny_head(target.config, drafted=DRAFTED, feature_layers=(1, 2, 3))
    write_head(head, folder / "drafter")
    return folder


def requests(**gen_kwargs):
    return [generation(prompt, place, **gen_kwargs) for place, prompt in enumerate(PROMPTS)]


@pytest.mark.parametrize("sampling", [{}, {"do_sample": True, "temperature": 1.0}])
def test_a_run_and_its_replay_agree(pair, tmp_path, sampling):
    plain = answers(specfair(pair, tmp_path / "plain", drafter="none"), requests())
    model = specfair(pair, tmp_path / "run", batch_size=3)
    texts = answers(model, requests(**sampling))
    if not sampling:
        assert texts == plain
    settings = read_run(tmp_path / "run")["settings"]
    assert settings["drafter_head"] == {
        "kind": "eagle3", "made_for": None, "feature_layers": [1, 2, 3],
        "draft_vocab_size": 130, "has_own_embedding": False,
    }  # fmt: skip
    assert settings["drafter_weights"].startswith("sha256:")
    records = {each.doc_id: each for each in read_records(tmp_path / "run")}
    for record in records.values():
        tokens = record.generated_token_ids
        assert record.num_covered_tokens == sum(token in DRAFTED for token in tokens)
        assert record.num_draft_tokens
    report = render(build_summary([tmp_path / "run"], min_requests=1), "table")
    assert "is a head on the target's hidden states (layers 1, 2, 3)" in " ".join(report.split())

    again = replay(
        [tmp_path / "run"], [str(pair / "drafter")], tmp_path / "replay",
        target=str(pair / "target"), device="cpu", show_progress=False,
    )  # fmt: skip
    assert not again.departures
    info = read_run(tmp_path / "replay")
    assert info["settings"]["drafter_head"] == settings["drafter_head"]
    assert info["settings"]["drafter_weights"] == settings["drafter_weights"]
    if sampling:
        return  # of a sampled text other drafts may be drawn
    for each in read_records(tmp_path / "replay"):
        record = records[each.doc_id]
        assert each.drafted_per_step == record.drafted_per_step
        assert each.accepted_per_step == record.accepted_per_step
        assert each.rejected_token_ids == record.rejected_token_ids
        assert each.overlap_sum == pytest.approx(record.overlap_sum, abs=1e-3)
        assert each.kl_sum == pytest.approx(record.kl_sum, abs=1e-3)


def test_a_head_is_compared_with_other_drafters(pair, tmp_path, capsys):
    folders = [tmp_path / "head", tmp_path / "lookup"]
    for folder, drafter in zip(folders, ("drafter", "prompt_lookup"), strict=True):
        name = str(pair / "drafter") if drafter == "drafter" else drafter
        answers(specfair(pair, folder, drafter=name), requests())
    options = ["--metric", "mean_acceptance_length", "--min-requests", "1"]
    assert main(["compare", *map(str, folders), *options]) == 0
    assert main(["compare", *map(str, reversed(folders)), *options]) == 0
    assert capsys.readouterr().out.count("compared with") == 2


def test_a_replay_says_that_a_head_needs_the_target(pair, tmp_path):
    texts = tmp_path / "texts.jsonl"
    texts.write_text(
        json.dumps({"prompt_token_ids": [5, 6], "response_token_ids": [7, 8], "id": "a"}) + "\n"
    )
    with pytest.raises(ConfigError, match="reads the target's hidden states: name the target"):
        replay([texts], [str(pair / "drafter")], tmp_path / "out", device="cpu")


def test_wrong_heads_are_refused_in_a_line(pair, tmp_path):
    other = llama(5, layers=3, vocab_size=300)
    narrow = llama(5, layers=3, hidden_size=16, num_attention_heads=1)
    heads = {
        "tokens": (tiny_head(other.config, feature_layers=(1, 2, 3)), "300 tokens, the target"),
        "width": (tiny_head(narrow.config, feature_layers=(1, 2, 3)), "hidden states of 16"),
        "layers": (
            tiny_head(llama(5).config, feature_layers=(1, 2, 5)),
            "reads layer 5 of a target with 3 layers: it is another target's",
        ),
    }
    for name, (head, message) in heads.items():
        write_head(head, tmp_path / name)
        with pytest.raises(ConfigError, match=message) as caught:
            specfair(pair, tmp_path / "run", drafter=str(tmp_path / name))
        assert "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match="is a head: leave it out"):
        specfair(pair, tmp_path / "run", drafter_vocabulary="text")


def test_a_target_without_a_module_for_mtp_is_refused(pair, tmp_path):
    with pytest.raises(ConfigError, match=r"drafter=mtp: target .* has no module"):
        specfair(pair, tmp_path / "run", drafter="mtp")
