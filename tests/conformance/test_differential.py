"""Our counts against transformers' assisted generation, its candidate generator watched.

Conventions. Both count a step for each pass of the target that emits tokens, the first included,
and cap the last draft by what can still be kept. They differ in two: where an accepted draft is
the EOS that ends the text, transformers counts it as the bonus token, so one accepted draft fewer;
and its drafter stops at its own EOS, so it drafts less there.
"""

from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM

from lm_eval_specfair.conformance import tiny_models as models
from lm_eval_specfair.conformance.adapter import PROMPT_LOOKUP, Ask, AskSettings
from lm_eval_specfair.conformance.backends.assisted import AssistedBackend
from lm_eval_specfair.conformance.backends.specfair import SpecfairBackend
from lm_eval_specfair.conformance.checks.common import asks, known_text, script
from lm_eval_specfair.conformance.reference import random_prompts


def both(drafter, requests, length, target=None):
    settings = AskSettings(num_speculative_tokens=length, batch_size=4)
    return [
        backend.decode(target or models.target(), drafter, requests, settings)
        for backend in (SpecfairBackend(), AssistedBackend())
    ]


@pytest.mark.parametrize("length", [1, 4])
def test_greedy_texts_and_counts_are_those_of_assisted_generation(length):
    prompts = [tuple(p) for p in random_prompts(5, longest=12, vocab_size=260, seed=30)]
    requests = asks(prompts, [1, 2, 17, 16, 9])
    kept = drafted = 0
    for ours, theirs in zip(*both(models.near_drafter(), requests, length), strict=True):
        assert ours.token_ids == theirs.token_ids
        assert ours.counts.drafted == theirs.counts.drafted
        assert ours.counts.accepted == theirs.counts.accepted
        kept += sum(ours.counts.accepted)
        drafted += sum(ours.counts.drafted)
    assert 0 < kept < drafted


def test_an_accepted_eos_counts_as_the_bonus_token_there_and_as_a_draft_here():
    prompt, answer = known_text(models.target(), 12)
    drafts = script(models.target(), [prompt], 12)
    requests = [
        Ask(name=f"e{end}", prompt=prompt, max_new_tokens=12, eos_token_ids=(answer[end],))
        for end in range(12)
    ]
    for end, (ours, theirs) in enumerate(zip(*both(drafts, requests, 4), strict=True)):
        assert ours.token_ids == theirs.token_ids == list(answer[: end + 1])
        assert ours.counts.accepted[:-1] == theirs.counts.accepted[:-1]
        # Steps are tokens 0-3 and 4, 5-8 and 9, 10 and 11: was the end a draft or what follows?
        was_draft = end not in (4, 9, 11)
        assert ours.counts.accepted[-1] == theirs.counts.accepted[-1] + was_draft


def test_texts_of_prompt_lookup_are_those_of_assisted_generation():
    prompts = [tuple(p) * 3 for p in random_prompts(4, longest=5, vocab_size=260, seed=31)]
    for ours, theirs in zip(*both(PROMPT_LOOKUP, asks(prompts, 14), 3), strict=True):
        assert ours.token_ids == theirs.token_ids


# economize still uses the name that transformers 5.24 replaces.
@pytest.mark.filterwarnings("ignore:.past_key_values. is deprecated:FutureWarning")
def test_kl_and_total_variation_are_those_of_economize(pair_folder, monkeypatch):
    pytest.importorskip("economize")
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "experiments" / "verification"))
    from oracles import against_economize

    target, drafter = (
        AutoModelForCausalLM.from_pretrained(pair_folder / name).eval()
        for name in ("target", "drafter")
    )
    prompts = random_prompts(6, longest=12, vocab_size=260, seed=32)

    found = against_economize(target, drafter, pair_folder / "drafter", prompts)

    assert found["equal_texts"] == found["texts"] == 6
    assert 0 < found["equal_steps"] == found["steps"] < found["positions"]
    assert found["kl_sum"] > 0.1
    assert found["kl_theirs_sum"] == pytest.approx(found["kl_sum"], rel=1e-4)
    assert found["tv_theirs_sum"] == pytest.approx(found["tv_sum"], rel=1e-4)
    assert found["largest_difference_of_a_texts_kl"] < 1e-3
    assert found["largest_difference_of_a_texts_tv"] < 1e-3
