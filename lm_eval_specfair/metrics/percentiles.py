"""What half of the documents need, and what 19 of 20 need: medians and 95th percentiles.

A mean hides a tail. These are percentiles over documents, each counting once however long it is,
hence no functions of sums; their intervals come from order statistics and suppose nothing about
the distribution.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy import special

from lm_eval_specfair.metrics.aggregate.sums import Sums
from lm_eval_specfair.metrics.arrays import Array
from lm_eval_specfair.metrics.definitions.metric import Metric, ratio_of
from lm_eval_specfair.metrics.statistics.bootstrap import CONFIDENCE, Estimate

LEVELS: Mapping[str, float] = {"p50": 0.5, "p95": 0.95}
_SPENT = {
    "seconds": "decoding seconds",
    "steps": "steps",
    "target_passes": "target passes",
}
_UNITS = {"kilobyte": "1,000 UTF-8 bytes", "document": "document"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Percentile:
    """A percentile of a figure over documents.

    Attributes:
        name: The key in reports.
        description: Its definition, for a footnote.
        of: The figure, as in `metrics.aggregate.sums.RATIOS`.
        level: Which percentile, in (0, 1).
    """

    name: str
    description: str
    of: str
    level: float

    def as_metric(self) -> Metric:
        """For a comparison of groups; it cannot be evaluated from sums."""
        return Metric(
            name=self.name,
            description=self.description,
            requests=f"{self.of}.requests",
            evaluate=lambda sums, _run: np.full(sums.values.shape[:-1], np.nan),
            lower_is_better=True,
        )


PERCENTILES: tuple[Percentile, ...] = tuple(
    Percentile(
        name=f"{spent}_per_{unit}_{label}",
        description=f"{label} over documents of {said} per {per}",
        of=f"{spent}_per_{unit}",
        level=level,
    )
    for spent, said in _SPENT.items()
    for unit, per in _UNITS.items()
    for label, level in LEVELS.items()
)


def values(of: str, documents: Array) -> Array:
    """A figure of each document that has it.

    Args:
        of: The figure, one of `metrics.aggregate.sums.RATIOS`.
        documents: Sums of each, shape (num_documents, num_columns).
    """
    each = ratio_of(Sums(documents), of)
    found: Array = each[np.isfinite(each)]
    return found


def num_requests(of: str, documents: Array) -> int:
    """Requests of the documents that have it."""
    return int(Sums(documents)[f"{of}.requests"].sum())


def quantile(ordered: Array, level: float) -> float:
    """The smallest value that at least this share of the values does not exceed.

    Args:
        ordered: Values in order, at least one.
        level: The share, in (0, 1).

    Example:
        >>> quantile(np.arange(1.0, 21.0), 0.95)
        19.0
    """
    return float(ordered[_place(len(ordered), level)])


def quantile_interval(ordered: Array, level: float) -> tuple[float, float] | None:
    """A 95% interval for a quantile, from order statistics: it covers at least that often.

    The number of values up to the true quantile is binomial, whatever the distribution. So the
    interval runs from the largest order statistic that lies above it with a chance of 2.5% at most
    to the smallest that lies below it so rarely.

    Returns:
        Low and high; None where there are too few values for either end.

    Source:
        Conover 1999, Practical Nonparametric Statistics, section 3.2.
    """
    n, tail = len(ordered), (1 - CONFIDENCE) / 2
    counts = np.arange(n + 1)
    at_most = special.bdtr(counts, n, level)  # P(number of values below the quantile <= count)
    # Of the k-th value (from 1): it lies above the quantile if fewer than k values lie below.
    lows = np.flatnonzero(at_most[:-1] <= tail)
    highs = np.flatnonzero(1 - at_most[:-1] <= tail)
    if not len(lows) or not len(highs):
        return None
    return float(ordered[lows[-1]]), float(ordered[highs[0]])


def figure(percentile: Percentile, ordered: Array, n: int) -> Estimate | None:
    """A percentile with its interval.

    Args:
        percentile: Which.
        ordered: Values of the documents, in order.
        n: Requests of them.

    Returns:
        None where no document has it.
    """
    if not len(ordered):
        return None
    low, high = quantile_interval(ordered, percentile.level) or (None, None)
    value = quantile(ordered, percentile.level)
    return Estimate(value=value, low=low, high=high, n=n)


def replicates(
    ordered: Array, level: float, num_resamples: int, generator: np.random.Generator
) -> Array:
    """The quantile of resampled documents, without resampling them.

    The place, in order, of a resample's k-th smallest value is that of the k-th smallest of n
    uniform numbers, which is Beta(k, n - k + 1).

    Returns:
        Shape (num_resamples,).

    Source:
        Efron 1979, Bootstrap Methods, Annals of Statistics 7(1), section 3, which has the exact
        distribution.
    """
    n = len(ordered)
    rank = _place(n, level) + 1
    drawn = generator.beta(rank, n - rank + 1, size=num_resamples)
    picked: Array = ordered[np.minimum((drawn * n).astype(int), n - 1)]
    return picked


def _place(count: int, level: float) -> int:
    return int(np.ceil(round(count * level, 9))) - 1
