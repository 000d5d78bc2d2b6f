"""One metric across groups: worst, best, and how uneven it is, with the uncertainty of that.

All measures weigh groups equally, regardless of their number of requests. Every one of them is
biased: noise alone drives groups apart, and resampling adds noise to noise.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from lm_eval_specfair.metrics.arrays import Array, mean_of_known
from lm_eval_specfair.metrics.definitions.metric import Metric
from lm_eval_specfair.metrics.statistics.bootstrap_estimate import BootstrapEstimate
from lm_eval_specfair.metrics.statistics.inequality import difference
from lm_eval_specfair.metrics.statistics.intervals import (
    Estimate,
    percentile_interval,
    wider_interval,
)
from lm_eval_specfair.metrics.statistics.inversion import Inversion
from lm_eval_specfair.metrics.statistics.multiple_testing import deviations_from_mean
from lm_eval_specfair.metrics.statistics.spread_measures import (
    SHARE_THAT_LOSE,
    SPREAD_MEASURES,
    measures_for,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Disparity:
    """One metric across groups.

    Attributes:
        statistics: By name, one of `SPREAD_MEASURES`; and `difference_bias`, by how much noise
            inflates the difference, and of variances, with all measures, the same as observed
            (`..._uncorrected`). None where it is not defined.
        deviations: For each group the p-value of the claim that it differs from the mean of all
            groups, after Holm's correction; None where there is too little to tell.
    """

    worst: str  # the group with the worst value
    best: str
    statistics: Mapping[str, Estimate | None]
    deviations: Mapping[str, float | None] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class GroupValues:
    """One metric in each group, as observed and resampled; measures of its spread."""

    values: Array  # as observed, (num_groups,), all finite
    replicates: Array  # (num_resamples, num_groups)
    num_documents: Array  # that each value rests on, (num_groups,)
    num_requests: int  # of all groups

    @classmethod
    def of(cls, parts: Sequence[BootstrapEstimate]) -> "GroupValues":
        return cls(
            values=np.array([part.value for part in parts]),
            replicates=np.stack([part.replicates for part in parts], axis=-1),
            num_documents=np.array([part.num_documents for part in parts]),
            num_requests=sum(part.n for part in parts),
        )

    @cached_property
    def noise(self) -> float:
        """What noise in the values adds to the expected variance across groups."""
        return float(noise_between_groups(self.values, self.replicates, self.num_documents))

    @cached_property
    def _inversion(self) -> Inversion | None:
        return Inversion.of(self.values, self.replicates, self.num_documents)

    @property
    def _fewest(self) -> int:
        return int(self.num_documents.min())

    def value(self, name: str) -> float:
        """A measure of spread, one of `SPREAD_MEASURES`; NaN where it is not defined.

        Of variances noise is subtracted; where less than nothing would remain, they are 0. The
        paper's unfairness is ``U = (1/m) sum_T (D_T - Dbar)^2``; that of the cross-entropy does not
        vanish for a perfect drafter, and vanishes for a useless one, so read it with the means.

        Source:
            Sandler et al. 2025 (arXiv:2510.02128), U as a variance of cross-entropies; the paper's
            exact formula is not public, this form and the correction are ours.
        """
        measure = SPREAD_MEASURES[name]
        values = self._without_noise(self.values, 1) if measure.is_variance else self.values
        return float(measure.of(values))

    def estimate(self, name: str) -> Estimate | None:
        """A measure of spread with its 95% interval; None where it is not defined.

        The interval comes from test inversion (`statistics.inversion`), for extremes joined with
        percentiles and their reflection; for a share, which moves in jumps, it is the percentiles.
        """
        value = self.value(name)
        if not np.isfinite(value):
            return None
        low, high = self._interval(name) or (None, None)
        return Estimate(value=value, low=low, high=high, n=self.num_requests)

    def _interval(self, name: str) -> tuple[float, float] | None:
        measure = SPREAD_MEASURES[name]
        if name == SHARE_THAT_LOSE:
            return percentile_interval(measure.of(self.replicates), self._fewest)
        inverted = self._inversion
        interval = None if inverted is None else inverted.interval(measure.of, falls=measure.falls)
        if interval is None:
            return None
        if measure.is_extreme:
            observed, resampled = float(measure.of(self.values)), measure.of(self.replicates)
            other = wider_interval(observed, resampled, self._fewest, logs=measure.falls)
            if other is not None:
                interval = min(interval[0], other[0]), max(interval[1], other[1])
        low, high = np.clip(interval, 0, measure.most).tolist()
        return low, high

    def p_values(self, name: str, limit: float) -> tuple[float | None, float | None]:
        """One-sided p-values of the claims that a measure is truly below, and above, a limit.

        A claim must hold by all that `estimate` joins. None twice where there is too little to
        tell.
        """
        measure = SPREAD_MEASURES[name]
        inverted = self._inversion
        if inverted is None:
            return None, None
        p_values = inverted.p_values(measure.of, limit, falls=measure.falls)
        if p_values is None:
            return None, None
        below, above = p_values
        if measure.is_extreme:
            observed = self._as_estimate(
                float(measure.of(self.values)), measure.of(self.replicates)
            )
            below = max(below, observed.p_below(limit) or 0.0)
            above = max(above, observed.p_above(limit) or 0.0)
        return below, above

    def without_noise(self, name: str) -> BootstrapEstimate:
        """A measure of spread less what noise adds to it: once as observed, twice if resampled.

        NaN where a group has one document. A share of groups that lose stays as it is.
        """
        measure = SPREAD_MEASURES[name]
        if name == SHARE_THAT_LOSE:
            return self._as_estimate(self.value(name), measure.of(self.replicates))
        value = float(measure.of(self._without_noise(self.values, 1)))
        return self._as_estimate(
            value if self._fewest > 1 else np.nan,
            measure.of(self._without_noise(self.replicates, 2)),
        )

    def _without_noise(self, values: Array, times: int) -> Array:
        """Groups moved towards their mean until their variance is less by the noise."""
        centre, spread = values.mean(-1, keepdims=True), values.var(-1, keepdims=True)
        with np.errstate(divide="ignore", invalid="ignore"):
            kept = np.where(spread > 0, 1 - times * self.noise / spread, 0)
        return centre + np.sqrt(np.maximum(kept, 0)) * (values - centre)

    def _as_estimate(self, value: float, replicates: Array) -> BootstrapEstimate:
        return BootstrapEstimate(
            value=value,
            replicates=replicates,
            left_out=dict,
            num_documents=self._fewest,
            n=self.num_requests,
            method="percentile_and_basic",
        )


def noise_between_groups(values: Array, replicates: Array, num_documents: Array) -> Array:
    """What noise in the estimates adds to the expected variance across groups, shape (...).

    ``mean_T Var(x_T) - Var(mean)``, which is ``(m-1)/m^2 sum_T Var(x_T)`` for groups drawn on their
    own; the resampled deviations from the observed values, shape (..., num_groups), tell it for
    groups drawn together too. Resamples are the first axis of `replicates`.
    """
    small_sample = np.sqrt(num_documents / np.maximum(num_documents - 1, 1))
    return mean_of_known(((replicates - values) * small_sample).var(-1))


def disparity(
    metric: Metric, groups: Sequence[str], across: GroupValues, *, all_measures: bool = False
) -> Disparity | None:
    """Compare groups on one metric; None with fewer than two groups.

    With `all_measures` every measure of spread is given, not only the default ones.
    """
    if len(groups) < 2:
        return None
    values, replicates = across.values, across.replicates
    measures = measures_for(metric, all_measures=all_measures)
    statistics = {name: across.estimate(name) for name in measures}
    bias = float(mean_of_known(difference(replicates)) - difference(values))
    others = {"difference_bias": bias}
    if all_measures:
        others |= {
            f"{name}_uncorrected": float(measure.of(values))
            for name, measure in measures.items()
            if measure.is_variance and statistics[name] is not None
        }
    statistics |= {
        name: Estimate(value=value, n=across.num_requests) for name, value in others.items()
    }
    lowest, highest = groups[int(values.argmin())], groups[int(values.argmax())]
    deviations = deviations_from_mean(values, replicates, across.num_documents)
    return Disparity(
        worst=highest if metric.lower_is_better else lowest,
        best=lowest if metric.lower_is_better else highest,
        statistics=statistics,
        deviations=dict(zip(groups, deviations, strict=True)),
    )
