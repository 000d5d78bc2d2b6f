"""Runs with models that keep recurrent states: the texts, and what records and report say."""

import pytest

from lm_eval_specfair.conformance.tiny_models import VOCAB_SIZE, byte_tokenizer, disturbed, llama
from lm_eval_specfair.decoding.states.row_states import RowStates
from lm_eval_specfair.reporting.report.build_report import build_summary

from support.decoding_runs import transformers_greedy
from support.evaluations import answers, generation, records_of, run_of, save_pair, specfair
from support.recurrent_families import recurrent
from support.vocabularies import ENGLISH, MIXED, byte_level_bpe, metaspace_bpe

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


@pytest.mark.parametrize(("kind", "method"), [("lfm2", "text"), ("mamba", "intersection")])
def test_a_drafter_with_states_and_another_tokenizer_drafts_what_it_drafts_without_kept_states(
    tmp_path, monkeypatch, kind, method
):
    tokenizers = byte_level_bpe(ENGLISH, 380), metaspace_bpe(MIXED, 430)
    target, drafter = llama(7, vocab_size=380), recurrent(kind, vocab_size=430)
    folder = save_pair(tmp_path / "pair", target, drafter, tokenizers)
    asked = [generation(text, n, until=[], max_gen_toks=12) for n, text in enumerate(TEXTS)]
    texts, counts = {}, {}
    for name in ("kept", "read anew"):
        if name == "read anew":
            monkeypatch.setattr(RowStates, "roll_back", lambda self, row, length: self.drop(row))
        run = tmp_path / name
        given = {"drafter_vocabulary": method, "batch_size": 3}
        texts[name] = answers(specfair(folder, run, **given), asked)
        counts[name] = {
            request: (record.drafted_per_step, record.accepted_per_step, record.overlap_sum)
            for request, record in records_of(run).items()
        }
    assert texts["kept"] == texts["read anew"]
    assert sum(sum(drafted) for drafted, *_ in counts["kept"].values()) > 5
    for request, (drafted, accepted, overlap) in counts["kept"].items():
        assert (drafted, accepted) == counts["read anew"][request][:2]
        # What the target gives to the drafted tokens, or to all of q: other drafts show here.
        if any(drafted):
            assert overlap == pytest.approx(counts["read anew"][request][2], rel=1e-3)
