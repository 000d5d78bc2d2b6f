"""Shares of the spread across groups, beside a regression written out and known p-values."""

import numpy as np
import pytest

from lm_eval_specfair.metrics.explained_spread import (
    COVARIATES,
    explained_share,
    explained_spreads,
    share_interval,
)
from lm_eval_specfair.metrics.statistics.intervals import Estimate


def regression(values, covariates):
    """R squared by least squares with an intercept."""
    table = np.column_stack([np.ones(len(values)), covariates])
    fitted = table @ np.linalg.lstsq(table, values, rcond=None)[0]
    return 1 - ((values - fitted) ** 2).sum() / ((values - values.mean()) ** 2).sum()


@pytest.mark.parametrize("width", [1, 2])
def test_it_is_the_r_squared_of_a_linear_regression(width):
    generator = np.random.default_rng(width)
    covariates = generator.normal(size=(12, width)) * [1000, 0.01][:width]
    values = covariates[:, 0] / 1000 + generator.normal(size=12)

    share, adjusted, p_value = explained_share(values, covariates, np.random.default_rng(0))

    assert share == pytest.approx(regression(values, covariates))
    assert adjusted == pytest.approx(1 - (1 - share) * 11 / (11 - width))
    assert 0 < p_value <= 1


def test_covariates_that_say_the_same_count_once():
    generator = np.random.default_rng(0)
    one, values = generator.normal(size=10), generator.normal(size=10)

    alone = explained_share(values, one[:, None], np.random.default_rng(0))
    twice = explained_share(values, np.column_stack([one, 2 * one]), np.random.default_rng(0))

    assert twice[:2] == pytest.approx(alone[:2])


def test_p_is_that_of_all_permutations():
    """With five groups there are 120 orders, so the share of each can be counted."""
    import itertools

    values, one = np.array([1.0, 2.0, 4.0, 3.0, 5.5]), np.array([0.0, 1.0, 2.0, 3.0, 5.0])
    observed = np.corrcoef(values, one)[0, 1] ** 2
    all_orders = [np.corrcoef(order, one)[0, 1] ** 2 for order in itertools.permutations(values)]
    exact = np.mean([share >= observed - 1e-12 for share in all_orders])

    _, _, p_value = explained_share(values, one[:, None], np.random.default_rng(0))

    assert p_value == pytest.approx(exact, abs=0.01)


def test_p_is_uniform_where_nothing_is_explained():
    generator = np.random.default_rng(3)
    found = [
        explained_share(generator.normal(size=8), generator.normal(size=(8, 2)), generator)[2]
        for _ in range(200)
    ]

    assert 0.01 <= np.mean(np.array(found) < 0.05) <= 0.11


@pytest.mark.parametrize(
    ("values", "covariate"),
    [([1.0, 2, 3, 4], [1.0, 2, 3, 4]), ([1.0] * 6, range(6)), (range(6), [2.0] * 6)],
)
def test_too_few_groups_or_nothing_that_varies(values, covariate):
    values, covariate = np.array(values, float), np.array(covariate, float)

    assert explained_share(values, covariate[:, None], np.random.default_rng(0)) is None


def estimates(table):
    """Groups' estimates from values by metric."""
    size = len(next(iter(table.values())))
    return {
        f"g{number}": {
            name: Estimate(value=float(values[number]), low=None, high=None, n=9)
            for name, values in table.items()
        }
        for number in range(size)
    }


def test_an_interval_is_of_the_regressions_of_resamples():
    generator = np.random.default_rng(1)
    drawn = generator.normal(size=(400, 9, 3)) + np.arange(9)[:, None] * [1, 0.3, 0]
    shares = [regression(one[:, 0], one[:, 1:]) for one in drawn]

    assert share_interval(drawn) == pytest.approx(np.quantile(shares, [0.025, 0.975]))


def test_a_covariate_that_is_the_same_in_all_resamples_counts_once():
    generator = np.random.default_rng(2)
    drawn = generator.normal(size=(50, 9, 2))
    doubled = np.concatenate([drawn, 3 * drawn[:, :, 1:] - 1], axis=2)

    assert share_interval(doubled) == pytest.approx(share_interval(drawn))


def test_resamples_without_a_value():
    drawn = np.random.default_rng(3).normal(size=(100, 9, 2))
    some, most = drawn.copy(), drawn.copy()
    some[:10, 4] = np.nan
    most[:60, 4] = np.nan

    assert share_interval(some) == pytest.approx(share_interval(drawn[10:]))
    assert share_interval(most) == (None, None)


def test_each_covariate_alone_then_all_together():
    generator = np.random.default_rng(4)
    table = {name: generator.normal(size=12) for name in COVARIATES if name != "resource_class"}
    rate = table["repeated_4grams"] + 0.1 * generator.normal(size=12)
    classes = {f"g{number}": f"{number % 6}, some name" for number in range(12)}
    groups = estimates({"conditional_acceptance_rate": rate, **table})
    drawn = {
        name: {group: np.full(20, one[name].value) for group, one in groups.items()}
        for name in groups["g0"]
    }

    found = explained_spreads(
        groups, np.random.default_rng(0), resource_classes=classes, replicates=drawn
    )

    assert [each.by for each in found] == [*((name,) for name in COVARIATES), COVARIATES]
    together = found[-1]
    others = np.column_stack([*table.values(), np.arange(12) % 6])
    assert together.r_squared == pytest.approx(regression(rate, others))
    # Of resamples that are all alike the interval is the value.
    for each in found:
        assert each.low == pytest.approx(each.r_squared)
        assert each.high == pytest.approx(each.r_squared)


def test_what_is_said_of_generated_text_does_not_explain_references():
    generator = np.random.default_rng(5)
    names = ("scored_agreement", "repeated_4grams", "bytes_per_token", "bits_per_byte")
    groups = estimates({name: generator.normal(size=8) for name in names})

    found = explained_spreads(groups, np.random.default_rng(0))

    assert [(each.figure, each.by) for each in found] == [
        ("scored_agreement", ("bits_per_byte",)),
    ]
