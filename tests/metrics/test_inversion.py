"""Intervals of measures of spread cover the truth, on documents of the acceptance model itself."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from lm_eval_specfair.metrics.definitions.speedup import MODELLED_SPEEDUP
from lm_eval_specfair.metrics.disparity import GroupValues, disparity
from lm_eval_specfair.metrics.statistics import inequality
from lm_eval_specfair.metrics.statistics.inversion import Inversion, _few_kinds, _gathered, _kinds

GAMMA = 4
STATISTICS = {
    "difference": inequality.difference,
    "ratio": inequality.ratio,
    "standard_deviation": inequality.standard_deviation,
    "coefficient_of_variation": inequality.coefficient_of_variation,
    "gini": inequality.gini,
    "theil": inequality.theil,
    "atkinson": inequality.atkinson,
    "jain": inequality.jain,
    "unfairness": inequality.variance,
    "relative_unfairness": inequality.relative_variance,
    "parity_gain": inequality.parity_gain,
    "parity_cost": inequality.parity_cost,
}


def coverage(rates, num_documents, trials, seed=0):
    """How often the interval of each statistic of tokens per step holds the truth."""
    generator, m, n = np.random.default_rng(seed), len(rates), num_documents
    truth = (1 - rates ** (GAMMA + 1)) / (1 - rates)
    covered = dict.fromkeys(STATISTICS, 0)
    # Drawn once: making resamples anew in each trial would take most of the time.
    resamples = generator.multinomial(n, np.full(n, 1 / n), size=20_000).astype(float)
    for _ in range(trials):
        steps = generator.integers(8, 20, (n, m))
        tokens = np.zeros((n, m))
        for step in range(20):
            runs = np.minimum(generator.geometric(1 - rates, (n, m)) - 1, GAMMA) + 1
            tokens += np.where(step < steps, runs, 0)
        weights = resamples[generator.integers(len(resamples), size=(m, 500))]
        drawn = np.stack(
            [(weights[g] @ tokens[:, g]) / (weights[g] @ steps[:, g]) for g in range(m)], axis=1
        )
        result = disparity(
            MODELLED_SPEEDUP,
            [f"g{g}" for g in range(m)],
            GroupValues(
                values=tokens.sum(0) / steps.sum(0),
                replicates=drawn,
                num_documents=np.full(m, n),
                num_requests=m * n,
            ),
            all_measures=True,
        )
        for name, statistic in STATISTICS.items():
            figure = result.statistics[name]
            covered[name] += figure.low - 1e-12 <= statistic(truth) <= figure.high + 1e-12
    return {name: count / trials for name, count in covered.items()}


def test_intervals_of_spread_cover_the_truth_in_a_quick_simulation():
    found = coverage(np.linspace(0.3, 0.8, 6), num_documents=30, trials=120)

    # 95% within four standard errors of 120 trials.
    assert min(found.values()) >= 0.87, found


@pytest.mark.thorough
@pytest.mark.timeout(3_600)
@pytest.mark.parametrize("num_groups", [2, 5, 30])
def test_intervals_of_spread_cover_95_times_in_100(num_groups):
    found = coverage(np.linspace(0.3, 0.8, num_groups), num_documents=40, trials=600, seed=1)

    # 93 to 97%, give or take the simulation's own two standard errors.
    assert all(0.912 <= share <= 0.988 for share in found.values()), found


@pytest.mark.thorough
@pytest.mark.timeout(3_600)
@pytest.mark.parametrize("rate", [0.3, 0.8])
def test_intervals_cover_as_well_where_one_group_lies_far_from_many_equal_ones(rate):
    found = coverage(np.append(np.full(29, 0.6), rate), num_documents=40, trials=300, seed=2)

    # 93 to 97%, give or take the simulation's own two standard errors.
    assert all(0.905 <= share <= 0.995 for share in found.values()), found


def test_equal_groups_are_not_found_unequal():
    found = coverage(np.full(10, 0.6), num_documents=25, trials=60)

    # Here percentiles of resampled spreads would cover the truth, which is 0, never.
    assert min(found.values()) >= 0.9, found


def test_a_spread_without_noise_is_known_exactly():
    values = np.array([1.0, 2.0, 4.0])
    exact = Inversion.of(values, np.tile(values, (500, 1)), np.full(3, 20))

    assert exact.interval(inequality.difference) == pytest.approx((3, 3))
    assert exact.interval(inequality.ratio, falls=True) == pytest.approx((0.25, 0.25))


def test_two_groups_get_the_interval_of_a_difference_of_means():
    # 40 documents a group, standard deviation 1; difference 3, standard error sqrt(2 / 40).
    generator = np.random.default_rng(0)
    documents = [generator.normal(0, 1, 40) for _ in range(2)]
    documents = [
        (each - each.mean()) / each.std(ddof=1) + mean
        for each, mean in zip(documents, (10, 13), strict=True)
    ]
    drawn = np.stack([generator.choice(each, (20_000, 40)).mean(1) for each in documents], axis=1)
    low, high = Inversion.of(np.array([10.0, 13.0]), drawn, np.full(2, 40)).interval(
        inequality.difference
    )

    reach = 2.0227 * (2 / 40) ** 0.5  # Student's t with 39 degrees of freedom
    assert (low, high) == pytest.approx((3 - reach, 3 + reach), abs=0.06)


@pytest.mark.parametrize("name", ["gini", "ratio", "difference"])
def test_p_values_are_the_interval_turned_round(name):
    generator = np.random.default_rng(3)
    values = np.linspace(1.5, 2.5, 8)
    across = GroupValues(
        values=values,
        replicates=values + generator.normal(0, 0.1, (4_000, 8)),
        num_documents=np.full(8, 40),
        num_requests=320,
    )
    found = across.estimate(name)

    assert across.p_values(name, found.low)[1] == pytest.approx(0.025, abs=0.01)
    assert across.p_values(name, found.high)[0] == pytest.approx(0.025, abs=0.01)
    below, above = across.p_values(name, found.value)
    assert min(below, above) > 0.2
    farther = [across.p_values(name, found.high + step)[0] for step in (0.0, 0.05, 0.1)]
    assert farther == sorted(farther, reverse=True)


def test_a_spread_without_noise_keeps_a_limit_above_it_and_breaks_one_below():
    values = np.array([1.0, 2.0, 4.0])
    exact = Inversion.of(values, np.tile(values, (500, 1)), np.full(3, 20))

    assert exact.p_values(inequality.difference, 3.5) == pytest.approx((0, 1), abs=1e-3)
    assert exact.p_values(inequality.difference, 2.0) == pytest.approx((1, 0), abs=1e-3)


def test_too_little_to_tell_is_no_interval():
    values, drawn = np.array([1.0, 2.0]), np.ones((500, 2))

    assert Inversion.of(values, drawn, np.array([5, 1])) is None
    drawn[:100] = np.nan
    assert Inversion.of(values, drawn, np.array([5, 5])) is None


def test_groups_that_noise_may_tell_apart_are_gathered_and_others_are_not():
    # 29 groups as far apart as noise of .05 drives equal ones, and one ten times that below.
    equal = 2 + 0.05 * stats.norm.ppf((np.arange(29) + 0.5) / 29)
    gathered, _ = _gathered(np.append(equal, 1.5), np.full(30, 0.05))

    assert np.ptp(gathered[:29]) < 0.1 * np.ptp(equal)
    assert gathered[:29].mean() == pytest.approx(2, abs=0.01)
    assert gathered[29] == pytest.approx(1.5, abs=0.02)
    apart = np.linspace(1, 2, 8)
    assert _gathered(apart, np.full(8, 1e-3))[0] == pytest.approx(apart, abs=1 / 79)


def test_there_are_no_more_kinds_of_groups_than_the_figures_demand():
    equal = 2 + 0.05 * stats.norm.ppf((np.arange(29) + 0.5) / 29)
    errors = np.full(30, 0.05)

    def kinds(values):
        own = errors[: len(values)]
        return _few_kinds(values, own, _gathered(values, own)[1])

    assert kinds(equal) == pytest.approx(np.full(29, 2))
    found = kinds(np.append(equal, 1.5))
    assert found[:29] == pytest.approx(np.full(29, 2), abs=0.01)
    assert found[29] == pytest.approx(1.5, abs=0.01)
    assert set(np.round(kinds(np.repeat([1.0, 1.5, 2.5], 10)), 3)) == {1, 1.5, 2.5}
    # Far apart, each for itself: no few kinds.
    assert kinds(np.linspace(1, 20, 30)) is None


def test_a_kinds_likelihood_is_that_of_a_mixture_of_normal_laws():
    generator = np.random.default_rng(3)
    values, errors = generator.normal(0, 1, 12), generator.uniform(0.5, 1.5, 12)
    reached, found = _kinds(values, errors, np.array([values.mean()]))
    mean = (values / errors**2).sum() / (1 / errors**2).sum()
    # Up to the factor that does not depend on places.
    expected = stats.norm.logpdf(values, mean, errors) + np.log(errors * np.sqrt(2 * np.pi))

    assert found == pytest.approx(np.full(12, mean))
    assert reached == pytest.approx(expected.sum())


def test_one_group_far_from_equal_ones_has_a_gini_that_is_covered_only_by_all_three_shapes():
    # The truth: 29 groups at 2 and one at 2.5, standard errors .05.
    generator, truth, trials = np.random.default_rng(5), np.append(np.full(29, 2.0), 2.5), 100
    covered = {1: 0, 2: 0, 3: 0}
    for _ in range(trials):
        values = generator.normal(truth, 0.05)
        drawn = generator.normal(values, 0.05, (500, 30))
        whole = Inversion.of(values, drawn, np.full(30, 200))
        for number in covered:
            part = replace(whole, supposed=whole.supposed[:number])
            low, high = part.interval(inequality.gini)
            covered[number] += low <= inequality.gini(truth) <= high

    assert covered[1] <= 70 < 75 <= covered[2] < 90 <= covered[3], covered
