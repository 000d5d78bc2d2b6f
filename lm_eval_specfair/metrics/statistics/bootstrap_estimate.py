"""What resampling says about a quantity: its interval, and how sure it lies below or above a limit.

A `BootstrapEstimate` carries a quantity as observed, resampled, and with one document left out.
Any function of figures is one again (`combined`), so that a difference of two runs, a mean over
groups or a spread keeps the pairing: its resampled values come from the same draws of
documents. Knows no records and no groups.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import special

from lm_eval_specfair.metrics.aggregate.sums import Sums
from lm_eval_specfair.metrics.arrays import Array
from lm_eval_specfair.metrics.definitions.metric import Metric
from lm_eval_specfair.metrics.disparity import wider_interval
from lm_eval_specfair.metrics.statistics.bootstrap import (
    Estimate,
    Resampled,
    acceleration,
    bca_interval,
    critical_value,
)

# As for intervals: with more resamples than this without a value there is nothing to tell.
_MAX_UNDEFINED = 0.05


@dataclass(frozen=True, kw_only=True)
class BootstrapEstimate:
    """A quantity with all that its uncertainty is computed from.

    Attributes:
        value: As observed; NaN where it is not defined.
        replicates: Resampled, shape (num_resamples,).
        left_out: Computes it with one document left out: an array of shape (num_documents,) for
            each block of documents that are drawn together. Only asked for where an interval needs
            it, as it is the costliest part.
        num_documents: Documents that it rests on; the fewest of its parts.
        n: Requests that it rests on.
        is_smooth: False for extremes and measures of spread, whose resampled values are biased.
    """

    value: float
    replicates: Array
    left_out: Callable[[], Sequence[Array]]
    num_documents: int
    n: int
    is_smooth: bool = True

    @property
    def is_known(self) -> bool:
        """Whether there is enough to tell how sure the value is."""
        defined = np.isfinite(self.replicates).mean() if len(self.replicates) else 0.0
        return (
            bool(np.isfinite(self.value))
            and self.num_documents >= 2
            and bool(defined >= 1 - _MAX_UNDEFINED)
        )

    @property
    def figure(self) -> Estimate | None:
        """Value and 95% interval; None where the value is not defined.

        Smooth quantities have a BCa interval, others the wider of percentiles and their reflection
        (`metrics.disparity.wider_interval`).
        """
        if not np.isfinite(self.value):
            return None
        if self.num_documents < 2:
            interval = None
        elif self.is_smooth:
            interval = bca_interval(
                self.value, self.replicates, self.left_out(), self.num_documents
            )
        else:
            interval = wider_interval(self.value, self.replicates, self.num_documents)
        low, high = interval or (None, None)
        return Estimate(value=self.value, low=low, high=high, n=self.n)

    def p_below(self, limit: float) -> float | None:
        """One-sided p-value of the claim that the truth lies below a limit; None if unknown.

        At most the stated level of such claims is wrong when the truth lies at the limit or above.
        """
        return None if not self.is_known else 1 - min(self._confidence(limit))

    def p_above(self, limit: float) -> float | None:
        """One-sided p-value of the claim that the truth lies above a limit; None if unknown."""
        return None if not self.is_known else max(self._confidence(limit))

    def p_other_than(self, limit: float) -> float | None:
        """Two-sided p-value of the claim that the truth is not the limit; None if unknown."""
        below, above = self.p_below(limit), self.p_above(limit)
        return None if below is None or above is None else min(1.0, 2 * min(below, above))

    def by_standard_error(self, limit: float) -> tuple[Estimate, float] | None:
        """Value with a symmetric 95% interval, and the two-sided p-value that goes with it.

        For changes of extremes: their resampled values are skewed to the same side whatever the
        truth, so that percentiles and reflection joined cover too often (`compare`).

        Args:
            limit: What the claim says that the truth is not.

        Returns:
            None where there is too little to tell.
        """
        if not self.is_known:
            return None
        error = float(np.nanstd(self.replicates))
        reach = critical_value(self.num_documents) * error
        distance = abs(self.value - limit)
        quantile = -distance / error if error > 0 else (-np.inf if distance > 0 else 0.0)
        found = Estimate(
            value=self.value, low=self.value - reach, high=self.value + reach, n=self.n
        )
        return found, min(1.0, 2 * self._expanded(quantile))

    def _confidence(self, limit: float) -> tuple[float, float]:
        """Confidence that the truth lies below a limit: the inverse of the interval's ends.

        For quantities that are not smooth two answers, as two intervals are joined; a claim must
        hold by both.
        """
        if not self.is_smooth:
            reflected = 1 - self._share_below(2 * self.value - limit)
            return self._share_below(limit), reflected
        quantile = self._quantile(limit)
        bias, skewness = self._quantile(self.value), acceleration(self.left_out())
        distance = quantile - bias
        stretch = 1 + skewness * distance
        moved = distance / stretch if stretch > 0 else np.inf * np.sign(distance)
        certainty = self._expanded(moved - bias)
        return certainty, certainty

    def _share_below(self, limit: float) -> float:
        return self._expanded(self._quantile(limit))

    def _quantile(self, limit: float) -> float:
        """Where a limit lies among the resampled values, in standard deviations of a normal law.

        Beyond the last resample it goes on as the normal tail, so that the p-values of many groups
        don't end at one over the number of resamples.
        """
        values = self.replicates[np.isfinite(self.replicates)]
        below = float(np.mean(values < limit) + np.mean(values == limit) / 2)
        edge = 0.5 / len(values)
        quantile = float(special.ndtri(np.clip(below, edge, 1 - edge)))
        if edge <= below <= 1 - edge:
            return quantile
        deviation = float(values.std())
        distance = limit - float(values.mean())
        if deviation == 0:
            return float(np.copysign(np.inf, distance))
        return float(np.copysign(max(abs(distance) / deviation, abs(quantile)), quantile))

    def _expanded(self, quantile: float) -> float:
        """The level whose interval ends there, few documents counted in (`critical_value`)."""
        n = self.num_documents
        return float(special.stdtr(n - 1, quantile * np.sqrt((n - 1) / n)))


def estimate(resampled: Resampled, metric: Metric, group: int | None) -> BootstrapEstimate:
    """A figure of one group, or of a whole run.

    Args:
        resampled: The run's sums.
        metric: The figure.
        group: The group's number; None for all pooled.
    """
    value, replicates = resampled.values(metric, group)
    requests = resampled.observed.sum(0) if group is None else resampled.observed[group]
    return BootstrapEstimate(
        value=value,
        replicates=replicates,
        left_out=lambda: _left_out_by_block(resampled, metric, group, value),
        num_documents=resampled.num_documents(metric, group),
        n=int(Sums(requests)[metric.requests]),
    )


def _left_out_by_block(
    resampled: Resampled, metric: Metric, group: int | None, value: float
) -> list[Array]:
    """One array for each block, constant where a block's documents don't matter to the figure."""
    found, left_out, first = iter(resampled.left_out(metric, group)), [], 0
    for block in resampled.blocks:
        matters = group is None or metric.uses_run or first <= group < first + block.shape[1]
        left_out.append(next(found) if matters else np.broadcast_to(value, len(block)))
        first += block.shape[1]
    return left_out


def combined(
    function: Callable[..., Any], *parts: BootstrapEstimate, is_smooth: bool = True
) -> BootstrapEstimate:
    """A function of several estimates that were resampled together.

    Args:
        function: Elementwise in all its arguments.
        parts: Its arguments.
        is_smooth: Whether the function is (differences and means are, extremes are not).

    Example:
        >>> one = BootstrapEstimate(
        ...     value=2.0, replicates=np.array([1.0, 3.0]), left_out=list, num_documents=2, n=2
        ... )
        >>> combined(np.subtract, one, one).value
        0.0
    """

    def evaluated(*arguments: Any) -> Array:
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray(function(*arguments), float)

    return BootstrapEstimate(
        value=float(evaluated(*(np.float64(part.value) for part in parts))),
        replicates=evaluated(*(part.replicates for part in parts)),
        # An interval and two p-values may ask for it.
        left_out=functools.cache(
            lambda: [
                evaluated(*each) for each in zip(*(part.left_out() for part in parts), strict=True)
            ]
        ),
        num_documents=min(part.num_documents for part in parts),
        n=max(part.n for part in parts),
        is_smooth=is_smooth and all(part.is_smooth for part in parts),
    )
