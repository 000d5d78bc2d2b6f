"""95% intervals: BCa, percentile, basic, and from order statistics."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

from lm_eval_specfair.metrics.arrays import Array

CONFIDENCE = 0.95

MIN_DOCUMENTS = 6
"""With fewer documents there is neither an interval nor a p-value.

Resampled values of n documents lie within the documents' own range, which a median leaves in
2 of 2^n cases: 95% intervals cover 50% with two documents, 75, 87 and 90% with three, four and
five, 93% with six (docs/decisions/metrics.md).
"""

MAX_UNDEFINED = 0.05  # the share of resamples that may lack a value; with more there is no interval


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """A number with its 95% interval."""

    value: float
    low: float | None = None  # where there is too little to tell
    high: float | None = None
    n: int  # requests that it rests on


def critical_value(num_documents: int) -> float:
    """How many standard errors a 95% interval reaches to each side.

    ``sqrt(n / (n - 1)) t_{n-1, 0.975}``: resampling n documents underestimates the variance by
    (n - 1) / n and takes that estimate for the truth; both matter below some 30 documents.

    Source:
        Hesterberg 2015, What Teachers Should Know About the Bootstrap, The American Statistician
        69(4), section 4.3 (expanded intervals).
    """
    n = num_documents
    return float(special.stdtrit(n - 1, (1 + CONFIDENCE) / 2) * np.sqrt(n / (n - 1)))


def expanded_level(quantile: float, num_documents: int) -> float:
    """The one-sided level whose interval ends at a normal quantile; inverts `critical_value`."""
    n = num_documents
    return float(special.stdtr(n - 1, quantile * np.sqrt((n - 1) / n)))


def normal_quantile(replicates: Array, limit: float) -> float:
    """Where a limit is among resampled values, in standard deviations of a normal distribution.

    Beyond the last resample the normal tail continues, so that p-values of many groups don't end
    at one over the number of resamples.
    """
    values = replicates[np.isfinite(replicates)]
    below = float(np.mean(values < limit) + np.mean(values == limit) / 2)
    edge = 0.5 / len(values)
    quantile = float(special.ndtri(np.clip(below, edge, 1 - edge)))
    if edge <= below <= 1 - edge:
        return quantile
    deviation, distance = float(values.std()), limit - float(values.mean())
    if deviation == 0:
        return float(np.copysign(np.inf, distance))
    return float(np.copysign(max(abs(distance) / deviation, abs(quantile)), quantile))


def bca_interval(
    value: float, replicates: Array, left_out: Sequence[Array], num_documents: int
) -> tuple[float, float] | None:
    """A bias-corrected and accelerated interval of a smooth quantity.

    Ratios of sums are biased and skewed where documents are few; BCa corrects for both and stays
    within the range of the quantity. Its normal quantile is replaced by `critical_value`. Limits:
    it knows only the variation among the documents at hand. If they all agree, its two ends
    coincide. `left_out` has an array for each block of documents. None with fewer than
    `MIN_DOCUMENTS`, or where resamples often lack a value.

    Source:
        Efron 1987, Better Bootstrap Confidence Intervals, JASA 82(397); the acceleration for
        several samples: Davison and Hinkley 1997, Bootstrap Methods and Their Application, 5.3.
    """
    defined = replicates[np.isfinite(replicates)]
    if not np.isfinite(value) or num_documents < MIN_DOCUMENTS:
        return None
    if len(defined) < (1 - MAX_UNDEFINED) * len(replicates):
        return None
    below = np.mean(defined < value) + np.mean(defined == value) / 2
    edge = 0.5 / len(defined)
    bias = special.ndtri(np.clip(below, edge, 1 - edge))
    skewness = acceleration(left_out)
    reach = bias + critical_value(num_documents) * np.array([-1.0, 1.0])
    stretch = 1 - skewness * reach
    # Beyond the pole of the formula is the end of the range.
    with np.errstate(divide="ignore"):
        moved = np.where(stretch > 0, bias + reach / stretch, np.inf * np.sign(reach))
    low, high = np.quantile(defined, special.ndtr(moved))
    return float(low), float(high)


def acceleration(left_out: Sequence[Array]) -> float:
    """BCa's correction for skewness, from values with one document left out, by block."""
    values = np.concatenate(left_out)
    block = np.repeat(np.arange(len(left_out)), [len(part) for part in left_out])
    finite = np.isfinite(values)
    values, block = values[finite], block[finite]
    sizes = np.bincount(block, minlength=len(left_out))
    # A block with one value has no influence: its mean is the value.
    counts = np.maximum(sizes, 1)
    means = np.bincount(block, weights=values, minlength=len(left_out)) / counts
    influence = ((counts - 1) / counts)[block] * (means[block] - values)
    squared = influence * influence
    squares, cubes = float(squared.sum()), float((squared * influence).sum())
    return cubes / squares**1.5 / 6 if squares > 0 else 0.0


def percentile_interval(replicates: Array, num_documents: int) -> tuple[float, float] | None:
    """The interval between percentiles of resampled values; None as for `bca_interval`.

    Source:
        Efron 1979, Bootstrap Methods, Annals of Statistics 7(1); the percentiles are those of
        `critical_value`.
    """
    defined = replicates[np.isfinite(replicates)]
    if num_documents < MIN_DOCUMENTS or len(defined) < (1 - MAX_UNDEFINED) * len(replicates):
        return None
    reach = critical_value(num_documents)
    low, high = np.quantile(defined, special.ndtr([-reach, reach]))
    return float(low), float(high)


def wider_interval(
    value: float, replicates: Array, num_documents: int, *, logs: bool = False
) -> tuple[float, float] | None:
    """The union of the percentile and the basic interval, for extremes and measures of spread.

    Resampled spreads are above the observed one, as that is above the true one: with 30 groups a
    few standard errors apart percentiles alone cover the true difference of the extremes in 2% of
    simulations. Reflected at the observed value they are about right there, but too low with 2
    groups. Their union covers 92 to 98% in both cases and in between; only where groups are equal
    within their noise is it still above the truth (85% and less).

    `num_documents` are those of the group with fewest; `logs` reflects on the logarithmic scale,
    for ratios.

    Source:
        Davison and Hinkley 1997, Bootstrap Methods and Their Application, 5.2 (the reflected one is
        their basic interval); the union, and the simulations, are ours.
    """
    interval = percentile_interval(replicates, num_documents)
    if interval is None:
        return None
    low, high = interval
    if not logs:
        return min(low, 2 * value - high), max(high, 2 * value - low)
    if value == 0 or low <= 0:
        return low, high
    return min(low, value**2 / high), max(high, value**2 / low)


def quantile_interval(values: Array, level: float) -> tuple[float, float] | None:
    """An interval of a quantile, at a level in (0, 1), from order statistics of a sample.

    It covers the true quantile in at least 95% of cases, whatever the distribution, as the number
    of values up to that is binomial. None where there are too few values for either end.

    Source:
        Conover 1999, Practical Nonparametric Statistics, section 3.2.
    """
    ranks = _ranks(len(values), level)
    if ranks is None:
        return None
    low, high = np.partition(values, ranks)[ranks]
    return float(low), float(high)


@functools.cache
def _ranks(num_values: int, level: float) -> NDArray[np.intp] | None:
    """Where the interval's ends are among the values in order.

    As `scipy.stats.quantile_test` has them, without a second to load that.
    """
    counts, tail = np.arange(num_values + 1), (1 - CONFIDENCE) / 2
    low = np.searchsorted(special.bdtr(counts, num_values, level), tail) - 1
    high = np.searchsorted(-special.bdtrc(counts, num_values, level), -tail)
    return None if low < 0 or high >= num_values else np.array([low, high])
