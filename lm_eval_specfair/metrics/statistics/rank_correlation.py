"""Permutation p-values of rank correlations, and Kendall's coefficient of concordance.

They ask: if two orders had nothing to do with each other, how often would they agree as well?
"""

from collections.abc import Callable, Sequence

import numpy as np
from scipy import stats

from lm_eval_specfair.metrics.arrays import Array

NUM_PERMUTATIONS = 9_999
_CHUNK = 4_000_000


def spearman(x: Array, y: Array, generator: np.random.Generator) -> tuple[float, float]:
    """Spearman's rank correlation and its two-sided permutation p-value; no side is all equal."""
    ranks = stats.rankdata(x) - (len(x) + 1) / 2
    p_value = _permutation_p(
        [stats.rankdata(y)],
        lambda order, axis: (order * ranks).sum(axis),  # increases with the correlation
        generator,
        pairing="pairings",
        size=len(x),
    )
    return float(stats.spearmanr(x, y).statistic), p_value


def kendall(x: Array, y: Array, generator: np.random.Generator) -> tuple[float, float]:
    """Kendall's tau-b and its two-sided p-value; no side is all equal.

    Without ties it is exact up to 33 pairs, and that of the normal distribution beyond; with ties
    it is from permutations.
    """
    result = stats.kendalltau(x, y)
    if len(np.unique(x)) == len(np.unique(y)) == len(x):
        return float(result.statistic), float(result.pvalue)
    first, second = np.triu_indices(len(x), 1)
    signs = np.sign(x[first] - x[second]).astype(np.int32)
    # As 32-bit integers and by lookup: several times as fast as from the values.
    signs_of_pairs = np.sign(y[:, None] - y).astype(np.int32)

    def concordant_less_discordant(order: Array, axis: int) -> Array:
        places = order.astype(np.intp)
        return (signs_of_pairs[places[..., first], places[..., second]] @ signs).astype(float)

    p_value = _permutation_p(
        [np.arange(len(y), dtype=float)],
        concordant_less_discordant,
        generator,
        pairing="pairings",
        size=len(first),
    )
    return float(result.statistic), p_value


def kendall_w(table: Array) -> float:
    """Kendall's coefficient of concordance, corrected for ties: Friedman's statistic, rescaled.

    ``W = chi^2 / (m (n - 1))``, in [0, 1], for m repetitions of n groups, at least three, as rows
    of a table; NaN where every repetition has all groups equal.

    Source:
        Kendall and Babington Smith 1939, The Problem of m Rankings, Annals of Mathematical
        Statistics 10(3).
    """
    m, n = table.shape
    if (np.ptp(table, axis=1) == 0).all():
        return float("nan")
    return float(stats.friedmanchisquare(*table.T).statistic / (m * (n - 1)))


def concordance_p(table: Array, generator: np.random.Generator) -> float:
    """The chance of a W as large if each repetition ordered the groups at random."""
    m, n = table.shape

    def spread_of_rank_sums(*groups: Array, axis: int) -> Array:
        return sum((group.sum(axis) - m * (n + 1) / 2) ** 2 for group in groups)

    return _permutation_p(
        list(stats.rankdata(table, axis=1).T),
        spread_of_rank_sums,
        generator,
        pairing="samples",
        size=table.size,
        alternative="greater",
    )


def _permutation_p(
    samples: Sequence[Array],
    statistic: Callable[..., Array],
    generator: np.random.Generator,
    *,
    pairing: str,
    size: int,
    alternative: str = "two-sided",
) -> float:
    """Scipy's permutation p-value: of all orders, or of 9,999 at random where there are more.

    Source:
        Phipson and Smyth 2010, Permutation p-values should never be zero, Statistical Applications
        in Genetics and Molecular Biology 9(1).
    """
    test = stats.permutation_test(
        tuple(samples),
        statistic,
        permutation_type=pairing,
        vectorized=True,
        n_resamples=NUM_PERMUTATIONS,
        batch=max(1, _CHUNK // size),
        alternative=alternative,
        rng=generator,
    )
    return float(test.pvalue)
