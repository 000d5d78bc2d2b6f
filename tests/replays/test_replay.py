"""Replay: a drafter's steps on finished texts equal those of decoding the same requests with it.

python -m pytest tests/replays
"""

import itertools
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from lm_eval_specfair.conformance.tiny_models import byte_tokenizer, disturbed, llama
from lm_eval_specfair.decoding.drafters import PromptLookup
from lm_eval_specfair.metrics.draft_length import recount
from lm_eval_specfair.replays.drafters import replayed_drafter
from lm_eval_specfair.replays.drafters.replayed_drafter import ReplayedModel
from lm_eval_specfair.replays.drafters.replayed_proposals import ReplayedProposals
from lm_eval_specfair.replays.known_text import KnownText
from lm_eval_specfair.replays.passes.one_pass import OnePass
from lm_eval_specfair.replays.replaying import replay_texts
from lm_eval_specfair.steps import agreeing_by_marks, expected_counts, steps_of

from support.architectures import VOCAB, build
from support.decoding_runs import (
    CPU,
    decode,
    model_drafter,
    random_prompts,
    request,
    transformers_greedy,
)
from support.draft_lengths import decoded

EOS = 7


def known(completion, config=None):
    """A decoded request as a text that is known."""
    asked, config = completion.request, config or {}
    return KnownText(
        request_id=asked.request_id,
        task="toy",
        doc_id=0,
        prompt=asked.prompt,
        response=completion.token_ids,
        text="",
        finish_reason=completion.finish_reason,
        max_new_tokens=asked.stopping.max_new_tokens,
        **config,
    )


def lookup():
    return ReplayedProposals(lambda: PromptLookup(CPU))


def counts(counters):
    return (counters.drafted_per_step, counters.accepted_per_step, counters.num_examined)


def sums(counters):
    return (
        counters.overlap_sum,
        counters.kl_sum,
        counters.cross_entropy_sum,
        counters.target_entropy_sum,
        counters.num_positions,
    )


def replayed(texts, drafter, length, target=None, seed=0):
    found = replay_texts(
        texts,
        {"drafter": drafter},
        [length],
        target=None if target is None else OnePass(target),
        seed=seed,
    )
    return {each.text.request_id: each for each in found}


# ------------------------------------------------------------------ the rule of a step

marks = st.lists(st.booleans(), min_size=1, max_size=30)


@given(marks, st.integers(1, 6), st.booleans())
def test_known_marks_give_the_steps_of_an_engine(would_keep, length, limited):
    limit = len(would_keep) if limited else None
    steps = steps_of(
        len(would_keep),
        agreeing_by_marks(would_keep),
        num_speculative_tokens=length,
        max_new_tokens=limit,
    )
    accepted, drafted = decoded(would_keep, length, limited=limited)

    assert steps.drafted == drafted
    assert steps.accepted == accepted
    assert len(set(steps.examined_places)) == len(steps.examined_places)
    assert all(0 <= place < len(would_keep) for place in steps.examined_places)


@given(marks, st.integers(1, 6), st.booleans())
def test_reading_a_record_with_another_length_follows_the_same_rule(would_keep, length, limited):
    text = recount.Marks(
        tokens=np.array(would_keep, dtype=np.int8),
        reached_limit=limited,
    )
    steps = steps_of(
        len(would_keep),
        agreeing_by_marks(would_keep),
        num_speculative_tokens=length,
        max_new_tokens=len(would_keep) if limited else None,
    )
    one = recount.replay([text], length, np.array([0.5]))

    assert one.steps[0] == len(steps.drafted)
    assert one.drafted[0] == sum(steps.drafted)


known_or_not = st.lists(
    st.sampled_from([recount.KEPT, recount.REPLACED, recount.UNKNOWN]), min_size=1, max_size=30
)


@given(known_or_not, st.integers(1, 6), st.booleans(), st.floats(0, 1))
def test_chances_of_tokens_that_nobody_drafted_follow_the_same_rule(tokens, length, limited, rate):
    text = recount.Marks(tokens=np.array(tokens, dtype=np.int8), reached_limit=limited)
    expected = expected_counts(
        [rate if token == recount.UNKNOWN else float(token) for token in tokens],
        num_speculative_tokens=length,
        max_new_tokens=len(tokens) if limited else None,
    )
    one = recount.replay([text], length, np.array([rate]))

    assert (one.steps[0], one.drafted[0]) == pytest.approx(expected[:2])


def test_a_drafter_that_ends_before_the_text_drafts_no_further():
    steps = steps_of(
        10,
        agreeing_by_marks([True] * 10),
        num_speculative_tokens=4,
        max_new_tokens=None,
        num_prompt_tokens=3,
        max_length=8,
    )

    assert steps.drafted == [4, 0, 0, 0, 0, 0]


# ------------------------------------------------------------------ greedy texts


@pytest.fixture(scope="module")
def pair(target):
    return target, disturbed(target, 0.02)


@pytest.fixture(scope="module")
def requests():
    decode_bytes = byte_tokenizer().decode
    stops = (
        {"max_new_tokens": 24},
        {"max_new_tokens": 1},
        {"max_new_tokens": 2},
        {"max_new_tokens": 40, "eos_token_ids": frozenset(range(EOS, 256, 24))},
        {"max_new_tokens": 40, "stop_strings": tuple("aeiouBCDXYZ0123"), "decode": decode_bytes},
        {"max_new_tokens": 95},
    )
    prompts = random_prompts(24, longest=30, vocab_size=256, seed=3)
    return [
        request(prompt, name=f"{number}", **stops[number % len(stops)])
        for number, prompt in enumerate(prompts)
    ]


@pytest.mark.parametrize("length", [1, 2, 4, 7])
def test_a_models_steps_and_sums_are_those_of_decoding(pair, requests, length):
    target, drafter = pair
    config = {"num_speculative_tokens": length}
    done = decode(target, model_drafter(drafter, 260), requests, batch_size=5, **config)
    again = replayed(
        [known(each) for each in done],
        ReplayedModel(OnePass(drafter), vocab_size=260),
        length,
        target,
    )

    assert {each.finish_reason for each in done} == {"length", "eos", "stop"}
    assert sum(sum(each.counters.accepted_per_step) for each in done) > 20
    for each in done:
        one = again[each.request.request_id]
        assert counts(one.counters) == counts(each.counters)
        assert sums(one.counters) == pytest.approx(sums(each.counters), rel=1e-4, abs=1e-4)
        assert one.counters.overlaps == pytest.approx(each.counters.overlaps, abs=1e-4)
        assert one.departure is None
        # One pass tells what was rejected, not what would have followed it.
        assert one.counters.discarded_per_step == first_ones(each)


@pytest.mark.parametrize("length", [2, 5])
def test_prompt_lookups_steps_are_those_of_decoding(pair, length):
    target, _ = pair
    repeating = [[1 + n, 2, 3, 4, 2, 3] * 3 for n in range(8)]
    asked = [request(p, 40, name=f"{n}") for n, p in enumerate(repeating)]
    done = decode(target, PromptLookup(CPU), asked, num_speculative_tokens=length)
    texts = [known(each) for each in done]
    again = replayed(texts, lookup(), length, target)

    assert sum(sum(each.counters.accepted_per_step) for each in done) > 0
    for each in done:
        one = again[each.request.request_id].counters
        assert counts(one) == counts(each.counters)
        assert one.overlap_sum == pytest.approx(each.counters.overlap_sum, abs=1e-4)
        assert one.num_infinite == each.counters.num_infinite
        assert one.discarded_per_step == each.counters.discarded_per_step
        for place, drafted in drafts_of(each):
            history = [*each.request.prompt, *each.token_ids[:place]]
            assert drafted == looked_up(history)[: len(drafted)]


def first_ones(completion):
    """What was rejected in each step, without what was behind it or behind the text's end."""
    place, found = 0, []
    counters = completion.counters
    for accepted, rejected in zip(
        counters.accepted_per_step, counters.discarded_per_step, strict=True
    ):
        place += accepted + 1
        found.append(rejected[:1] if place <= len(completion.token_ids) else [])
    return found


def drafts_of(completion):
    """Each step's place in the text, and all that was drafted there: kept and thrown away."""
    place, counters = 0, completion.counters
    steps = zip(
        counters.accepted_per_step,
        counters.drafted_per_step,
        counters.discarded_per_step,
        strict=True,
    )
    for accepted, drafted, rejected in steps:
        assert accepted + len(rejected) == drafted
        yield place, completion.token_ids[place : place + accepted] + rejected
        place += accepted + 1


def looked_up(history):
    """Prompt lookup by its definition: what followed the last tokens where they were before."""
    for size in range(3, 0, -1):
        for end in range(len(history) - 1, size - 1, -1):
            if history[end - size : end] == history[-size:]:
                return history[end:]
    return []


def test_the_tokens_on_record_are_those_that_the_drafter_would_have_gone_on_with(pair, requests):
    target, drafter = pair
    unlike = decode(target, model_drafter(drafter, 260), requests, batch_size=5)
    # Its own drafter is always right, so that most texts end among its drafts.
    alike = decode(target, model_drafter(target, 260), requests, batch_size=5)

    for each, model in [*((done, drafter) for done in unlike), *((done, target) for done in alike)]:
        for place, drafted in drafts_of(each):
            if drafted:
                history = [*each.request.prompt, *each.token_ids[:place]]
                assert drafted == transformers_greedy(model, history, len(drafted))
    assert sum(len(step) > 1 for each in unlike for step in each.counters.discarded_per_step) > 20
    assert sum(bool(each.counters.discarded_per_step[-1]) for each in alike) > 1


def test_several_draft_lengths_of_one_reading_do_not_touch_each_other(pair, requests):
    target, drafter = pair
    texts = [known(each) for each in decode(target, model_drafter(drafter, 260), requests)]
    readers = {
        "model": ReplayedModel(OnePass(drafter), vocab_size=260),
        "lookup": lookup(),
    }
    together = {
        (each.drafter, each.num_speculative_tokens, each.text.request_id): counts(each.counters)
        for each in replay_texts(texts, readers, [5, 2, 3])
    }

    assert len(together) == 6 * len(texts)
    for name, reader in readers.items():
        for length in (5, 2, 3):
            for request_id, one in replayed(texts, reader, length).items():
                assert together[name, length, request_id] == counts(one.counters)


def test_a_drafter_with_a_shorter_context_stops_drafting_where_the_engine_does(target):
    short = llama(0, max_position_embeddings=32)
    asked = [
        request(p, 30, name=f"{n}")
        for n, p in enumerate(random_prompts(6, longest=28, vocab_size=256, seed=1))
    ]
    asked.append(request(list(range(1, 50)), 8, name="longer than the drafter reads"))
    done = decode(target, model_drafter(short, 260), asked)
    again = replayed(
        [known(each) for each in done], ReplayedModel(OnePass(short), vocab_size=260), 4
    )

    for each in done:
        assert counts(again[each.request.request_id].counters) == counts(each.counters)


# ------------------------------------------------------------------ texts that are not the target's


def test_a_text_that_is_not_the_targets_is_named_with_its_place(pair):
    target, drafter = pair
    (done,) = decode(target, model_drafter(drafter, 260), [request([5, 6, 7], 20, name="x")])
    tampered = [*done.token_ids]
    tampered[11] = (tampered[11] + 1) % 260
    text = KnownText(**{**_fields(known(done)), "response": tampered})
    one = replayed([text], ReplayedModel(OnePass(drafter), vocab_size=260), 4, target)["x"]

    assert one.departure.place == 11
    assert one.departure.below > 0


def _fields(text):
    return {name: getattr(text, name) for name in KnownText.__slots__}


# ------------------------------------------------------------------ sampled texts

SAMPLING = {"temperature": 1.0, "top_k": 40, "top_p": 0.95}


@pytest.fixture(scope="module")
def sampled(pair):
    target, drafter = pair
    asked = [request([3, 1, 4, 1, 5], 12, name=f"{n}") for n in range(600)]
    config = {"num_speculative_tokens": 3, **SAMPLING}
    return decode(target, model_drafter(drafter, 260), asked, batch_size=64, **config)


def steps_by_accepted(all_counters):
    return sum(np.array(each.histogram(3)) for each in all_counters)


def p_value(ours, theirs):
    return stats.chi2_contingency(np.stack([ours, theirs])).pvalue


def test_sampled_texts_have_the_law_of_decoding(pair, sampled):
    target, drafter = pair
    texts = [known(each, SAMPLING) for each in sampled]
    reader = ReplayedModel(OnePass(drafter), vocab_size=260)
    again = replayed(texts, reader, 3, target, seed=1)

    ours = steps_by_accepted(each.counters for each in again.values())
    theirs = steps_by_accepted(each.counters for each in sampled)
    assert p_value(ours, theirs) > 0.01
    assert all(each.departure is None for each in again.values())


def first_rejected(all_counters):
    """Of steps that kept nothing at the very beginning, what was rejected."""
    return [each.discarded_per_step[0][0] for each in all_counters if not each.accepted_per_step[0]]


def frequencies(found, ids):
    """How often each of these ids is there, then all others together."""
    return np.array([*map(found.count, ids), sum(each not in ids for each in found)])


def examined(counters, num_tokens: int) -> list[int]:
    """Places that steps examined, by what each drafted and kept."""
    places, start = [], 0
    for kept, drafted in zip(counters.accepted_per_step, counters.drafted_per_step, strict=True):
        places += range(start, min(start + min(kept + 1, drafted), num_tokens))
        start += kept + 1
    return places


def test_divergences_before_the_cut_are_those_of_the_plain_distributions(pair, sampled):
    target, drafter = pair
    temperature = 0.7
    settings = {"temperature": temperature, "top_k": 40, "top_p": 0.95}
    texts = [known(each, settings) for each in sampled[:40]]
    again = replayed(texts, ReplayedModel(OnePass(drafter), vocab_size=260), 3, target, seed=1)
    for text in texts:
        counters = again[text.request_id].counters
        ids = torch.tensor([[*text.prompt, *text.response]])
        with torch.inference_mode():
            p, q = (
                (
                    model(ids).logits[0, len(text.prompt) - 1 : -1].double() / temperature
                ).log_softmax(-1)
                for model in (target, drafter)
            )
        places = examined(counters, len(text.response))
        cross_entropy = -(p.exp() * q).sum(-1)[places]
        kl = (p.exp() * (p - q)).sum(-1)[places]
        assert counters.untruncated_cross_entropy_sum == pytest.approx(
            float(cross_entropy.sum()), rel=1e-4
        )
        assert counters.untruncated_kl_sum == pytest.approx(float(kl.sum()), rel=1e-3, abs=1e-5)
    assert any(each.counters.num_infinite for each in again.values())  # by the cut
    uncut = [known(each, {"temperature": temperature}) for each in sampled[:3]]
    again = replayed(uncut, ReplayedModel(OnePass(drafter), vocab_size=260), 3, target, seed=1)
    assert {each.counters.untruncated_kl_sum for each in again.values()} == {None}


def test_what_was_rejected_of_a_sampled_text_has_the_law_of_decoding(pair, sampled):
    target, drafter = pair
    texts = [known(each, SAMPLING) for each in sampled]
    reader = ReplayedModel(OnePass(drafter), vocab_size=260)
    again = replayed(texts, reader, 3, target, seed=1).values()
    ours = first_rejected([each.counters for each in again])
    theirs = first_rejected([each.counters for each in sampled])
    ids = [token for token, _ in Counter(theirs).most_common(8)]

    assert p_value(frequencies(ours, ids), frequencies(theirs, ids)) > 0.01


def test_tempered_drafters_are_replayed_as_they_draft(pair):
    target, drafter = pair
    asked = [request([3, 1, 4, 1, 5], 12, name=f"{n}") for n in range(600)]
    config = {"num_speculative_tokens": 3, **SAMPLING}
    for temperature in (0.0, 0.4):
        own = {"drafter_temperature": temperature}
        reader = ReplayedModel(OnePass(drafter), vocab_size=260)
        done = decode(target, model_drafter(drafter, 260), asked, batch_size=64, **config, **own)
        again = replayed([known(each, SAMPLING | own) for each in done], reader, 3, target, seed=1)
        if temperature:
            ours, theirs = (
                steps_by_accepted(each.counters for each in all_of)
                for all_of in (again.values(), done)
            )
            assert p_value(ours, theirs) > 0.01
            unlike = replayed([known(each, SAMPLING) for each in done], reader, 3, target, seed=1)
            without = steps_by_accepted(each.counters for each in unlike.values())
            assert p_value(without, theirs) < 1e-4
            continue
        for each in done:  # nothing is drawn: each step is the same
            one = again[each.request.request_id].counters
            assert counts(one) == counts(each.counters)
            assert one.overlap_sum == pytest.approx(each.counters.overlap_sum, abs=1e-4)
            assert one.discarded_per_step == first_ones(each)


def test_a_wrong_rule_for_sampled_texts_would_be_seen(pair, sampled, monkeypatch):
    # Kept wherever the drafter finds the token likelier than a coin: p is forgotten.
    def wrong(scores, positions):
        q = scores.gather(1, positions.tokens[:, None])[:, 0].exp()
        return positions.tokens, positions.uniforms[0] < q, q

    monkeypatch.setattr(replayed_drafter.ReplayedModel, "drafted", staticmethod(wrong))
    target, drafter = pair
    texts = [known(each, SAMPLING) for each in sampled]
    again = replayed(texts, ReplayedModel(OnePass(drafter), vocab_size=260), 3, target, seed=1)

    ours = steps_by_accepted(each.counters for each in again.values())
    assert p_value(ours, steps_by_accepted(each.counters for each in sampled)) < 1e-6


# ------------------------------------------------------------------ any architecture

RECURRENT_AND_WINDOWED = {
    "mamba": {"hidden_size": 32, "num_hidden_layers": 2, "initializer_range": 0.3},
    "mistral": {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "sliding_window": 5,
        "initializer_range": 0.3,
    },
}


@pytest.mark.parametrize("kind", RECURRENT_AND_WINDOWED)
def test_drafters_that_cannot_be_rolled_back_are_replayed(kind):
    drafter = build(kind, RECURRENT_AND_WINDOWED[kind])
    generator = np.random.default_rng(0)
    texts = [
        KnownText(
            request_id=f"{n}",
            task="toy",
            doc_id=n,
            prompt=generator.integers(VOCAB, size=3 + n).tolist(),
            response=generator.integers(VOCAB, size=20).tolist(),
            text="",
        )
        for n in range(4)
    ]
    # Half of the tokens are the drafter's own choice, each found by a pass over its prefix alone.
    for text in texts:
        for place in range(0, 20, 2):
            text.response[place] = best(drafter, [*text.prompt, *text.response[:place]])
    again = replayed(texts, ReplayedModel(OnePass(drafter), vocab_size=None), 3)

    for text in texts:
        right = [
            best(drafter, [*text.prompt, *text.response[:place]]) == token
            for place, token in enumerate(text.response)
        ]
        assert sum(right) >= 10
        expected = decoded(right, 3, limited=False)
        one = again[text.request_id].counters
        assert (one.accepted_per_step, one.drafted_per_step) == expected


@torch.inference_mode()
def best(model, tokens):
    return int(model(torch.tensor([tokens])).logits[0, -1].argmax())


# ------------------------------------------------------------------ expected values


def enumerated(chances, length, limit):
    """Means over all ways in which tokens may be kept, each with its probability."""
    totals = np.zeros(3)
    for kept in itertools.product((True, False), repeat=len(chances)):
        weight = np.prod([c if one else 1 - c for c, one in zip(chances, kept, strict=True)])
        steps = steps_of(
            len(chances),
            agreeing_by_marks(kept),
            num_speculative_tokens=length,
            max_new_tokens=limit,
        )
        totals += weight * np.array([len(steps.drafted), sum(steps.drafted), sum(steps.accepted)])
    return totals


@pytest.mark.parametrize("length", [1, 2, 4])
@pytest.mark.parametrize("limit", [None, 7])
def test_expected_counts_are_those_of_enumeration(length, limit):
    chances = [0.3, 0.9, 0.5, 1.0, 0.0, 0.7, 0.2]
    found = expected_counts(chances, num_speculative_tokens=length, max_new_tokens=limit)

    assert found == pytest.approx(enumerated(chances, length, limit))


def test_draws_scatter_around_their_expected_values(pair, sampled):
    target, drafter = pair
    texts = [known(each, SAMPLING) for each in sampled]
    again = replayed(texts, ReplayedModel(OnePass(drafter), vocab_size=260), 3, target, seed=2)
    expected = np.array([each.expected for each in again.values()])
    drawn = np.array(
        [
            (c.num_steps, sum(c.drafted_per_step), sum(c.accepted_per_step))
            for c in (each.counters for each in again.values())
        ]
    )
    errors = (drawn - expected).std(0) / np.sqrt(len(drawn))

    assert (errors > 0).all()
    assert np.abs(drawn - expected).mean() > 0.1
    assert (np.abs((drawn - expected).mean(0)) < 4 * errors).all()
