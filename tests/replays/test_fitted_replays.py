"""Fitted drafters and lookups that go first: replayed step for step, or in law if texts are drawn.

python -m pytest tests/replays/test_fitted_replays.py
"""

import functools

import numpy as np
import pytest
from scipy import stats

from lm_eval_specfair.conformance.tiny_models import disturbed
from lm_eval_specfair.decoding.composed.named_drafters import DrafterName
from lm_eval_specfair.decoding.fitted.suffix_lookup import SuffixLookup, TextStore
from lm_eval_specfair.replays.drafters.replayed_drafter import ReplayedModel
from lm_eval_specfair.replays.drafters.replayed_proposals import ReplayedProposals
from lm_eval_specfair.replays.drafters.replayed_trusted import ReplayedTrusted, _TrustedWalk
from lm_eval_specfair.replays.known_text import KnownText
from lm_eval_specfair.replays.passes.one_pass import OnePass
from lm_eval_specfair.replays.replaying import replay_texts

from support.decoding_runs import CPU, decode, model_drafter, request
from support.fitted_drafters import ngram_drafter, trusted_first

VOCAB = 260
SAMPLING = {"temperature": 0.8, "top_k": 6, "top_p": 0.99}


@pytest.fixture(scope="module")
def near(target):
    return disturbed(target, 0.02)


@pytest.fixture(scope="module")
def learnt(target):
    """Some of the target's texts."""
    asked = [request([5 + n, 6, 7 + n], 30) for n in range(12)]
    return [each.request.prompt + each.token_ids for each in decode(target, _nothing(), asked)]


def _nothing():
    return DrafterName(other="none").made(None, vocab_size=VOCAB, device=CPU)


@pytest.fixture(scope="module")
def drafters(learnt, near):
    """By name: what decodes, and what replays."""
    store = TextStore(learnt)
    of_all = {
        "n-gram": lambda: ngram_drafter(learnt, VOCAB),
        "suffix lookup": lambda: SuffixLookup(CPU),
        "store": lambda: SuffixLookup(CPU, store, least=2),
        "lookup before n-grams": lambda: trusted_first(ngram_drafter(learnt, VOCAB), VOCAB),
    }
    found = {name: (make, ReplayedProposals(make)) for name, make in of_all.items()}
    lookup = functools.partial(SuffixLookup, CPU, store, least=3)
    found["lookup first"] = (
        lambda: trusted_first(model_drafter(near, VOCAB), VOCAB, least=3, store=store),
        ReplayedTrusted(lookup, ReplayedModel(OnePass(near), vocab_size=VOCAB)),
    )
    return found


NAMES = ["n-gram", "suffix lookup", "store", "lookup before n-grams", "lookup first"]


def replayed(done, drafter, length, target, seed=1, **sampling):
    texts = [
        KnownText(
            request_id=each.request.request_id,
            task="toy",
            doc_id=0,
            prompt=each.request.prompt,
            response=each.token_ids,
            text="",
            max_new_tokens=each.request.stopping.max_new_tokens,
            **sampling,
        )
        for each in done
    ]
    found = replay_texts(texts, {"one": drafter}, [length], target=OnePass(target), seed=seed)
    return {each.text.request_id: each.counters for each in found}


def requests():
    asked = [request([5 + n, 6, 7 + n] * (1 + n % 3), 3 + 4 * n, name=f"{n}") for n in range(9)]
    asked += [request([9, 8, 7 + n], 80, name=f"long {n}") for n in range(3)]
    ends = frozenset(range(0, 256, 24))
    return [*asked, request([3, 1, 4, 1], 40, name="ends", eos_token_ids=ends)]


@pytest.mark.parametrize("length", [1, 3, 6])
@pytest.mark.parametrize("name", NAMES)
def test_greedy_steps_and_sums_are_those_of_decoding(target, drafters, name, length):
    make, again = drafters[name]
    done = decode(target, make(), requests(), batch_size=4, num_speculative_tokens=length)
    found = replayed(done, again, length, target)

    assert sum(sum(each.counters.accepted_per_step) for each in done) > 10
    for each in done:
        one, other = found[each.request.request_id], each.counters
        assert one.drafted_per_step == other.drafted_per_step
        assert one.accepted_per_step == other.accepted_per_step
        assert one.num_examined == other.num_examined == one.num_positions
        assert one.num_infinite == other.num_infinite
        assert one.overlap_sum == pytest.approx(other.overlap_sum, rel=1e-4, abs=1e-4)
        assert one.kl_sum == pytest.approx(other.kl_sum, rel=1e-4, abs=1e-4)
        assert [x[:1] for x in one.discarded_per_step] == [
            tokens[:1] if tokens and one_is_rejected else []
            for tokens, one_is_rejected in zip(
                other.discarded_per_step, rejecting(one, each), strict=True
            )
        ]


def rejecting(counters, completion):
    """Of each step, whether something that was drafted is known to have been thrown away."""
    return [bool(thrown) for thrown in counters.discarded_per_step]


def test_a_lookup_and_a_model_both_draft_in_one_text(target, drafters):
    make, _ = drafters["lookup first"]
    done = decode(target, make(), requests(), num_speculative_tokens=3)
    infinite = sum(each.counters.num_infinite for each in done)
    assert 0 < infinite < sum(each.counters.num_positions for each in done)


@pytest.mark.parametrize("name", ["n-gram", "lookup first", "lookup before n-grams"])
def test_sampled_steps_have_the_law_of_decoding(target, drafters, name):
    make, again = drafters[name]
    asked = [request([3, 1, 4, 3, 1, 4, 3], 12, name=f"{n}") for n in range(200)]
    done = decode(target, make(), asked, batch_size=64, num_speculative_tokens=3, **SAMPLING)
    found = replayed(done, again, 3, target, **SAMPLING)
    both = [list(found.values()), [each.counters for each in done]]
    histograms = [np.sum([each.histogram(3) for each in some], 0) for some in both]
    steps = np.array([[none, sum(some)] for none, *some in histograms])  # by whether any was kept
    assert steps.min() > 30
    assert stats.chi2_contingency(steps).pvalue > 0.01
    drafted = [sum(sum(each.drafted_per_step) for each in some) for some in both]
    assert drafted[0] == pytest.approx(drafted[1], rel=0.05)
    kept = [sum(sum(each.accepted_per_step) for each in some) for some in both]
    assert kept[0] == pytest.approx(kept[1], rel=0.25)


def test_a_model_asked_at_the_place_before_fails_these_tests(monkeypatch, target, drafters):
    init = _TrustedWalk.__init__

    def careless(self, make, text, length, begin, model, max_length):
        init(self, make, text, length, max(0, begin - 1), model, max_length)

    monkeypatch.setattr(_TrustedWalk, "__init__", careless)
    with pytest.raises((AssertionError, IndexError)):
        test_greedy_steps_and_sums_are_those_of_decoding(target, drafters, "lookup first", 3)
