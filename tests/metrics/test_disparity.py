"""The spread across groups: values worked by hand, identities, and what noise does to it."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lm_eval_specfair.metrics.definitions.registry import METRICS
from lm_eval_specfair.metrics.disparity import GroupValues, disparity, noise_between_groups
from lm_eval_specfair.metrics.statistics.inequality import (
    coefficient_of_variation,
    difference,
    gini,
    ratio,
    standard_deviation,
)
from lm_eval_specfair.metrics.statistics.intervals import wider_interval

BY_NAME = {metric.name: metric for metric in METRICS}
GROUPS = ["en", "sw", "ja"]
VALUES = np.array([4.0, 1.0, 3.0])
NOISE = np.random.default_rng(1).normal(0, 0.1, (2_000, 3))


def compare(metric, values=VALUES, groups=GROUPS, replicates=None, *, all_measures=True):
    noisy = values + np.random.default_rng(0).normal(0, 0.1, (2_000, len(values)))
    across = group_values(values, noisy if replicates is None else replicates, 20)
    return disparity(BY_NAME[metric], groups, across, all_measures=all_measures)


def group_values(values, replicates, num_documents):
    return GroupValues(
        values=values,
        replicates=replicates,
        num_documents=np.full(len(values), num_documents),
        num_requests=60,
    )


def values_of(result):
    return {name: None if each is None else each.value for name, each in result.statistics.items()}


def test_statistics_by_hand():
    statistics = values_of(compare("modelled_speedup"))

    # Mean 8/3, deviations 4/3, -5/3 and 1/3, so U = (16 + 25 + 1) / 9 / 3 = 14/9.
    assert statistics["difference"] == 3
    assert statistics["ratio"] == 0.25
    assert statistics["unfairness_uncorrected"] == pytest.approx(14 / 9)
    assert statistics["standard_deviation"] == pytest.approx((14 / 9) ** 0.5)
    assert statistics["coefficient_of_variation"] == pytest.approx((14 / 9) ** 0.5 * 3 / 8)
    # The pairs differ by 3, 1 and 2, each counted twice: 12 / (2 * 9 * 8/3).
    assert statistics["gini"] == pytest.approx(0.25)


def test_without_being_asked_a_few_measures_are_given():
    few = {"difference", "ratio", "coefficient_of_variation", "gini", "difference_bias"}
    given = {
        name: compare(name, all_measures=False).statistics
        for name in ("mean_acceptance_length", "kl", "modelled_speedup")
    }

    assert set(given["mean_acceptance_length"]) == few
    assert set(given["kl"]) == few | {"unfairness"}
    assert set(given["modelled_speedup"]) == few | {"unfairness", "share_that_lose"}
    for name, statistics in given.items():
        everything = compare(name).statistics
        assert statistics == {key: everything[key] for key in statistics}


@pytest.mark.parametrize(
    ("metric", "worst", "best"),
    [("modelled_speedup", "sw", "en"), ("kl", "en", "sw"), ("seconds_per_kilobyte", "en", "sw")],
)
def test_worst_and_best_follow_the_metric(metric, worst, best):
    result = compare(metric)

    assert (result.worst, result.best) == (worst, best)
    assert result.statistics["difference"].value == 3
    assert result.statistics["ratio"].value == 0.25


def test_two_groups_have_a_quarter_of_their_squared_difference_as_unfairness():
    result = compare("cross_entropy", np.array([2.0, 5.0]), ["en", "sw"])

    assert result.statistics["unfairness_uncorrected"].value == pytest.approx(9 / 4)


def test_one_group_is_no_disparity():
    assert compare("kl", VALUES[:1], ["en"]) is None


def test_what_the_paper_asks_for_has_an_unfairness_and_a_partner_without_a_scale():
    assert "unfairness" not in compare("mean_acceptance_length").statistics
    having = {name for name, each in BY_NAME.items() if each.has_unfairness}
    assert {"overlap", "kl", "cross_entropy", "modelled_speedup", "measured_speedup"} <= having
    assert {"kl_per_byte", "cross_entropy_per_document", "seconds_per_kilobyte"} <= having
    once, twice = (
        compare("modelled_speedup", VALUES * k, replicates=VALUES * k + k * NOISE).statistics
        for k in (1, 2)
    )
    assert twice["unfairness"].value == pytest.approx(4 * once["unfairness"].value)
    assert twice["relative_unfairness"].value == pytest.approx(once["relative_unfairness"].value)


def test_statistics_of_speedups_by_hand():
    # Groups with speed-ups 4, 1 and 1/2: times 1/4, 1 and 2 for equal work, 13/12 on average.
    result = compare("modelled_speedup", np.array([4.0, 1.0, 0.5]))
    statistics = values_of(result)

    assert statistics["share_that_lose"] == pytest.approx(1 / 3)
    assert statistics["parity_gain"] == pytest.approx(1 - (1 / 4) / (13 / 12))
    assert statistics["parity_cost"] == pytest.approx(2 / (13 / 12) - 1)
    assert "share_that_lose" not in compare("overlap").statistics


def test_a_ratio_to_nothing_is_undefined():
    statistics = values_of(compare("kl", np.zeros(3)))

    assert statistics["difference"] == 0
    assert statistics["ratio"] is None
    assert statistics["gini"] is None
    assert statistics["coefficient_of_variation"] is None


@given(st.lists(st.floats(0.01, 100), min_size=2, max_size=12), st.randoms())
@settings(deadline=None)
def test_statistics_ignore_the_order_and_the_unit(values, random):
    ordered = np.array(values)
    shuffled = np.array(random.sample(values, len(values)))

    for statistic in (ratio, coefficient_of_variation, gini):
        assert statistic(shuffled * 7) == pytest.approx(statistic(ordered), abs=1e-12)
    for statistic in (difference, standard_deviation):
        assert statistic(shuffled * 7) == pytest.approx(statistic(ordered) * 7, abs=1e-9)


@given(st.lists(st.floats(0.01, 100), min_size=2, max_size=12))
@settings(deadline=None)
def test_statistics_stay_within_their_bounds(values):
    many = np.array(values)

    assert 0 <= difference(many) <= 100
    assert 0 < ratio(many) <= 1
    assert -1e-12 <= gini(many) <= 1 - 1 / len(values) + 1e-12
    # Popoviciu: a variance is at most a quarter of the squared range.
    assert standard_deviation(many) <= difference(many) / 2 + 1e-9


@given(st.floats(0.1, 10), st.integers(2, 9))
@settings(deadline=None)
def test_equal_groups_have_no_spread(value, number):
    equal = np.full(number, value)

    assert difference(equal) == 0
    assert ratio(equal) == 1
    assert gini(equal) == pytest.approx(0, abs=1e-12)
    assert standard_deviation(equal) == pytest.approx(0, abs=1e-12)


def test_noise_is_subtracted_from_unfairness():
    # True values 0, 1, 2 (U = 2/3), each estimated from 12 documents with standard deviation 2.
    generator, truth, trials, n = np.random.default_rng(0), np.array([0.0, 1.0, 2.0]), 500, 12
    corrected, plain, covered = [], [], 0
    for _ in range(trials):
        documents = truth + generator.normal(0, 2, (n, 3))
        weights = generator.multinomial(n, np.full(n, 1 / n), size=500) / n
        found = group_values(documents.mean(0), weights @ documents, n).estimate("unfairness")
        corrected.append(found.value)
        plain.append(documents.mean(0).var())
        covered += found.low <= 2 / 3 <= found.high

    # Noise adds (m - 1) / m^2 * sum of variances = 2/9 * 3 * 4/12 = 2/9. Cut off at 0, the
    # corrected one stays a little above the truth.
    assert np.mean(plain) == pytest.approx(2 / 3 + 2 / 9, abs=0.08)
    assert np.mean(corrected) == pytest.approx(2 / 3, abs=0.08)
    assert covered / trials >= 0.93


def test_equal_groups_are_found_unequal_no_more_than_5_times_in_100():
    generator, trials, n, wrong = np.random.default_rng(0), 200, 20, 0
    for _ in range(trials):
        documents = generator.normal(0, 1, (n, 10))
        weights = generator.multinomial(n, np.full(n, 1 / n), size=400) / n
        found = group_values(documents.mean(0), weights @ documents, n).estimate("unfairness")
        wrong += found.low > 0

    assert wrong / trials <= 0.05


def test_noise_that_all_groups_share_is_not_subtracted():
    # The same documents in each group, drawn together: no noise between groups at all.
    shared = np.random.default_rng(0).normal(0, 1, (2_000, 1))

    assert group_values(VALUES, VALUES + shared, 20).value("unfairness") == pytest.approx(
        VALUES.var()
    )


@pytest.mark.parametrize(("num_groups", "distance"), [(2, 10), (11, 5), (30, 10)])
def test_intervals_of_extremes_cover_the_truth(num_groups, distance):
    # Groups up to `distance` standard errors apart, 20 documents each.
    generator, n, trials, covered = np.random.default_rng(1), 20, 300, 0
    truth = np.linspace(0, distance, num_groups) / n**0.5
    for _ in range(trials):
        documents = truth + generator.normal(0, 1, (n, num_groups))
        weights = generator.multinomial(n, np.full(n, 1 / n), size=400) / n
        low, high = wider_interval(
            float(np.ptp(documents.mean(0))), np.ptp(weights @ documents, axis=1), n
        )
        covered += low <= np.ptp(truth) <= high

    assert covered / trials >= 0.92


def test_the_bias_of_a_difference_is_told():
    # Equal groups with noise of standard error 1; resampling adds the same once more.
    generator, groups, told = np.random.default_rng(0), [f"g{i}" for i in range(30)], []
    for _ in range(100):
        values = 100 + generator.normal(0, 1, 30)
        replicates = values + generator.normal(0, 1, (200, 30))
        result = compare("modelled_speedup", values, groups, replicates)
        told.append(result.statistics["difference_bias"].value)

    # The range of 30 standard normals is 4.086 on average, that of two added noises sqrt(2) as
    # large. What is told is that second step, less than the first one, 4.086.
    assert np.mean(told) == pytest.approx(4.086 * (2**0.5 - 1), abs=0.2)


def test_noise_of_figures_that_no_resample_has_is_unknown_without_a_warning():
    unknown = np.full((5, 2), np.nan)
    assert np.isnan(noise_between_groups(np.array([1.0, 2.0]), unknown, np.array([1.0, 1.0])))
    unknown[0] = [1.0, 3.0]
    found = noise_between_groups(np.array([1.0, 1.0]), unknown, np.array([2.0, 2.0]))
    assert found == pytest.approx(2.0)  # twice the variance of 0 and 2
