"""Where drafts are lost: against a slow count, and records whose truth is known."""

import numpy as np
import pytest

from lm_eval_specfair.groups.task_facts import TaskFacts, facts_of_task
from lm_eval_specfair.metrics.places import costly_tokens
from lm_eval_specfair.metrics.places.costly_tokens import CostlyTokens
from lm_eval_specfair.metrics.places.examined_tokens import NO_TOKEN, examined_tokens
from lm_eval_specfair.metrics.places.place_sums import NUM_BINS, PlaceSums, bins_of
from lm_eval_specfair.metrics.places.position_share import additive_fit, position_share
from lm_eval_specfair.metrics.places.token_classes import classes_of, kind_and_script
from lm_eval_specfair.metrics.places.whereabouts import whereabouts
from lm_eval_specfair.records import Record

from support.placed_records import decoded


def facts_of(records) -> dict[str, TaskFacts]:
    names = {record.task for record in records}
    return {name: facts_of_task({}, name, frozenset(names)) for name in names}


def told(records, classes=None, at_once=50):
    sums = PlaceSums("language")
    for start in range(0, len(records), at_once):
        sums.add(records[start : start + at_once], facts_of(records), classes)
    return whereabouts(sums, 5)


def slowly(records):
    """The same by one loop over steps: (record, place, draft position, kept, token, proposal)."""
    for row, record in enumerate(records):
        place = 0
        steps = zip(
            record.accepted_per_step,
            record.drafted_per_step,
            record.discarded_token_ids,
            strict=True,
        )
        for accepted, drafted, thrown in steps:
            for depth in range(accepted):
                at = place + depth
                yield row, at, depth + 1, True, record.generated_token_ids[at], NO_TOKEN
            at = place + accepted
            if accepted < drafted and at < record.num_generated_tokens:
                token = record.generated_token_ids[at]
                yield row, at, accepted + 1, False, token, thrown[0] if thrown else NO_TOKEN
            place += accepted + 1


@pytest.fixture(scope="module")
def drawn():
    generator = np.random.default_rng(0)
    return [
        decoded(
            language,
            doc,
            lambda place, p=p: p,
            generator,
            length=int(generator.integers(1, 90)),
            by_eos=doc % 2 == 0,
        )
        for language, p in (("sw", 0.3), ("fr", 0.6), ("de", 0.7), ("ar", 0.5))
        for doc in range(30)
    ]


def test_examined_tokens_equal_those_of_a_slow_loop(drawn):
    found = examined_tokens(drawn)

    columns = (found.rows, found.places, found.draft_positions, found.is_kept)
    rest = (found.token_ids, found.rejected_ids)
    assert list(zip(*(each.tolist() for each in (*columns, *rest)), strict=True)) == list(
        slowly(drawn)
    )
    assert found.is_placed.all()


def test_records_that_do_not_add_up_have_no_places(drawn):
    one, two, three = drawn[:3]
    odd = Record(**{**asdict(two), "num_examined_draft_tokens": two.num_examined_draft_tokens + 1})
    bare = Record(**{**asdict(three), "accepted_per_step": None, "drafted_per_step": None})

    found = examined_tokens([odd, one, bare])

    assert found.is_placed.tolist() == [False, True, False]
    assert set(found.rows.tolist()) == {1}
    assert found.rejected_ids[~found.is_kept].min() >= 0
    sums = PlaceSums("language")
    sums.add([odd, one, bare], facts_of(drawn))
    assert sums.num_unplaced == 2


def asdict(record):
    return {name: getattr(record, name) for name in record.__struct_fields__}


def test_tables_equal_slow_counts_however_records_are_cut_into_blocks(drawn):
    classes = classes_of({token: b" a" if token % 2 else b"12" for token in range(100, 110)}, {})
    one, other = told(drawn, classes), told(drawn, classes, at_once=7)

    assert one == other
    rows = list(slowly(drawn))
    language = [record.task.removeprefix("specfair_demo_") for record in drawn]
    for group, found in one.groups.items():
        own = [each for each in rows if language[each[0]] == group]
        for depth, estimate in found.by_draft_position.items():
            there = [each[3] for each in own if each[2] == int(depth)]
            assert (estimate.value, estimate.n) == (pytest.approx(np.mean(there)), len(there))
        for name, low, high in (("1-16", 0, 16), ("17-64", 16, 64), ("65-256", 64, 256)):
            there = [each[3] for each in own if low <= each[1] < high]
            assert found.by_answer_band[name].n == len(there)
            assert found.by_answer_band[name].value == pytest.approx(np.mean(there))
        words = [each[3] for each in own if each[4] % 2]
        assert found.by_kind["word start"].value == pytest.approx(np.mean(words))
        assert found.by_script.keys() == {"Latn"}
        lost = [each for each in own if not each[3]]
        assert found.num_rejections == len(lost)
        first = found.costly[0]
        assert first.num_steps == max(
            sum(each[4] == token for each in lost) for token in range(100, 110)
        )
        assert first.proposal_id == 200 + first.token_id
        assert first.num_proposals == first.num_steps
        assert found.mean_place == pytest.approx(np.mean([each[1] for each in own]))
        assert found.mean_context_place == pytest.approx(found.mean_place + 10)
    assert one.overall.acceptance.n == len(rows)


def late_and_early(chance_of, *, seed=1, documents=60):
    """Four languages, each read at later places than the one before."""
    generator = np.random.default_rng(seed)
    return [
        decoded(
            language,
            doc,
            lambda place, own=number: chance_of(own, place),
            generator,
            length=40 * (number + 1) ** 2,
        )
        for number, language in enumerate(("sw", "fr", "de", "ar"))
        for doc in range(documents)
    ]


def test_what_depends_on_position_alone_is_explained_wholly():
    found = told(late_and_early(lambda _, place: 0.8 - 0.11 * np.log10(1 + place) ** 1.5))

    share = found.by_answer_place.share
    rates = [group.acceptance.value for group in found.groups.values()]
    assert max(rates) - min(rates) > 0.08
    assert share.value == pytest.approx(1, abs=0.1)
    assert share.low <= 1 <= share.high
    equal = [each.value for each in found.by_answer_place.at_equal_positions]
    assert max(equal) - min(equal) < 0.03


def test_what_depends_on_the_group_alone_is_not_explained():
    found = told(late_and_early(lambda own, _: 0.7 - 0.1 * own))

    share = found.by_answer_place.share
    assert share.value == pytest.approx(0, abs=0.05)
    assert share.low <= 0 <= share.high
    for group, equal in zip(
        found.groups.values(), found.by_answer_place.at_equal_positions, strict=True
    ):
        assert equal.value == pytest.approx(group.acceptance.value, abs=0.02)


def test_groups_that_are_equal_have_nothing_to_explain_for_sure():
    share = told(late_and_early(lambda *_: 0.5, documents=20)).by_answer_place.share

    # Nothing beyond noise; or an interval that says nothing.
    assert share is None or share.low is None or share.low <= 0 < 1 <= share.high or share.low <= 0


def test_the_fit_has_the_closed_form_of_two_groups_and_two_bins():
    # Group one is half in each bin, group two wholly in the second: only one has a course.
    kept = np.array([[[80.0, 40.0], [0.0, 30.0]]])
    examined = np.array([[[100.0, 100.0], [0.0, 100.0]]])

    value, course = additive_fit(kept, examined)

    assert value[0] == pytest.approx([0.6, 0.3])
    # The course falls by 0.4 from the first to the second bin; one is read 0.2 above the second.
    assert course[0, 0] - course[0, 1] == pytest.approx(0.2)


def test_the_fit_equals_a_regression_with_a_dummy_for_each_group_and_bin():
    generator = np.random.default_rng(3)
    examined = generator.integers(0, 30, size=(1, 5, 7)).astype(float)
    kept = generator.binomial(examined.astype(int), 0.4).astype(float)
    rows = [(g, b) for g in range(5) for b in range(7) if examined[0, g, b]]
    design = np.zeros((len(rows), 12))
    weights = np.array([examined[0, g, b] for g, b in rows])
    rates = np.array([kept[0, g, b] for g, b in rows]) / weights
    for row, (g, b) in enumerate(rows):
        design[row, g] = design[row, 5 + b] = 1
    root = np.sqrt(weights)
    fitted = np.linalg.lstsq(design * root[:, None], rates * root)[0]
    own = examined[0] / examined[0].sum(1, keepdims=True) @ fitted[5:]

    value, course = additive_fit(kept, examined)

    assert value[0] == pytest.approx(kept[0].sum(1) / examined[0].sum(1))
    assert course[0] - course[0].mean() == pytest.approx(own - own.mean())
    # A group's level and its part of the course are its acceptance.
    assert fitted[:5] + own == pytest.approx(value[0])


def test_two_groups_have_no_spread_to_explain():
    tokens = np.ones((2, 8, 3))

    assert (
        position_share(tokens, tokens, is_parallel=True, generator=np.random.default_rng(0)) is None
    )


def test_bins_are_in_order_and_hold_every_place():
    places = np.arange(5_000)
    bins = bins_of(places)

    assert (np.diff(bins) >= 0).all()
    assert (np.diff(bins) <= 1).all()
    assert bins_of(np.array([2**40])).tolist() == [NUM_BINS - 1]


@pytest.mark.parametrize(
    ("piece", "expected"),
    [
        (" casa", ("word start", "Latn")),
        ("ção", ("inside a word", "Latn")),
        ("日本", ("inside a word", "Hani")),
        ("の", ("inside a word", "Hira")),
        (" или", ("word start", "Cyrl")),
        ("ไทย", ("inside a word", "Thai")),
        ("្រ", ("inside a word", "Khmr")),
        ("٣", ("digits", "")),
        (" 2024", ("digits", "")),
        (").", ("punctuation and signs", "")),
        ("\u200b", ("punctuation and signs", "")),
        ("\n\n", ("white space", "")),
        ("ߊ", ("inside a word", "Zzzz")),
    ],
)
def test_kinds_of_tokens(piece, expected):
    assert kind_and_script(piece.encode()) == expected


def test_memory_for_proposals_is_bounded_and_frequent_ones_stay(monkeypatch):
    monkeypatch.setattr(costly_tokens, "MAX_PAIRS", 50)
    counts, generator = CostlyTokens(), np.random.default_rng(0)
    for _ in range(40):
        rare = generator.integers(1_000, 9_000, size=60)
        tokens = np.concatenate([np.full(30, 7), np.full(60, 8)])
        proposals = np.concatenate([np.full(30, 5), rare])
        counts.add(np.zeros(90, np.int64), tokens, proposals)

    first, second = counts.most(0, 3_600, 2)

    assert (first.token_id, first.num_steps) == (8, 2_400)
    assert (second.token_id, second.num_steps, second.proposal_id) == (7, 1_200, 5)
    assert 1_000 < second.num_proposals <= 1_200
    assert len(counts._pairs) <= 50


def test_an_id_that_no_vocabulary_has_takes_no_memory(drawn):
    found = told(drawn, {10**15: ("digits", ""), 101: ("word start", "Latn")})

    assert found.overall.by_kind.keys() == {"word start", "unknown"}
