"""Measures of inequality over the last axis; each ignores who has which value.

All but the difference and the standard deviation ignore the unit (doubling every value changes
nothing), and are NaN where they are not defined. Each group counts the same.
"""

import numpy as np

from lm_eval_specfair.metrics.arrays import Array, quotient

AVERSION = 0.5  # Atkinson's epsilon: how much more the low values count; 0 ignores inequality

FOUR_FIFTHS = 0.8
"""The threshold of the four-fifths rule.

A rule of thumb of US employment law (Uniform Guidelines on Employee Selection Procedures, 1978,
29 CFR 1607.4 D), made for hiring, not for speed; fairness tools quote it, and here it decides
nothing.
"""


def difference(values: Array) -> Array:
    """Largest minus smallest over the last axis."""
    return np.ptp(values, axis=-1)


def ratio(values: Array) -> Array:
    """Smallest over largest, in [0, 1]; NaN where a value is negative or all are 0.

    Example:
        >>> ratio(np.array([1.0, 2.0, 4.0])).item()
        0.25
    """
    low = values.min(-1)
    return np.where(low >= 0, quotient(low, values.max(-1)), np.nan)


def standard_deviation(values: Array) -> Array:
    """Across groups, which are all there are: the mean square is over m, not m - 1."""
    return values.std(-1)


def coefficient_of_variation(values: Array) -> Array:
    """Standard deviation over mean; NaN where the mean is not positive."""
    mean = values.mean(-1)
    return np.where(mean > 0, quotient(values.std(-1), mean), np.nan)


def gini(values: Array) -> Array:
    """Gini coefficient: half the mean absolute difference of two groups, over the mean.

    ``sum_ij |x_i - x_j| / (2 m^2 mean)``, 0 for equal groups, at most ``1 - 1/m``; NaN where a
    value is negative or all are 0. Computed from ranks, as
    ``sum_i (2 i - m - 1) x_(i) / (m^2 mean)``.

    Example:
        >>> gini(np.array([0.0, 0.0, 0.0, 1.0])).item()
        0.75
    """
    m = values.shape[-1]
    mean, is_defined = _shares_exist(values)
    weighted = (np.sort(values, -1) * (2 * np.arange(1, m + 1) - m - 1)).sum(-1)
    return np.where(is_defined, quotient(weighted, m * m * mean), np.nan)


def theil(values: Array) -> Array:
    """Theil's T: ``mean of (x / mean) log(x / mean)``, in nats; 0 for equal groups, at most log m.

    Example:
        >>> round(theil(np.array([0.0, 2.0])).item(), 6)  # log 2
        0.693147

    Source:
        Theil 1967, Economics and Information Theory.
    """
    mean, is_defined = _shares_exist(values)
    with np.errstate(invalid="ignore", divide="ignore"):
        shares = values / mean[..., None]
        terms = np.where(shares > 0, shares * np.log(shares), 0.0)
        return np.where(is_defined, terms.mean(-1), np.nan)


def atkinson(values: Array) -> Array:
    """Atkinson's index at epsilon 1/2: ``1 - (mean of sqrt x)^2 / mean``; 0 for equal groups.

    Example:
        >>> atkinson(np.array([1.0, 9.0])).item()  # 1 - 2^2 / 5
        0.19999999999999996

    Source:
        Atkinson 1970, On the Measurement of Inequality, Journal of Economic Theory 2(3).
    """
    mean, is_defined = _shares_exist(values)
    with np.errstate(invalid="ignore", divide="ignore"):
        power = 1 - AVERSION
        equal = (values**power).mean(-1) ** (1 / power)
        return np.where(is_defined, 1 - equal / mean, np.nan)


def jain(values: Array) -> Array:
    """Jain's index: ``(sum x)^2 / (m sum x^2)``; 1 for equal groups, ``1/m`` if one has all.

    Equal to ``1 / (1 + coefficient of variation squared)``.

    Source:
        Jain, Chiu and Hawe 1984, A Quantitative Measure of Fairness, DEC-TR-301.
    """
    mean, is_defined = _shares_exist(values)
    return np.where(is_defined, quotient(mean**2, (values**2).mean(-1)), np.nan)


def variance(values: Array) -> Array:
    """The paper's U as it comes: ``(1/m) sum_T (x_T - mean)^2``."""
    return values.var(-1)


def relative_variance(values: Array) -> Array:
    """U over the squared mean, so without a scale; NaN where the mean is not positive."""
    return coefficient_of_variation(values) ** 2


def share_below_one(values: Array) -> Array:
    """Share of groups below 1: of speed-ups, the groups that lose."""
    return (values < 1).mean(-1)


def parity_gain(values: Array) -> Array:
    """Time saved by lifting every group to the best one, as a share of the time spent now.

    For speed-ups of groups of equal work: ``1 - harmonic mean / best``; 1 where one is 0.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        saved = 1 - _harmonic_mean(values) / values.max(-1)
    return np.where(_times_exist(values), saved, np.nan)


def parity_cost(values: Array) -> Array:
    """Time lost by holding every group down to the worst one, as a share of the time spent now.

    For speed-ups: ``harmonic mean / worst - 1``. Where k speed-ups of m are 0: ``m / k - 1``, the
    limit as they fall together.
    """
    zeros = (values == 0).sum(-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        over = _harmonic_mean(values) / values.min(-1)
        over = np.where(zeros > 0, values.shape[-1] / zeros, over)
    return np.where(_times_exist(values), over - 1, np.nan)


def _harmonic_mean(values: Array) -> Array:
    return 1 / (1 / values).mean(-1)


def _times_exist(values: Array) -> Array:
    return (values.min(-1) >= 0) & (values.max(-1) > 0)


def _shares_exist(values: Array) -> tuple[Array, Array]:
    """The mean, and whether each group can have a share of the total."""
    mean = values.mean(-1)
    return mean, (values.min(-1) >= 0) & (mean > 0)
