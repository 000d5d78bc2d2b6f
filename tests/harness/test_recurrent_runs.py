"""Runs with models that keep recurrent states: the texts, and what records and report say."""

import pytest

from lm_eval_specfair.conformance.tiny_models import VOCAB_SIZE, byte_tokenizer, disturbed, llama
from lm_eval_specfair.reporting.report.build_report import build_summary

from support.decoding_runs import transformers_greedy
from support.evaluations import answers, generation, records_of, run_of, save_pair, specfair
from support.recurrent_families import recurrent

TEXTS = [f"{'A long story about a fox. ' * n}Number {n}." for n in range(4)]


def pair(tmp_path, kind: str, drafter_kind: str):
    """Both of a kind, the drafter near the target if they are of one kind; and the target."""
    target, drafter = (
        llama(0) if each == "llama" else recurrent(each, vocab_size=VOCAB_SIZE)
        for each in (kind, drafter_kind)
    )
    if kind == drafter_kind:
        drafter = disturbed(target, 0.02)
    return save_pair(tmp_path / "pair", target, drafter), target


@pytest.mark.parametrize(
    ("target_kind", "drafter_kind", "states"),
    [
        ("lfm2", "lfm2", {"target": "block", "drafter": "block"}),
        ("zamba2", "llama", {"target": "token"}),
        ("llama", "mamba", {"drafter": "token"}),
        ("llama", "llama", {}),
    ],
)
def test_texts_are_those_of_generate_and_the_report_says_how_they_were_made(
    tmp_path, target_kind, drafter_kind, states
):
    folder, target = pair(tmp_path, target_kind, drafter_kind)
    asked = [generation(text, n, until=[], max_gen_toks=12) for n, text in enumerate(TEXTS)]
    got = answers(specfair(folder, tmp_path / "run", batch_size=3, baseline="all"), asked)

    tokenizer = byte_tokenizer()
    for text, prompt in zip(got, TEXTS, strict=True):
        tokens = transformers_greedy(target, tokenizer.encode(prompt), 12)
        assert text == tokenizer.decode(tokens)
    assert run_of(tmp_path / "run")["states"] == states
    # A pass over a text is no standard for a model whose single steps compute something else.
    checked = [record.plain_pass_differing for record in records_of(tmp_path / "run").values()]
    assert set(checked) <= ({None} if target_kind == "zamba2" else {None, 0})
    assert any(found is not None for found in checked) == (target_kind != "zamba2")
    notes = [note for note in build_summary([tmp_path / "run"]).notes if "recurrent states" in note]
    assert len(notes) == bool(states)
    for role in states:
        assert f"the {role}'s" in notes[0]
    if "target" in states:
        assert "textbook_speedup" in notes[0]
