"""Verdicts in sentences: never surer than the figures, and the same wherever they are shown."""

import dataclasses
import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lm_eval_specfair.metrics.comparison.change import Change
from lm_eval_specfair.metrics.comparison.gate import Gate, Margins
from lm_eval_specfair.metrics.comparison.verdict import GateVerdict, LimitCheck
from lm_eval_specfair.metrics.disparity import Disparity
from lm_eval_specfair.metrics.statistics.intervals import Estimate
from lm_eval_specfair.records import Settings
from lm_eval_specfair.reporting.claims import Claim, claim, gain, name_of, share
from lm_eval_specfair.reporting.comparison.build_comparison import build_comparison
from lm_eval_specfair.reporting.comparison.compare_headline import comparison_headline
from lm_eval_specfair.reporting.comparison.compare_text import render as render_comparison
from lm_eval_specfair.reporting.comparison.gate_headline import gate_sentence
from lm_eval_specfair.reporting.report.build_report import build_summary, render
from lm_eval_specfair.reporting.report.headline import headline

from support.synthetic_records import LANGUAGES, generation, parallel_run, write_folder

SPEED, LENGTH = "measured_speedup", "mean_acceptance_length"
PAIRED = {"baseline_seconds": 0.9, "baseline_generated_tokens": 30, "baseline_agrees": True}


class Held:
    """Something with a short repr, which hypothesis prints."""

    def __init__(self, content):
        self.content = content


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A real summary of six languages, whose figures tests replace."""
    rates = dict(zip(LANGUAGES, [0.8, 0.7, 0.6, 0.5, 0.4, 0.3], strict=False))
    records = parallel_run(rates, num_documents=8, num_baselines=8)
    return Held(build_summary([write_folder(tmp_path_factory.mktemp("runs") / "run", records)]))


def estimates(at_least, at_most):
    """Figures with intervals around them, on one side of 1 or not, and figures without."""
    numbers = st.floats(at_least, at_most, allow_nan=False)

    def made(three, known):
        low, value, high = sorted(three)
        if not known:
            return Estimate(value=value, n=9)
        return Estimate(value=value, low=low, high=high, n=9)

    return st.builds(made, st.tuples(numbers, numbers, numbers), st.booleans())


def with_figures(summary, speeds, lengths, p_values, overall):
    """The same summary with other figures of its groups."""
    groups = {
        group: {**summary.groups[group], SPEED: speed, LENGTH: length}
        for group, speed, length in zip(summary.groups, speeds, lengths, strict=True)
    }

    def spread(metric):
        known = {group: each[metric].value for group, each in groups.items()}
        return Disparity(
            worst=min(known, key=known.get),
            best=max(known, key=known.get),
            statistics=summary.disparity[metric].statistics,
            deviations=dict(zip(groups, p_values, strict=True)),
        )

    return dataclasses.replace(
        summary,
        groups=groups,
        overall={**summary.overall, SPEED: overall},
        disparity={**summary.disparity, SPEED: spread(SPEED), LENGTH: spread(LENGTH)},
        flags=[],
    )


def six(strategy):
    return st.lists(strategy, min_size=6, max_size=6)


@settings(max_examples=60, deadline=None)
@given(
    speeds=six(estimates(0.05, 4)),
    lengths=six(estimates(1, 5)),
    p_values=six(st.none() | st.floats(0, 1)),
    overall=estimates(0.05, 4),
)
def test_no_sentence_claims_more_than_the_intervals_give(plain, speeds, lengths, p_values, overall):
    plain, number = plain.content, 6
    text = " ".join(headline(with_figures(plain, speeds, lengths, p_values, overall)))

    of = dict(zip((name_of(group, "language") for group in plain.groups), speeds, strict=True))
    for name, what in re.findall(
        r"(\w+) emits [\d.]+(?: tokens a pass)? and ([^;]+?)(?:;|\. |$)", text
    ):
        low, high = of[name].low, of[name].high
        if what.startswith(("gains", "is ")):
            assert low > 1
        elif what.startswith("loses"):
            assert high < 1
        elif what.startswith("may gain or lose"):
            assert low <= 1 <= high
        else:
            assert what.startswith("has too few documents")
            assert low is None
    known = [each for each in speeds if each.low is not None]
    counts = {
        "faster": sum(each.low > 1 for each in known),
        "slower": sum(each.high < 1 for each in known),
    }
    if (found := re.search(r"Each taken by itself, (.*?)\.", text)) is None:
        assert not known
    sides = "" if found is None else found[1]
    for word, right in counts.items():
        if found := re.search(
            rf"(all|none|\d+) (?:of )?(?:\d+ )?(?:languages )?(?:is|are) {word}", sides
        ):
            told = {"all": number, "none": 0}.get(found[1])
            assert (int(found[1]) if told is None else told) == right
        else:
            assert right == 0
    whole = re.search(
        r"Over all requests, decoding with the drafter (.*?) ?(?:\(|as long|,|than)", text
    )[1]
    if re.match(r"is [\w .%]+ (faster|times as fast)", whole) and "neither" not in whole:
        assert overall.low > 1
    elif whole.startswith("is") and "slower" in whole and "neither" not in whole:
        assert overall.high < 1
    elif whole.startswith("is neither"):
        assert overall.low <= 1 <= overall.high
    else:
        assert overall.low is None
    clear = sum(p is not None and p < 0.05 for p in p_values)
    if any(p is not None for p in p_values):
        tests = sum(p is not None for p in p_values)
        assert f"After correction for {tests} tests, {clear or 'no'} language" in text


@given(estimates(0.0, 5))
def test_a_gain_is_said_only_of_an_interval_above_1(speedup):
    text = gain(speedup)

    assert ("gains" in text or "times as fast" in text) == (claim(speedup, 1) is Claim.ABOVE)
    assert ("loses" in text) == (claim(speedup, 1) is Claim.BELOW)
    if speedup.low is not None and speedup.low <= 1 <= speedup.high:
        assert "may gain or lose" in text


@given(st.floats(0, 20))
def test_a_share_that_is_not_nothing_is_not_said_to_be_nothing(value):
    assert (share(value) == "0%") == (value == 0)


def said(tmp_path, records, **options):
    return headline(build_summary([write_folder(tmp_path / "run", records)], **options))


def test_one_group(tmp_path):
    assert said(tmp_path, [generation("specfair_demo_sw", i, **PAIRED) for i in range(6)]) == [
        "Swahili emits 3.0 tokens a pass and gains 50% (50% to 50%).",
        "Over all requests, decoding with the drafter is 50% faster (50% to 50%) than without it.",
    ]


def test_too_few_documents(tmp_path):
    records = [
        generation(f"specfair_demo_{each}", i, **PAIRED) for each in ("sw", "fr") for i in range(5)
    ]

    assert said(tmp_path, records) == [
        "All 2 languages have the same figure as observed: 1.50 times the speed without the "
        "drafter.",
        "Over all requests, decoding with the drafter took 0.67 times as long as without it, on "
        "too few documents to say how sure that is.",
        "Few documents: 2 of 2 languages have fewer than 6, from which no interval can be made.",
    ]


def test_nothing_was_timed(tmp_path):
    records = [
        generation(f"specfair_demo_{each}", i, num_accepted_draft_tokens=kept + i % 2)
        for each, kept in (("sw", 10), ("fr", 20))
        for i in range(8)
    ]

    sentences = said(tmp_path, records)

    assert sentences[0] == (
        "French emits 3.05 (3.01 to 3.10) tokens a pass; Swahili emits 2.05 (2.01 to 2.10)."
    )
    assert sentences[-1] == "Nothing was timed, so nothing is said of speed."
    assert not any("faster" in each or "gain" in each for each in sentences)


def test_everything_equal(tmp_path):
    records = [
        generation(f"specfair_demo_{each}", i, **PAIRED)
        for each in ("sw", "fr", "de")
        for i in range(6)
    ]

    sentences = said(tmp_path, records)

    assert sentences[0] == (
        "All 3 languages have the same figure as observed: 1.50 times the speed without the "
        "drafter."
    )
    assert sentences[1:] == [
        "Each taken by itself, all 3 languages are faster with the drafter than without it.",
        "Over all requests, decoding with the drafter is 50% faster (50% to 50%) than without it.",
    ]


def test_all_slower(tmp_path):
    records = [
        generation(
            f"specfair_demo_{each}", i, **PAIRED | {"baseline_seconds": seconds + 0.01 * (i % 2)}
        )
        for each, seconds in (("sw", 0.3), ("fr", 0.4))
        for i in range(8)
    ]

    assert (
        "Each taken by itself, all 2 languages are slower with the drafter than without it."
        in said(tmp_path, records)
    )


def test_no_group_has_enough_requests(tmp_path):
    records = [generation(f"specfair_demo_{each}", 0, **PAIRED) for each in ("sw", "fr", "de")]

    assert "No language has 5 requests, so nothing can be said of any language by itself." in said(
        tmp_path, records
    )


def test_plain_decoding(tmp_path):
    alone = Settings(num_speculative_tokens=0, temperature=0.0, top_k=None, top_p=None)
    nothing = dict.fromkeys(
        ("num_spec_steps", "num_draft_tokens", "num_accepted_draft_tokens",
         "num_examined_draft_tokens", "acceptance_histogram", "overlap_sum", "kl_sum",
         "cross_entropy_sum", "target_entropy_sum", "num_distribution_positions",
         "num_infinite_positions")
    )  # fmt: skip
    records = [generation("specfair_demo_sw", i, **nothing, settings=alone) for i in range(6)]

    assert said(tmp_path, records) == [
        "Nothing was drafted in this run, so there is no speed-up to report."
    ]


def test_the_same_sentences_everywhere(plain):
    plain = plain.content
    sentences = headline(plain)

    assert 3 <= len(sentences) <= 5
    assert json.loads(render(plain, "json"))["verdict"] == sentences
    table = " ".join(render(plain, "table").split())
    markdown, page = render(plain, "md"), render(plain, "html")
    assert table.index(" ".join(sentences)) < table.index("Conditional")
    for each in sentences:
        assert f"- {each}\n" in markdown
        assert f"<p>{each}</p>" in page
    assert markdown.index(sentences[-1]) < markdown.index("|")
    assert page.index(sentences[-1]) < page.index("<table")


# Comparisons and gates.


def pair(tmp_path, *, lost=0, documents=12, noise=1, **options):
    """A base and a candidate of three languages; the candidate keeps fewer drafts in Swahili."""
    kept = {"sw": 20, "fr": 26, "de": 30}

    def run(name, less):
        records = [
            generation(
                f"specfair_demo_{language}",
                doc,
                num_accepted_draft_tokens=number
                - (less if language == "sw" else 0)
                + (doc * 7 % 5) * noise // 2,
            )
            for language, number in kept.items()
            for doc in range(documents)
        ]
        about = {"target": "t", "drafter": name, "num_speculative_tokens": 4, "dtype": "float32"}
        return write_folder(tmp_path / name, records, settings=about)

    return build_comparison(
        run("old", 0), [run("new", lost)], metric=LENGTH, num_resamples=400, **options
    )


ON_LENGTH = {"metric": LENGTH}


def test_a_gate_that_is_broken(tmp_path):
    report = pair(tmp_path, lost=10, gate=Gate(**ON_LENGTH))

    sentences = comparison_headline(report)

    assert re.match(
        r"The gate turns new down: the mean over languages loses 9% \(9% to \d+%\), where 2% is "
        r"allowed; the worst-served language loses 3\d% \(\d+% to \d+%\), where 5% is allowed; "
        r"the coefficient of variation across languages rises by [\d.]+, where 0.05 is allowed\.",
        sentences[0],
    )
    assert sentences[1].startswith("Over all requests, new emits 9% fewer tokens a pass than old (")
    assert sentences[2] == (
        "After correction for 3 tests, tokens a pass fall in 1 of 3 languages (Swahili), rise in "
        "none and could do either in 2."
    )
    assert sentences[3].startswith("The worst-served language is at 3.")
    assert sentences[4] == "The languages are served less evenly than before."


def test_a_gate_that_is_kept(tmp_path):
    sentences = comparison_headline(pair(tmp_path, gate=Gate(**ON_LENGTH)))

    assert re.fullmatch(
        r"The gate lets new pass: its \d limits are all shown to be kept\.", sentences[0]
    )
    assert sentences[1:3] == [
        "Over all requests, new and old do not differ in mean acceptance length.",
        "No language differs either.",
    ]
    assert sentences[3].startswith("The worst-served language is at 3.")
    assert len(sentences) == 4


@pytest.mark.parametrize(
    ("when_undecided", "begins"),
    [
        ("pass", "The gate lets new pass, as no limit is shown to be broken, but"),
        ("fail", "The gate turns new down for want of proof:"),
    ],
)
def test_a_gate_that_is_undecided(tmp_path, when_undecided, begins):
    gate = Gate(**ON_LENGTH, when_undecided=when_undecided, margins=Margins(any_group=0.05))
    sentences = comparison_headline(pair(tmp_path, documents=5, gate=gate))

    assert sentences[0].startswith(begins)
    assert "undecided (the mean over languages, " in sentences[0]
    assert "on too few documents to say how sure that is" in sentences[1]
    assert sentences[2] == (
        "No language has documents enough for a change in it to be told from chance."
    )


def test_no_group_is_compared_by_itself(tmp_path):
    sentences = comparison_headline(pair(tmp_path, documents=4))

    assert "No language has 5 requests, so none is compared by itself." in sentences


def test_a_comparison_says_the_same_everywhere(tmp_path):
    report = pair(tmp_path, lost=4, gate=Gate(**ON_LENGTH))
    sentences = comparison_headline(report)

    assert json.loads(render_comparison(report, "json"))["verdict"] == sentences
    table = " ".join(render_comparison(report, "table").split())
    assert table.index(" ".join(sentences)) < table.index("Pareto")
    markdown, page = render_comparison(report, "md"), render_comparison(report, "html")
    for each in sentences:
        assert f"- {each}\n" in markdown
        assert each.replace("'", "&#39;") in page
    assert markdown.index(sentences[-1]) < markdown.index("|")


CHANGES = st.builds(
    lambda by, p: Change(
        base=Estimate(value=2.0, n=9),
        candidate=Estimate(value=2.0, n=9),
        difference=by,
        relative=by,
        p_value=p,
        p_adjusted=p,
    ),
    estimates(-0.9, 0.9),
    st.none() | st.floats(0, 1),
)


@settings(max_examples=40, deadline=None)
@given(drawn=st.lists(CHANGES, min_size=3, max_size=3), overall=CHANGES)
def test_no_sentence_on_a_change_claims_more_than_its_interval(small_pair, drawn, overall):
    small_pair = small_pair.content
    one = small_pair.comparison.candidates[0]
    drawn = dict(zip(one.groups, drawn, strict=True))
    candidate = dataclasses.replace(
        one,
        overall={**one.overall, LENGTH: overall},
        groups={group: {**one.groups[group], LENGTH: each} for group, each in drawn.items()},
    )
    comparison = dataclasses.replace(small_pair.comparison, candidates=[candidate])

    whole, of_groups = comparison_headline(dataclasses.replace(small_pair, comparison=comparison))[
        :2
    ]

    by = overall.difference
    if by.low is None:
        assert "too few documents" in whole
    elif "neither clearly" in whole:
        assert by.low <= 0 <= by.high
    else:
        assert by.low > 0 if " more tokens" in whole else by.high < 0
    for verb, sign in (("rise", 1), ("fall", -1)):
        told = re.search(rf"{verb} in (none|\d+)|(No) language has", of_groups)
        clear = [
            each
            for each in drawn.values()
            if each.p_adjusted is not None
            and each.p_adjusted < 0.05
            and each.difference.low is not None
            and min(sign * each.difference.low, sign * each.difference.high) > 0
        ]
        assert (0 if told[1] in ("none", None) else int(told[1])) == len(clear)


@settings(max_examples=40, deadline=None)
@given(
    states=st.lists(st.sampled_from(["kept", "broken", "undecided"]), min_size=1, max_size=7),
    when_undecided=st.booleans(),
)
def test_a_gates_sentence_says_what_its_limits_say(small_pair, states, when_undecided):
    names = ["mean", "worst_group", "dominant_group: sw", "any_group: fr", "disparity.at_most",
             "disparity.max_increase", "max_differing_texts"]  # fmt: skip
    observed = Estimate(value=0.1, low=0.05, high=0.2, n=9)
    checks = [
        LimitCheck(name=name, observed=observed, limit=0.02, p_broken=0.5, p_kept=0.5, state=state)
        for name, state in zip(names, states, strict=False)
    ]
    state = next((each for each in ("broken", "undecided") if each in states), "kept")
    passed = state == "kept" or (state == "undecided" and when_undecided)
    told = gate_sentence(
        small_pair.content,
        GateVerdict(candidate="new", checks=checks, state=state, passed=passed),
    )

    assert told.startswith("The gate lets new pass" if passed else "The gate turns new down")
    assert ("for want of proof" in told) == (state == "undecided" and not passed)
    assert ("all shown to be kept" in told or "is shown to be kept" in told) == (state == "kept")
    assert (" is allowed" in told or " may" in told) == (state == "broken")
    if state == "undecided":
        number = states.count("undecided")
        assert f"{number} of {len(states)} limits {'is' if number == 1 else 'are'} und" in told


@pytest.fixture(scope="module")
def small_pair(tmp_path_factory):
    return Held(pair(tmp_path_factory.mktemp("pair"), documents=6))
