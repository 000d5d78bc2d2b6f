"""A bootstrap estimate: value, 95% interval and one-sided p-values.

Any function of estimates is one again (`combined`), so that a difference of two runs or a mean over
groups keeps the pairing: its resampled values come from the same draws of documents.
"""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from lm_eval_specfair.metrics.arrays import Array
from lm_eval_specfair.metrics.definitions.metric import Metric
from lm_eval_specfair.metrics.statistics.bootstrap import Resampled, starts
from lm_eval_specfair.metrics.statistics.intervals import (
    MAX_UNDEFINED,
    MIN_DOCUMENTS,
    Estimate,
    acceleration,
    bca_interval,
    critical_value,
    expanded_level,
    normal_quantile,
    wider_interval,
)

Method = Literal["bca", "percentile_and_basic", "standard_error"]
"""How an interval is made: BCa for smooth quantities; for extremes and measures of spread, whose
resampled values are biased, the union of percentile and basic; for changes of extremes, whose
resampled values are skewed to the same side whatever the truth, the standard error."""


@dataclass(frozen=True, kw_only=True)
class BootstrapEstimate:
    """A quantity with all that its uncertainty is computed from.

    `left_out` computes it with one document left out, as `Resampled.left_out` gives it: the
    costliest part, so only called where an interval needs it.
    """

    value: float  # as observed; NaN where it is not defined
    replicates: Array  # resampled, (num_resamples,)
    left_out: Callable[[], Mapping[int, Array]]
    num_documents: int  # that it rests on; the fewest of its parts
    n: int  # requests that it rests on
    method: Method = "bca"

    @property
    def is_known(self) -> bool:
        """Whether there is enough to tell how sure the value is."""
        defined = np.isfinite(self.replicates).mean() if len(self.replicates) else 0.0
        return (
            bool(np.isfinite(self.value))
            and self.num_documents >= MIN_DOCUMENTS
            and bool(defined >= 1 - MAX_UNDEFINED)
        )

    @property
    def estimate(self) -> Estimate | None:
        """Value and 95% interval; None where the value is not defined."""
        if not np.isfinite(self.value):
            return None
        low, high = (self._interval() if self.is_known else None) or (None, None)
        return Estimate(value=self.value, low=low, high=high, n=self.n)

    def _interval(self) -> tuple[float, float] | None:
        if self.method == "bca":
            left_out = list(self.left_out().values())
            return bca_interval(self.value, self.replicates, left_out, self.num_documents)
        if self.method == "percentile_and_basic":
            return wider_interval(self.value, self.replicates, self.num_documents)
        reach = critical_value(self.num_documents) * float(np.nanstd(self.replicates))
        return self.value - reach, self.value + reach

    def p_below(self, limit: float) -> float | None:
        """One-sided p-value of the claim that the truth is below a limit; None if unknown."""
        return None if not self.is_known else 1 - min(self._confidence(limit))

    def p_above(self, limit: float) -> float | None:
        """One-sided p-value of the claim that the truth is above a limit; None if unknown."""
        return None if not self.is_known else max(self._confidence(limit))

    def p_other_than(self, limit: float) -> float | None:
        """Two-sided p-value of the claim that the truth is not the limit; None if unknown."""
        below, above = self.p_below(limit), self.p_above(limit)
        return None if below is None or above is None else min(1.0, 2 * min(below, above))

    def _confidence(self, limit: float) -> tuple[float, float]:
        """Confidence that the truth is below a limit: the inverse of the interval's ends.

        Two answers where two intervals are joined; a claim must hold by both.
        """
        if self.method == "percentile_and_basic":
            reflected = 1 - self._level(self._quantile(2 * self.value - limit))
            return self._level(self._quantile(limit)), reflected
        if self.method == "bca":
            bias = self._quantile(self.value)
            distance = self._quantile(limit) - bias
            stretch = 1 + acceleration(list(self.left_out().values())) * distance
            moved = distance / stretch if stretch > 0 else np.inf * np.sign(distance)
            level = self._level(moved - bias)
        else:
            error, distance = float(np.nanstd(self.replicates)), limit - self.value
            if error == 0 and distance != 0:
                distance, error = float(np.copysign(np.inf, distance)), 1.0
            level = self._level(distance / (error or 1.0))
        return level, level

    def _quantile(self, limit: float) -> float:
        return normal_quantile(self.replicates, limit)

    def _level(self, quantile: float) -> float:
        return expanded_level(quantile, self.num_documents)


def bootstrap_estimate(
    resampled: Resampled, metric: Metric, group: int | None
) -> BootstrapEstimate:
    """A metric of one group, or for None of a whole run."""
    value, replicates = resampled.values(metric, group)
    return BootstrapEstimate(
        value=value,
        replicates=replicates,
        left_out=functools.cache(lambda: resampled.left_out(metric, group)),
        num_documents=resampled.num_documents(metric, group),
        n=resampled.num_requests(metric, group),
    )


def combined(
    function: Callable[..., Any], *parts: BootstrapEstimate, method: Method = "bca"
) -> BootstrapEstimate:
    """A function, elementwise in all its arguments, of estimates that were resampled together.

    `method` is how its interval is made; of parts that are not smooth no function is.

    Example:
        >>> one = BootstrapEstimate(
        ...     value=2.0, replicates=np.array([1.0, 3.0]), left_out=dict, num_documents=2, n=2
        ... )
        >>> combined(np.subtract, one, one).value
        0.0
    """

    def evaluated(*arguments: Any) -> Array:
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray(function(*arguments), float)

    def left_out() -> dict[int, Array]:
        blocks = [part.left_out() for part in parts]
        found = {}
        for number in sorted(set().union(*blocks)):
            size = min(len(block[number]) for block in blocks if number in block)
            found[number] = evaluated(
                *(
                    _left_out_of_block(part.value, block.get(number), size)
                    for part, block in zip(parts, blocks, strict=True)
                )
            )
        return found

    is_smooth = all(part.method == "bca" for part in parts)
    return BootstrapEstimate(
        value=float(evaluated(*(np.float64(part.value) for part in parts))),
        replicates=evaluated(*(part.replicates for part in parts)),
        left_out=functools.cache(left_out),  # an interval and two p-values may ask for it
        num_documents=min(part.num_documents for part in parts),
        n=max(part.n for part in parts),
        method="percentile_and_basic" if method == "bca" and not is_smooth else method,
    )


def _left_out_of_block(value: float, values: Array | None, size: int) -> Array:
    """A part's values with some documents of a block left out, shape (size,).

    Where another part leaves out several at once, what each changes is added up.
    """
    if values is None:
        return np.full(size, value)
    if len(values) == size:
        return values
    return value + np.add.reduceat(values - value, starts(len(values), size))
