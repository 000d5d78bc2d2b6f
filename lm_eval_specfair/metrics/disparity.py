"""How unevenly a figure is spread across groups, with the uncertainty of that.

All statistics weigh groups equally, whatever their number of requests. Extremes, and every other
measure of spread, are biased: noise alone drives groups apart, and resampling adds noise to noise.
How each statistic deals with that is said where it is computed.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from lm_eval_specfair.metrics.arrays import Array
from lm_eval_specfair.metrics.definitions.metric import Metric
from lm_eval_specfair.metrics.statistics.bootstrap import Estimate, percentile_interval
from lm_eval_specfair.metrics.statistics.inequality import (
    coefficient_of_variation,
    difference,
    gini,
    ratio,
    share_below_one,
    standard_deviation,
    variance,
)
from lm_eval_specfair.metrics.statistics.inversion import Inversion
from lm_eval_specfair.metrics.statistics.multiple_testing import deviations_from_mean
from lm_eval_specfair.metrics.statistics.spread_measures import (
    RELATIVE_UNFAIRNESS,
    SHARE_THAT_LOSE,
    UNFAIRNESS,
    measures_for,
)

__all__ = [
    "Disparity",
    "coefficient_of_variation",
    "difference",
    "disparity",
    "gini",
    "ratio",
    "standard_deviation",
    "unfairness",
    "wider_interval",
]


@dataclass(frozen=True, kw_only=True, slots=True)
class Disparity:
    """One metric across groups.

    Attributes:
        worst: The group with the worst value.
        best: The group with the best value.
        statistics: By name, one of `SPREAD_MEASURES`; and `difference_bias`, by how much noise
            inflates the difference, and of variances, with all measures, the same as observed
            (`..._uncorrected`). None where it is not defined.
        deviations: For each group the p-value of the claim that it differs from the mean of all
            groups, after Holm's correction; None where there is too little to tell.
    """

    worst: str
    best: str
    statistics: Mapping[str, Estimate | None]
    deviations: Mapping[str, float | None] = field(default_factory=dict)


def disparity(
    metric: Metric,
    groups: Sequence[str],
    values: Array,
    replicates: Array,
    num_documents: Array,
    num_requests: int,
    *,
    all_measures: bool = False,
) -> Disparity | None:
    """Compare groups on one metric.

    Args:
        metric: What is compared.
        groups: Their names.
        values: Their figures, shape (num_groups,), all finite.
        replicates: The figures resampled, shape (num_resamples, num_groups).
        num_documents: Documents that each figure rests on, shape (num_groups,).
        num_requests: Requests of all of them.
        all_measures: Whether to give every measure of spread, not only the default ones.

    Returns:
        None with fewer than two groups.
    """
    if len(groups) < 2:
        return None
    lowest, highest = groups[int(values.argmin())], groups[int(values.argmax())]
    measures = measures_for(
        is_speedup=metric.is_speedup,
        has_unfairness=metric.has_unfairness,
        all_measures=all_measures,
    )
    loses = measures.pop(SHARE_THAT_LOSE, None)
    inversion = Inversion.of(values, replicates, num_documents)
    statistics: dict[str, Estimate | None] = {}
    for name, statistic in measures.items():
        value = float(statistic.of(values))
        if not np.isfinite(value):
            statistics[name] = None
            continue
        interval = inversion.interval(statistic.of, falls=statistic.falls) if inversion else None
        if interval is not None and statistic.is_extreme:
            other = wider_interval(
                value, statistic.of(replicates), int(num_documents.min()), logs=statistic.falls
            )
            if other is not None:
                interval = min(interval[0], other[0]), max(interval[1], other[1])
        low, high = (
            (None, None) if interval is None else np.clip(interval, 0, statistic.most).tolist()
        )
        statistics[name] = Estimate(value=value, low=low, high=high, n=num_requests)
    statistics["difference_bias"] = _bias(difference, values, replicates, num_requests)
    if loses is not None:
        statistics[SHARE_THAT_LOSE] = _share_that_lose(
            values, replicates, num_documents, num_requests
        )
    if metric.has_unfairness:
        statistics |= _corrected(statistics, values, replicates, num_documents, num_requests)
        if not all_measures:
            del statistics["unfairness_uncorrected"]
    return Disparity(
        worst=highest if metric.lower_is_better else lowest,
        best=lowest if metric.lower_is_better else highest,
        statistics=statistics,
        deviations=dict(
            zip(groups, deviations_from_mean(values, replicates, num_documents), strict=True)
        ),
    )


def noise_between_groups(values: Array, replicates: Array, num_documents: Array) -> float:
    """What noise in the estimates adds to the expected variance across groups.

    ``mean_T Var(x_T) - Var(mean)``, which is ``(m-1)/m^2 sum_T Var(x_T)`` for groups drawn on their
    own; the resampled deviations from the observed values tell it for groups drawn together too.
    """
    small_sample = np.sqrt(num_documents / np.maximum(num_documents - 1, 1))
    return float(np.nanmean(((replicates - values) * small_sample).var(-1)))


def unfairness(
    values: Array, replicates: Array, num_documents: Array, num_requests: int
) -> tuple[Estimate, Estimate]:
    """The paper's unfairness U, corrected for noise, and as it comes.

    ``U = (1/m) sum_T (D_T - Dbar)^2``. Noise in the estimates adds to its expectation
    (`noise_between_groups`); that is subtracted, and what falls below 0 is 0. The interval comes
    from test inversion (`metrics.statistics.inversion`).

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
    noise = noise_between_groups(values, replicates, num_documents)
    inversion = Inversion.of(values, replicates, num_documents)
    interval = inversion.interval(variance) if inversion else None
    low, high = interval or (None, None)
    return (
        Estimate(value=max(plain - noise, 0.0), low=low, high=high, n=num_requests),
        Estimate(value=plain, low=None, high=None, n=num_requests),
    )


def _corrected(
    statistics: Mapping[str, Estimate | None],
    values: Array,
    replicates: Array,
    num_documents: Array,
    num_requests: int,
) -> dict[str, Estimate | None]:
    """U and its partner without a scale, less what noise adds to them."""
    noise = noise_between_groups(values, replicates, num_documents)
    found: dict[str, Estimate | None] = {}
    for name, scale in ((UNFAIRNESS, 1.0), (RELATIVE_UNFAIRNESS, float(values.mean()) ** 2)):
        if name not in statistics:
            continue
        plain = statistics[name]
        found[f"{name}_uncorrected"] = plain and Estimate(
            value=plain.value, low=None, high=None, n=num_requests
        )
        found[name] = plain and Estimate(
            value=max(plain.value - noise / scale, 0.0), low=plain.low, high=plain.high, n=plain.n
        )
    return found


def _share_that_lose(
    values: Array, replicates: Array, num_documents: Array, num_requests: int
) -> Estimate:
    """Share of groups below 1; a share of few groups moves in jumps, so percentiles serve."""
    interval = percentile_interval(share_below_one(replicates), int(num_documents.min()))
    low, high = interval or (None, None)
    value = float(share_below_one(values))
    return Estimate(value=value, low=low, high=high, n=num_requests)


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
) -> Estimate:
    """By how much noise inflates a statistic, estimated as resampling inflates it further."""
    bias = float(np.nanmean(statistic(replicates)) - statistic(values))
    return Estimate(value=bias, low=None, high=None, n=num_requests)
