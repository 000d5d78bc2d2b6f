"""Median and 95th percentile over documents, by group and across groups.

A mean hides a tail. Each document counts once however long it is, so these are no functions of
sums; their intervals come from order statistics and suppose nothing about the distribution.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from lm_eval_specfair.metrics.aggregate.document_sums import DocumentValues
from lm_eval_specfair.metrics.aggregate.sums import BY_DOCUMENT
from lm_eval_specfair.metrics.arrays import Array
from lm_eval_specfair.metrics.definitions.metric import Metric
from lm_eval_specfair.metrics.definitions.registry import METRICS
from lm_eval_specfair.metrics.disparity import Disparity, GroupValues, disparity
from lm_eval_specfair.metrics.statistics.intervals import Estimate, quantile_interval

LEVELS: Mapping[str, float] = {"p50": 0.5, "p95": 0.95}


@dataclass(frozen=True, kw_only=True, slots=True)
class Percentile:
    """A percentile of a metric over documents; `level` is in (0, 1)."""

    name: str  # the key in reports
    description: str  # its definition, for a footnote
    of: Metric
    level: float


PERCENTILES: tuple[Percentile, ...] = tuple(
    Percentile(
        name=f"{metric.name}_{label}",
        description=f"{label} over documents of {metric.description}",
        of=metric,
        level=level,
    )
    for metric in METRICS
    if metric.name in BY_DOCUMENT
    for label, level in LEVELS.items()
)


def percentile_estimate(percentile: Percentile, documents: DocumentValues) -> Estimate | None:
    """A percentile with its interval; None where no document has the metric."""
    if not len(documents.values):
        return None
    low, high = quantile_interval(documents.values, percentile.level) or (None, None)
    value = float(np.quantile(documents.values, percentile.level, method="inverted_cdf"))
    return Estimate(value=value, low=low, high=high, n=documents.num_requests)


def percentile_disparity(
    percentile: Percentile,
    groups: Mapping[str, DocumentValues],
    num_resamples: int,
    generator: np.random.Generator,
    *,
    all_measures: bool = False,
) -> Disparity | None:
    """Compare groups on a percentile of their documents; None with fewer than two groups."""
    if len(groups) < 2:
        return None
    parts, level = list(groups.values()), percentile.level
    drawn = [replicates(part.values, level, num_resamples, generator) for part in parts]
    values = [np.quantile(part.values, level, method="inverted_cdf") for part in parts]
    across = GroupValues(
        values=np.array(values),
        replicates=np.stack(drawn, axis=-1),
        num_documents=np.array([len(part.values) for part in parts]),
        num_requests=sum(part.num_requests for part in parts),
    )
    # A variance of tails is not reported.
    metric = replace(percentile.of, name=percentile.name, has_unfairness=False)
    return disparity(metric, list(groups), across, all_measures=all_measures)


def replicates(
    ordered: Array, level: float, num_resamples: int, generator: np.random.Generator
) -> Array:
    """The quantile of resampled documents, without resampling them, shape (num_resamples,).

    The place, in order, of a resample's k-th smallest value is that of the k-th smallest of n
    uniform numbers, which is Beta(k, n - k + 1).

    Source:
        Efron 1979, Bootstrap Methods, Annals of Statistics 7(1), section 3, which has the exact
        distribution.
    """
    n = len(ordered)
    rank = int(np.quantile(np.arange(n), level, method="inverted_cdf")) + 1
    drawn = generator.beta(rank, n - rank + 1, size=num_resamples)
    return ordered[np.minimum((drawn * n).astype(int), n - 1)]
