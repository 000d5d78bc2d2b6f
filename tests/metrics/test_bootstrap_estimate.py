"""Intervals and p-values of differences: they agree with each other, and with known tests."""

import itertools
from typing import get_args

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
from scipy import stats

from lm_eval_specfair.metrics.comparison.change import change_of_spread
from lm_eval_specfair.metrics.definitions.registry import METRICS
from lm_eval_specfair.metrics.disparity import GroupValues
from lm_eval_specfair.metrics.statistics import intervals
from lm_eval_specfair.metrics.statistics.bootstrap_estimate import (
    BootstrapEstimate,
    Method,
    combined,
)
from lm_eval_specfair.metrics.statistics.intervals import MIN_DOCUMENTS, bca_interval
from lm_eval_specfair.metrics.statistics.multiple_testing import deviations_from_mean, holm
from lm_eval_specfair.metrics.statistics.spread_measures import measures_for

from support.paired_runs import STEPS, drawn_runs, expected_length

LENGTH = next(metric for metric in METRICS if metric.name == STEPS)


def mean_of_documents(values, generator, num_resamples=20_000, **more):
    """The mean of some documents' values, as an estimate."""
    n = len(values)
    times = generator.multinomial(n, np.full(n, 1 / n), size=num_resamples)
    return BootstrapEstimate(
        value=float(values.mean()),
        replicates=times @ values / n,
        left_out=lambda: {0: (values.sum() - values) / (n - 1)},
        num_documents=n,
        n=n,
        **more,
    )


@hypothesis.given(st.lists(st.floats(0, 1), min_size=1, max_size=6))
def test_holm_is_the_closed_test_of_all_subsets_by_bonferroni(p_values):
    # A claim is sure if every family of claims that holds it is, by Bonferroni.
    places = range(len(p_values))
    families = [family for size in places for family in itertools.combinations(places, size + 1)]
    expected = [
        max(
            min(1.0, len(family) * min(p_values[each] for each in family))
            for family in families
            if place in family
        )
        for place in places
    ]

    assert holm(p_values) == pytest.approx(expected)


def test_holm_by_hand_and_what_is_unknown_does_not_count():
    # Of three: 3 * .01, then max(.03, 2 * .02), then max(.04, .03).
    assert holm([0.02, None, 0.01, 0.03]) == pytest.approx([0.04, None, 0.03, 0.04])


@pytest.mark.parametrize("method", get_args(Method))
def test_a_p_value_is_the_interval_turned_round(method):
    generator = np.random.default_rng(0)
    skewed = mean_of_documents(generator.exponential(1, 15) ** 2, generator, method=method)
    low, high = skewed.estimate.low, skewed.estimate.high

    assert skewed.p_above(low) == pytest.approx(0.025, abs=0.003)
    assert skewed.p_below(high) == pytest.approx(0.025, abs=0.003)
    assert skewed.p_other_than(low) == pytest.approx(0.05, abs=0.006)


@pytest.mark.parametrize("shift", [0.0, 0.3, 0.6])
def test_the_p_value_of_a_paired_difference_is_the_paired_t_tests(shift):
    generator = np.random.default_rng(1)
    # Changes that lie evenly around their mean: where they don't, BCa rightly differs.
    shared, half, n = generator.normal(0, 5, 26), generator.normal(0, 1.4, 13), 26
    one, other = shared, shared + shift + np.concatenate([half, -half])
    times = generator.multinomial(n, np.full(n, 1 / n), size=50_000)
    parts = [
        BootstrapEstimate(
            value=float(values.mean()),
            replicates=times @ values / n,
            left_out=lambda values=values: {0: (values.sum() - values) / (n - 1)},
            num_documents=n,
            n=n,
        )
        for values in (one, other)
    ]
    difference = combined(np.subtract, parts[1], parts[0])
    theirs = stats.ttest_rel(other, one).pvalue

    assert np.log(difference.p_other_than(0)) == pytest.approx(np.log(theirs), abs=0.15)


def test_p_values_go_on_beyond_the_last_resample():
    generator = np.random.default_rng(2)
    one = mean_of_documents(generator.normal(0, 1, 60), generator, num_resamples=500)

    far, farther = one.p_above(-1.0), one.p_above(-1.5)

    assert 0 < farther < far < 1 / 500


@pytest.mark.parametrize("method", get_args(Method))
@pytest.mark.parametrize("number", range(1, MIN_DOCUMENTS + 1))
def test_few_documents_have_neither_interval_nor_p_value(number, method):
    values = np.arange(number) + 1.0
    one = mean_of_documents(values, np.random.default_rng(0), method=method)
    is_enough = number == MIN_DOCUMENTS

    assert (one.estimate.low is not None, one.estimate.high is not None) == (is_enough,) * 2
    assert (one.p_above(0) is not None) == is_enough
    assert (one.p_other_than(0) is not None) == is_enough
    across = GroupValues(
        values=np.array([1.0, 2.0]),
        replicates=np.random.default_rng(0).normal([1, 2], 0.1, (500, 2)),
        num_documents=np.array([number, 40]),
        num_requests=9,
    )
    for name in ("difference", "gini", "share_that_lose"):
        assert (across.estimate(name).low is not None) == is_enough, name
    deviations = deviations_from_mean(across.values, across.replicates, across.num_documents)
    assert (deviations[0] is not None) == is_enough


def coverage_of_means(number, trials):
    """How often 95% intervals of the mean of normal documents hold it."""
    generator, hits = np.random.default_rng(number), 0
    for _ in range(trials):
        values = generator.normal(0, 1, number)
        times = generator.multinomial(number, np.full(number, 1 / number), size=500)
        left_out = [(values.sum() - values) / (number - 1)]
        interval = bca_interval(values.mean(), times @ values / number, left_out, number)
        hits += interval[0] <= 0 <= interval[1]
    return hits / trials


def test_the_fewest_documents_are_the_fewest_whose_intervals_cover_93_in_100(monkeypatch):
    assert coverage_of_means(MIN_DOCUMENTS, 1_500) >= 0.93 - 0.014  # two standard errors
    monkeypatch.setattr(intervals, "MIN_DOCUMENTS", 2)
    assert coverage_of_means(MIN_DOCUMENTS - 1, 1_500) < 0.93 - 0.014
    assert coverage_of_means(2, 400) < 0.6


def test_equal_documents_leave_no_doubt():
    same = mean_of_documents(np.ones(9), np.random.default_rng(0))

    assert (same.p_above(0.5), same.p_below(0.5), same.p_other_than(1)) == (0, 1, 1)


def covered(trials, *, num_documents, is_parallel):
    """How often intervals of a group's difference, of its ratio and of the means' cover it."""
    generator = np.random.default_rng(num_documents)
    rates = [[0.45, 0.6, 0.75], [0.5, 0.6, 0.65]]
    before, after = (expected_length(each) for each in rates)
    hits = np.zeros(3)
    for _ in range(trials):
        base, candidate = drawn_runs(
            rates, generator, num_documents=num_documents, is_parallel=is_parallel
        )
        ours, theirs = base.estimate(LENGTH, "g0"), candidate.estimate(LENGTH, "g0")
        means = [run.mean(LENGTH) for run in (base, candidate)]
        for place, (estimate, truth) in enumerate(
            [
                (combined(np.subtract, theirs, ours), after[0] - before[0]),
                (combined(np.divide, theirs, ours), after[0] / before[0]),
                (combined(np.subtract, means[1], means[0]), after.mean() - before.mean()),
            ]
        ):
            interval = estimate.estimate
            hits[place] += interval.low <= truth <= interval.high
    return hits / trials


def test_intervals_of_paired_differences_cover_the_truth():
    # 300 trials: four standard errors of 95% are 5 points.
    assert (covered(300, num_documents=20, is_parallel=True) >= 0.95 - 0.05).all()


@pytest.mark.thorough
@pytest.mark.timeout(900)
@pytest.mark.parametrize("is_parallel", [True, False])
@pytest.mark.parametrize("num_documents", [20, 50])
def test_intervals_of_paired_differences_cover_93_to_97_in_100(num_documents, is_parallel):
    rates = covered(1_500, num_documents=num_documents, is_parallel=is_parallel)

    error = 2 * (0.05 * 0.95 / 1_500) ** 0.5
    assert ((rates >= 0.93 - error) & (rates <= 0.97 + error)).all(), rates


SCENARIOS = {
    "groups become equal": (np.linspace(0.4, 0.7, 10), np.full(10, 0.6)),
    "one that lags catches up": (
        np.append(np.full(9, 0.6), 0.3),
        np.append(np.full(9, 0.6), 0.5),
    ),
    "half as far apart": (np.linspace(0.3, 0.8, 6), np.linspace(0.42, 0.72, 6)),
    "nothing changes": (np.linspace(0.3, 0.8, 30), np.linspace(0.3, 0.8, 30)),
}


def covered_changes(scenario, trials, *, num_documents=40):
    """How often intervals of the change in each measure of spread hold the true one."""
    generator, rates = np.random.default_rng(11), SCENARIOS[scenario]
    before, after = (expected_length(each) for each in rates)
    measures = measures_for(LENGTH, all_measures=True)
    hits = dict.fromkeys(measures, 0)
    for _ in range(trials):
        base, run = drawn_runs(
            rates, generator, num_documents=num_documents, is_parallel=False, num_resamples=400
        )
        for name, measure in measures.items():
            found = change_of_spread(base.spread(LENGTH), run.spread(LENGTH), name).estimate
            change = measure.of(after) - measure.of(before)
            hits[name] += found.low <= change <= found.high
    return {name: count / trials for name, count in hits.items()}


def test_intervals_of_changes_in_spread_cover_the_truth_where_groups_become_equal():
    found = covered_changes("groups become equal", 60)

    # 60 trials: four standard errors of 95% are 11 points. Uncorrected, a quarter would be missed.
    assert min(found.values()) >= 0.84, found


@pytest.mark.thorough
@pytest.mark.timeout(1_800)
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_intervals_of_changes_in_spread_cover_95_times_in_100(scenario):
    found = covered_changes(scenario, 300)

    # 93 to 97%, give or take the simulation's own two standard errors. Where one group of many
    # equal ones catches up, what noise adds is overestimated, and intervals are wider.
    most = 1.0 if scenario == "one that lags catches up" else 0.995
    assert all(0.905 <= share <= most for share in found.values()), found
