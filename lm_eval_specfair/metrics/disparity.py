"""How unevenly a figure is spread across groups, with the uncertainty of that.

All statistics weigh groups equally, whatever their number of requests. Extremes, and every other
measure of spread, are biased: noise alone drives groups apart, and resampling adds noise to noise.
How each statistic deals with that is said where it is computed.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lm_eval_specfair.metrics.figures import Metric
from lm_eval_specfair.metrics.sums import Array
from lm_eval_specfair.metrics.uncertainty import Figure, percentile_interval


@dataclass(frozen=True, kw_only=True, slots=True)
class Disparity:
    """One metric across groups.

    Attributes:
        worst: The group with the worst value.
        best: The group with the best value.
        statistics: By name: `difference` (best and worst, never negative), `difference_bias`,
            `ratio` (the smaller of the two over the larger), `standard_deviation`,
            `coefficient_of_variation`, `gini`, and where the metric has it `unfairness` and
            `unfairness_uncorrected`. None where it is not defined.
    """

    worst: str
    best: str
    statistics: Mapping[str, Figure | None]


def disparity(
    metric: Metric,
    groups: Sequence[str],
    values: Array,
    replicates: Array,
    num_documents: Array,
    num_requests: int,
) -> Disparity | None:
    """Compare groups on one metric.

    Args:
        metric: What is compared.
        groups: Their names.
        values: Their figures, shape (num_groups,), all finite.
        replicates: The figures resampled, shape (num_resamples, num_groups).
        num_documents: Documents that each figure rests on, shape (num_groups,).
        num_requests: Requests of all of them.

    Returns:
        None with fewer than two groups.
    """
    if len(groups) < 2:
        return None
    lowest, highest = groups[int(values.argmin())], groups[int(values.argmax())]
    fewest = int(num_documents.min())

    def figure(
        statistic: Callable[[Array], Array], *, below: float = np.inf, logs: bool = False
    ) -> Figure | None:
        value = float(statistic(values))
        if not np.isfinite(value):
            return None
        interval = wider_interval(value, statistic(replicates), fewest, logs=logs)
        low, high = (None, None) if interval is None else np.clip(interval, 0, below).tolist()
        return Figure(value=value, low=low, high=high, n=num_requests)

    statistics = {
        "difference": figure(difference),
        "difference_bias": _bias(difference, values, replicates, num_requests),
        "ratio": figure(ratio, below=1, logs=True),
        "standard_deviation": figure(standard_deviation),
        "coefficient_of_variation": figure(coefficient_of_variation),
        "gini": figure(gini, below=1),
    }
    if metric.has_unfairness:
        corrected, uncorrected = unfairness(values, replicates, num_documents, num_requests)
        statistics |= {"unfairness": corrected, "unfairness_uncorrected": uncorrected}
    return Disparity(
        worst=highest if metric.lower_is_better else lowest,
        best=lowest if metric.lower_is_better else highest,
        statistics=statistics,
    )


def difference(values: Array) -> Array:
    """Largest minus smallest over the last axis."""
    spread: Array = np.ptp(values, axis=-1)
    return spread


def ratio(values: Array) -> Array:
    """Smallest over largest, in [0, 1]; NaN where a value is negative or all are 0.

    Example:
        >>> ratio(np.array([1.0, 2.0, 4.0])).item()
        0.25
    """
    low, high = values.min(-1), values.max(-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        quotient: Array = np.where((low >= 0) & (high > 0), low / high, np.nan)
    return quotient


def standard_deviation(values: Array) -> Array:
    """Across groups, which are all there are: the mean square is over m, not m - 1."""
    deviation: Array = values.std(-1)
    return deviation


def coefficient_of_variation(values: Array) -> Array:
    """Standard deviation over mean; NaN where the mean is not positive."""
    mean = values.mean(-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        quotient: Array = np.where(mean > 0, values.std(-1) / mean, np.nan)
    return quotient


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
    mean = values.mean(-1)
    weighted = (np.sort(values, -1) * (2 * np.arange(1, m + 1) - m - 1)).sum(-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        quotient: Array = np.where(
            (values.min(-1) >= 0) & (mean > 0), weighted / (m * m * mean), np.nan
        )
    return quotient


def unfairness(
    values: Array, replicates: Array, num_documents: Array, num_requests: int
) -> tuple[Figure, Figure]:
    """The paper's unfairness U, corrected for noise, and as it comes.

    ``U = (1/m) sum_T (D_T - Dbar)^2``. Noise in the estimates adds
    ``mean_T Var(D_T) - Var(Dbar)`` to its expectation, which is ``(m-1)/m^2 sum_T Var(D_T)`` for
    groups drawn on their own; the resampled deviations from the observed values tell it for groups
    drawn together too. It is subtracted, and what falls below 0 is 0. The interval is that between
    percentiles of the resampled U, less twice the noise: once for the noise of the estimates, once
    for that of resampling. In simulations with 2 to 30 groups it covers 94% or more.

    U of the cross-entropy does not vanish for a perfect drafter (it is then the variance of the
    target's entropies), and it vanishes for a useless one. Read it with the means.

    Returns:
        The corrected figure and the plain one; the plain one has no interval of its own, as it
        estimates the same.

    Source:
        Sandler et al. 2025 (arXiv:2510.02128), U as a variance of cross-entropies; the paper's
        exact formula is not public, this form and the correction are ours.
    """
    plain = float(values.var())
    small_sample = np.sqrt(num_documents / np.maximum(num_documents - 1, 1))
    deviations = (replicates - values) * small_sample
    noise = float(np.nanmean(deviations.var(-1)))
    interval = percentile_interval(replicates.var(-1), int(num_documents.min()))
    low, high = (
        (None, None) if interval is None else np.maximum(np.array(interval) - 2 * noise, 0).tolist()
    )
    return (
        Figure(value=max(plain - noise, 0.0), low=low, high=high, n=num_requests),
        Figure(value=plain, low=None, high=None, n=num_requests),
    )


def wider_interval(
    value: float, replicates: Array, num_documents: int, *, logs: bool = False
) -> tuple[float, float] | None:
    """A 95% interval for a measure of spread: percentiles and their reflection, whichever is wider.

    Resampled spreads lie above the observed one, as that lies above the true one. Percentiles alone
    therefore lie too high: with 30 groups a few standard errors apart they cover the true
    difference of the extremes in 2% of simulations. Reflected at the observed value they are about
    right there, but too low with 2 groups. Their union covers 92 to 98% in both cases and in
    between; only where groups are equal within their noise does it still lie above the truth (85%
    and less). `difference_bias` and `unfairness` tell that case apart.

    Args:
        value: The observed spread.
        replicates: The resampled ones.
        num_documents: Documents of the group with fewest.
        logs: Reflect on the logarithmic scale, for ratios.

    Returns:
        Low and high; None where there is too little to tell.

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


def _bias(
    statistic: Callable[[Array], Array], values: Array, replicates: Array, num_requests: int
) -> Figure:
    """By how much noise inflates a statistic, estimated as resampling inflates it further."""
    bias = float(np.nanmean(statistic(replicates)) - statistic(values))
    return Figure(value=bias, low=None, high=None, n=num_requests)
