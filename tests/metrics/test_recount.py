"""Reading a text again with drafts of another length: against decoding it with that length."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lm_eval_specfair.metrics.draft_length.recount import (
    KEPT,
    MIN_EXAMINED,
    REPLACED,
    UNKNOWN,
    Marks,
    chance_of_unknown,
    marks_of,
    position_counts,
    replay,
)

from support.draft_lengths import decoded, record_of
from support.synthetic_records import generation

SOME = np.random.default_rng(0)


def replayed(record, length, unknown=0.5):
    marks = marks_of(record, SOME)
    one = replay([marks], length, np.array([unknown]))
    return float(one.steps[0]), float(one.drafted[0])


texts = st.lists(st.booleans(), min_size=1, max_size=30)


@given(texts, st.integers(1, 6), st.booleans())
def test_with_the_runs_own_length_the_replay_is_the_run(would_keep, length, limited):
    record = record_of(would_keep, length, limited=limited)

    expected = (record.num_spec_steps, record.num_draft_tokens)
    assert replayed(record, length) == pytest.approx(expected)


@given(texts, st.integers(0, 6), st.booleans())
def test_where_all_marks_are_known_any_length_is_exact(would_keep, length, limited):
    marks = Marks(tokens=np.array(would_keep, dtype=np.int8), reached_limit=limited)
    accepted, drafted = decoded(would_keep, length, limited=limited)

    one = replay([marks], length, np.array([0.5]))
    assert one.steps[0] == pytest.approx(len(accepted))
    assert one.drafted[0] == pytest.approx(sum(drafted))


@given(st.lists(st.sampled_from([KEPT, REPLACED, UNKNOWN]), min_size=1, max_size=9))
def test_unknown_marks_are_averaged_over_all_they_could_be(tokens):
    places, chance = [i for i, each in enumerate(tokens) if each == UNKNOWN], 0.3
    expected = 0.0
    for values in itertools.product((KEPT, REPLACED), repeat=len(places)):
        filled = list(tokens)
        for place, value in zip(places, values, strict=True):
            filled[place] = value
        weight = chance ** values.count(KEPT) * (1 - chance) ** values.count(REPLACED)
        expected += weight * len(decoded(filled, 3, limited=False)[0])

    marks = Marks(tokens=np.array(tokens, dtype=np.int8), reached_limit=False)
    assert replay([marks], 3, np.array([chance])).steps[0] == pytest.approx(expected)


def test_many_texts_of_different_lengths_are_replayed_as_one_by_one(monkeypatch):
    monkeypatch.setattr("lm_eval_specfair.metrics.draft_length.recount._AT_ONCE", 50)
    texts = [
        Marks(tokens=SOME.integers(-1, 2, n).astype(np.int8), reached_limit=bool(n % 2))
        for n in (7, 1, 30, 12, 7, 0, 19)
    ]
    chances = SOME.uniform(size=len(texts))

    together = replay(texts, 4, chances)
    alone = [replay([each], 4, np.array([c])) for each, c in zip(texts, chances, strict=True)]
    assert together.steps.tolist() == [float(each.steps[0]) for each in alone]
    assert together.drafted.tolist() == [float(each.drafted[0]) for each in alone]


def test_shares_by_position_mislead_where_texts_differ_and_the_replay_does_not():
    # Half of the text always kept, half never. With 4 drafted: 100/5 and 100 steps for 200 tokens.
    easy, hard = record_of([True] * 100, 4, limited=False), record_of([False] * 100, 4)
    counts = position_counts(easy, 4) + position_counts(hard, 4)
    share = counts[1, 0] / counts[0, 0]

    steps = sum(replayed(each, 1, unknown=1.0)[0] for each in (easy, hard))
    assert steps == 50 + 100
    assert 200 / steps == pytest.approx(4 / 3)
    # What the pooled share at position 1 would promise.
    assert 1 + share == pytest.approx(7 / 6, rel=0.002)


def test_a_histogram_alone_gives_the_same_counts_at_the_runs_length():
    record = record_of([bool(i % 3) for i in range(31)], 4, limited=False)
    bare = generation(
        "demo_sw",
        0,
        num_generated_tokens=31,
        num_spec_steps=record.num_spec_steps,
        acceptance_histogram=record.acceptance_histogram,
        finish_reason="eos",
    )

    assert replayed(bare, 4)[0] == pytest.approx(record.num_spec_steps)


def test_a_record_without_steps_has_no_marks():
    assert marks_of(generation("demo_sw", 0, acceptance_histogram=None), SOME) is None
    assert marks_of(generation("demo_sw", 0, num_generated_tokens=None), SOME) is None


@given(texts, st.integers(1, 5), st.booleans())
def test_position_counts_add_up_to_examined_and_accepted(would_keep, length, limited):
    record = record_of(would_keep, length, limited=limited)
    examined, kept = position_counts(record, length)

    # A draft that reaches beyond the end of the text was not looked at there.
    accepted, drafted = record.accepted_per_step, record.drafted_per_step
    rejected = sum(a < d for a, d in zip(accepted, drafted, strict=True))
    cut = sum(a + 1 for a in accepted) > len(would_keep) and accepted[-1] < drafted[-1]
    assert kept.sum() == sum(accepted)
    assert examined.sum() == sum(accepted) + rejected - cut
    assert all(examined[1:] <= kept[:-1])


def test_unknown_tokens_are_taken_for_the_deepest_position_known_well():
    counts = np.array([[100.0, 50, MIN_EXAMINED, MIN_EXAMINED - 1], [50, 20, 3, 9]])

    assert chance_of_unknown(counts) == (2, pytest.approx(0.3))
    assert chance_of_unknown(np.zeros((2, 4))) == (0, 0.0)


def looked_up(text, length, *, limited):
    """Decoding of a text by a lookup that copies what followed the last token's latest place."""
    place, accepted, drafted = 1, [], []
    while place < len(text):
        earlier = [at for at in range(place - 1) if text[at] == text[place - 1]]
        room = len(text) - place - 1 if limited else length
        copied = text[earlier[-1] + 1 : place] if earlier else []
        copied = copied[: min(length, room)]
        kept = 0
        while kept < len(copied) and place + kept < len(text):
            if text[place + kept] != copied[kept]:
                break
            kept += 1
        accepted.append(kept)
        drafted.append(len(copied))
        place += kept + 1
    return accepted, drafted


def looked_up_record(text, length, *, limited):
    accepted, drafted = looked_up(text, length, limited=limited)
    return generation(
        "demo_sw",
        0,
        num_generated_tokens=len(text) - 1,  # the first is the prompt
        num_spec_steps=len(accepted),
        num_draft_tokens=sum(drafted),
        acceptance_histogram=np.bincount(accepted, minlength=length + 1).tolist(),
        accepted_per_step=accepted,
        drafted_per_step=drafted,
        finish_reason="length" if limited else "eos",
    )


few_tokens = st.lists(st.integers(0, 4), min_size=2, max_size=40)


@given(few_tokens, st.integers(1, 6), st.booleans())
def test_a_lookups_own_length_is_the_run_with_the_steps_that_found_nothing(text, length, limited):
    record = looked_up_record(text, length, limited=limited)

    steps, drafted = replayed(record, length)
    assert steps == pytest.approx(record.num_spec_steps)
    short = any(
        each < min(length, room)
        for each, room in zip(record.drafted_per_step, rooms(record), strict=True)
    )
    if short or limited:
        assert drafted == pytest.approx(record.num_draft_tokens)


def rooms(record):
    places = np.cumsum([0, *(each + 1 for each in record.accepted_per_step[:-1])])
    return [record.num_generated_tokens - int(place) - 1 for place in places]


def test_texts_that_a_lookup_finds_nothing_in_are_plain_at_every_length():
    record = looked_up_record(list(range(30)), 4, limited=False)
    for length in range(7):
        assert replayed(record, length, unknown=1.0) == (29, 0)


def test_other_lengths_of_a_lookup_come_out_within_a_few_percent():
    generator = np.random.default_rng(0)
    totals = np.zeros((2, 2))
    for length, row in ((2, 0), (6, 1)):
        for _ in range(60):
            phrases = [generator.integers(0, 60, 8).tolist() for _ in range(3)]
            text = [each for at in generator.integers(0, 3, 8) for each in phrases[at]]
            noisy = [int(generator.integers(60)) if generator.uniform() < 0.1 else t for t in text]
            totals[row] += (
                replayed(looked_up_record(noisy, 4, limited=True), length, unknown=0.8)[0],
                len(looked_up(noisy, length, limited=True)[0]),
            )
    assert totals[:, 0] == pytest.approx(totals[:, 1], rel=0.04)
