"""What goes with what across groups: rank correlations, and how stable an order of groups is.

Groups are few and were not drawn at random, so the question asked is: if the two orders had nothing
to do with each other, how often would they agree as well as this? An association is no cause; with
two dozen languages, script, resources and tokens per byte all go together.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lm_eval_specfair.metrics.arrays import Array
from lm_eval_specfair.metrics.statistics.multiple_testing import holm

NUM_PERMUTATIONS = 9_999
_MOST_EXACT = 7  # 5,040 orders
_FEWEST_GROUPS = 4  # of three, no order is rarer than 1 in 6
_AT_ONCE = 4_000_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Association:
    """How far two figures put the groups into the same order.

    Attributes:
        figure: One figure's name.
        other: The other's.
        num_groups: Groups that have both.
        spearman: Spearman's rank correlation, in [-1, 1].
        spearman_p: Its two-sided permutation p-value.
        spearman_p_adjusted: After Holm's correction over all associations of the report.
        kendall: Kendall's tau-b, in [-1, 1].
        kendall_p: Its two-sided permutation p-value.
        kendall_p_adjusted: After Holm's correction.
    """

    figure: str
    other: str
    num_groups: int
    spearman: float
    spearman_p: float
    kendall: float
    kendall_p: float
    spearman_p_adjusted: float | None = None
    kendall_p_adjusted: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Concordance:
    """How far several measurements put the groups into the same order.

    Attributes:
        figure: The figure's name.
        over: What was repeated: `runs` or `suites`.
        names: The repetitions.
        groups: The groups that all of them have.
        w: Kendall's W: 1 for the same order everywhere, about 1 / len(names) for unrelated ones.
        p_value: The chance of a W as large if the orders had nothing in common.
    """

    figure: str
    over: str
    names: Sequence[str]
    groups: Sequence[str]
    w: float
    p_value: float


def ranks(values: Array) -> Array:
    """Ranks from 1, the mean rank for ties, over the last axis of a flat array.

    Example:
        >>> ranks(np.array([3.0, 1.0, 3.0])).tolist()
        [2.5, 1.0, 2.5]
    """
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    found: Array = (last - (counts - 1) / 2)[inverse]
    return found


def spearman(first: Array, second: Array) -> Array:
    """Spearman's correlation of each row with a row: Pearson's, of the ranks.

    Args:
        first: Values, shape (num_groups,).
        second: Values, shape (..., num_groups); each row a permutation of the same values.
    """
    ranked = ranks(second.reshape(-1, second.shape[-1])[0])
    lookup = _lookup(second, ranked)
    x, y = ranks(first) - ranks(first).mean(), lookup - ranked.mean()
    product: Array = (y @ x) / np.sqrt((x**2).sum() * ((ranked - ranked.mean()) ** 2).sum())
    return product


def kendall(first: Array, second: Array) -> Array:
    """Kendall's tau-b of each row with a row: concordant less discordant pairs, ties allowed for.

    Args:
        first: Values, shape (num_groups,).
        second: Values, shape (..., num_groups); each row a permutation of the same values.
    """
    # By ranks, in small whole numbers and one group at a time: many times as fast as in floats.
    flat = second.reshape(-1, len(first))
    ranked = _lookup(flat, np.unique(flat[0], return_inverse=True)[1].astype(np.int32)).T.copy()
    x = np.sign(first[:, None] - first).astype(np.int32)
    y = np.sign(ranked[:, :1] - ranked[:, 0])
    agreeing = sum(
        x[group, group + 1 :] @ np.sign(ranked[group] - ranked[group + 1 :])
        for group in range(len(first) - 1)
    )
    # Each pair is there twice.
    size = np.sqrt(float(np.count_nonzero(x)) * np.count_nonzero(y)) / 2
    tau: Array = (agreeing / size).reshape(second.shape[:-1])
    return tau


def _lookup(values: Array, ranked: Array) -> Array:
    flat = values.reshape(-1, values.shape[-1])
    order = np.argsort(flat[0], kind="stable")
    places = np.searchsorted(flat[0][order], flat)
    found: Array = ranked[order][places].reshape(values.shape)
    return found


def permutation_p(
    statistic: Callable[[Array, Array], Array],
    first: Array,
    second: Array,
    generator: np.random.Generator,
) -> float:
    """Two-sided p-value: how often an order at random agrees, or disagrees, as well.

    All orders of up to seven groups are tried; of more, 9,999 at random and the one observed.

    Source:
        Phipson and Smyth 2010, Permutation p-values should never be zero, Statistical Applications
        in Genetics and Molecular Biology 9(1).
    """
    observed = abs(float(statistic(first, second[None])[0])) - 1e-12
    if len(first) <= _MOST_EXACT:
        orders = np.array(list(itertools.permutations(range(len(first)))))
        return float((np.abs(statistic(first, second[orders])) >= observed).mean())
    pairs = len(first) * (len(first) - 1) // 2
    extreme, left = 1, NUM_PERMUTATIONS
    while left:
        size = min(left, max(1, _AT_ONCE // pairs))
        orders = generator.permuted(np.tile(np.arange(len(first)), (size, 1)), axis=1)
        extreme += int((np.abs(statistic(first, second[orders])) >= observed).sum())
        left -= size
    return extreme / (NUM_PERMUTATIONS + 1)


def association(
    names: tuple[str, str], first: Array, second: Array, generator: np.random.Generator
) -> Association | None:
    """How two figures go together across groups.

    Args:
        names: Of the two figures.
        first: One of them, shape (num_groups,); NaN where a group lacks it.
        second: The other.
        generator: Source of all randomness.

    Returns:
        None where fewer than four groups have both, or all are equal in one.
    """
    both = np.isfinite(first) & np.isfinite(second)
    x, y = first[both], second[both]
    if len(x) < _FEWEST_GROUPS or np.ptp(x) == 0 or np.ptp(y) == 0:
        return None
    return Association(
        figure=names[0],
        other=names[1],
        num_groups=len(x),
        spearman=float(spearman(x, y[None])[0]),
        spearman_p=permutation_p(spearman, x, y, generator),
        kendall=float(kendall(x, y[None])[0]),
        kendall_p=permutation_p(kendall, x, y, generator),
    )


def adjusted(found: Sequence[Association]) -> list[Association]:
    """The same with Holm's correction over all of them, for each coefficient."""
    by_spearman = holm([each.spearman_p for each in found])
    by_kendall = holm([each.kendall_p for each in found])
    return [
        Association(
            figure=each.figure,
            other=each.other,
            num_groups=each.num_groups,
            spearman=each.spearman,
            spearman_p=each.spearman_p,
            kendall=each.kendall,
            kendall_p=each.kendall_p,
            spearman_p_adjusted=of_spearman,
            kendall_p_adjusted=of_kendall,
        )
        for each, of_spearman, of_kendall in zip(found, by_spearman, by_kendall, strict=True)
    ]


def kendall_w(table: Array) -> float:
    """Kendall's coefficient of concordance, corrected for ties.

    ``W = 12 S / (m^2 (n^3 - n) - m sum_j T_j)`` with S the squared deviations of the n groups' rank
    sums over m repetitions, and ``T_j = sum (t^3 - t)`` over the ties of repetition j.

    Args:
        table: Shape (num_repetitions, num_groups).

    Returns:
        In [0, 1]; NaN where every repetition has all groups equal.

    Source:
        Kendall and Babington Smith 1939, The Problem of m Rankings, Annals of Mathematical
        Statistics 10(3).
    """
    m, n = table.shape
    ranked = np.stack([ranks(row) for row in table])
    ties = sum(float(_ties(row)) for row in table)
    deviations = float(((ranked.sum(0) - m * (n + 1) / 2) ** 2).sum())
    most = m**2 * (n**3 - n) - m * ties
    return 12 * deviations / most if most > 0 else math.nan


def _ties(row: Array) -> NDArray[np.float64]:
    counts = np.unique(row, return_counts=True)[1].astype(float)
    total: NDArray[np.float64] = (counts**3 - counts).sum()
    return total


def concordance_p(table: Array, generator: np.random.Generator) -> float:
    """The chance of a W as large if each repetition ordered the groups at random."""
    ranked = np.stack([ranks(row) for row in table])

    def spread(many: Array) -> Array:
        sums = many.sum(-2)
        total: Array = ((sums - sums.mean(-1, keepdims=True)) ** 2).sum(-1)
        return total

    observed, extreme, left = float(spread(ranked)) - 1e-9, 1, NUM_PERMUTATIONS
    while left:
        size = min(left, max(1, _AT_ONCE // ranked.size))
        shuffled = generator.permuted(np.broadcast_to(ranked, (size, *ranked.shape)), axis=-1)
        extreme += int((spread(shuffled) >= observed).sum())
        left -= size
    return extreme / (NUM_PERMUTATIONS + 1)
