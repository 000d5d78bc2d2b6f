"""Shares of the spread across groups, beside a regression written out and known p-values."""

import numpy as np
import pytest

from lm_eval_specfair.metrics.explained_spread import explained_share


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
