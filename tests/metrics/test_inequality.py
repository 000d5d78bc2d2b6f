"""Measures of inequality: worked by hand, against fairlearn and scipy, and their invariants."""

import math

import numpy as np
import pandas as pd
import pytest
from fairlearn.metrics import MetricFrame
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from lm_eval_specfair.metrics.statistics.inequality import (
    atkinson,
    coefficient_of_variation,
    difference,
    gini,
    jain,
    parity_cost,
    parity_gain,
    ratio,
    relative_variance,
    theil,
    variance,
)

positive = st.lists(st.floats(0.01, 100), min_size=2, max_size=12).map(np.array)
RELATIVE = (ratio, coefficient_of_variation, gini, theil, atkinson, jain, relative_variance)


def test_theil_atkinson_and_jain_by_hand():
    # Two groups with 1 and 9: mean 5, shares .2 and 1.8, mean root 2.
    values = np.array([1.0, 9.0])

    assert theil(values) == pytest.approx((0.2 * math.log(0.2) + 1.8 * math.log(1.8)) / 2)
    assert atkinson(values) == pytest.approx(1 - 4 / 5)
    assert jain(values) == pytest.approx(100 / (2 * 82))
    assert variance(values) == pytest.approx(16)
    assert relative_variance(values) == pytest.approx(16 / 25)


def test_one_group_that_has_all_is_the_most_unequal():
    values = np.array([0.0, 0.0, 0.0, 8.0])

    assert theil(values) == pytest.approx(math.log(4))
    assert atkinson(values) == pytest.approx(3 / 4)
    assert jain(values) == pytest.approx(1 / 4)
    assert gini(values) == pytest.approx(3 / 4)


def test_what_has_no_shares_has_no_inequality():
    for statistic in (gini, theil, atkinson, jain):
        assert math.isnan(statistic(np.zeros(3)))
        assert math.isnan(statistic(np.array([-1.0, 2.0])))


def test_the_gini_is_half_the_mean_difference_of_all_pairs():
    values = np.random.default_rng(0).exponential(1, 40)
    pairs = np.abs(values[:, None] - values).mean()

    assert gini(values) == pytest.approx(pairs / 2 / values.mean())


def test_the_theil_index_is_an_entropy_and_jains_index_a_variation():
    values = np.random.default_rng(0).exponential(1, 40)

    shares = values / values.sum()
    assert theil(values) == pytest.approx(stats.entropy(shares, np.full(40, 1 / 40)))
    assert jain(values) == pytest.approx(1 / (1 + stats.variation(values) ** 2))
    assert coefficient_of_variation(values) == pytest.approx(stats.variation(values))
    equal = stats.pmean(values, 0.5)
    assert atkinson(values) == pytest.approx(1 - equal / values.mean())


def test_extremes_are_fairlearns():
    generator = np.random.default_rng(0)
    chances = {"a": 0.2, "b": 0.5, "c": 0.8, "d": 0.6}
    frame = pd.DataFrame({"group": generator.choice(list("abcd"), 400), "kept": 0.0})
    frame["kept"] = generator.random(400) < frame["group"].map(chances)
    theirs = MetricFrame(
        metrics=lambda truth, kept: kept.mean(),
        y_true=frame["kept"],
        y_pred=frame["kept"],
        sensitive_features=frame["group"],
    )
    values = frame.groupby("group")["kept"].mean().to_numpy()

    assert difference(values) == pytest.approx(theirs.difference(method="between_groups"))
    assert ratio(values) == pytest.approx(theirs.ratio(method="between_groups"))
    assert (values.min(), values.max()) == (theirs.group_min(), theirs.group_max())


def test_parity_is_worth_what_equal_speeds_would_save():
    # Plain seconds are 1 in every group; by loop rather than by harmonic mean.
    speedups = [2.0, 1.25, 0.8]
    spent = sum(1 / each for each in speedups)

    assert parity_gain(np.array(speedups)) == pytest.approx(1 - 3 * (1 / 2.0) / spent)
    assert parity_cost(np.array(speedups)) == pytest.approx(3 * (1 / 0.8) / spent - 1)


def test_parity_with_a_group_that_stands_still_is_the_limit():
    for number in (1, 2):
        still, nearly = np.array([2.0, 1.0, 0.0, 0.0]), np.array([2.0, 1.0, 1e-9, 1e-9])
        still[2 : 4 - number] = nearly[2 : 4 - number] = 0.5
        assert parity_gain(still) == pytest.approx(parity_gain(nearly))
        assert parity_cost(still) == pytest.approx(parity_cost(nearly), abs=1e-6)
    assert np.isnan([parity_gain(np.zeros(3)), parity_cost(np.array([-1.0, 2.0]))]).all()


@given(positive, st.floats(0.1, 10), st.randoms())
@settings(deadline=None)
def test_relative_measures_ignore_order_and_unit(values, scale, random):
    shuffled = np.array(random.sample(values.tolist(), len(values))) * scale

    for statistic in RELATIVE:
        assert statistic(shuffled) == pytest.approx(statistic(values), abs=1e-9)


@given(positive)
@settings(deadline=None)
def test_measures_keep_their_bounds_and_a_gift_to_the_poorest_lowers_them(values):
    m = len(values)
    assert -1e-9 <= theil(values) <= math.log(m) + 1e-9
    assert -1e-9 <= atkinson(values) < 1
    assert 1 / m - 1e-9 <= jain(values) <= 1 + 1e-9

    given_away = values.copy()
    rich, poor = values.argmax(), values.argmin()
    gift = (values[rich] - values[poor]) / 2
    given_away[rich] -= gift
    given_away[poor] += gift
    for statistic in (gini, theil, atkinson, coefficient_of_variation):  # Pigou and Dalton
        assert statistic(given_away) <= statistic(values) + 1e-9
    assert jain(given_away) >= jain(values) - 1e-9


def test_many_rows_at_once_are_each_row_alone():
    rows = np.random.default_rng(0).exponential(1, (5, 7))

    for statistic in (*RELATIVE, parity_gain, parity_cost):
        assert statistic(rows) == pytest.approx([float(statistic(row)) for row in rows])
