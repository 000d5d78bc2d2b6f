"""A metric: a name, a definition, and a function of sums."""

from collections.abc import Callable
from dataclasses import dataclass

from lm_eval_specfair.metrics.aggregate.sums import Sums
from lm_eval_specfair.metrics.arrays import Array, quotient


@dataclass(frozen=True, kw_only=True, slots=True)
class Metric:
    """A metric: a name, a definition, and a function of sums.

    Attributes:
        requests: The column that counts the requests it rests on.
        evaluate: From the sums of some requests and those of the whole run, each shape
            (..., num_columns), to shape (...).
        lower_is_better: Whether the worst group is the one with the largest value.
        uses_run: Whether the whole run's sums matter.
        has_unfairness: Whether the variance across groups is reported (`metrics.disparity`).
        is_speedup: Whether 1 is plain decoding, so that a group below it loses.
    """

    name: str  # the key in reports
    description: str  # definition and unit, for a footnote
    requests: str
    evaluate: Callable[[Sums, Sums], Array]
    lower_is_better: bool = False
    uses_run: bool = False
    has_unfairness: bool = False
    is_speedup: bool = False


def ratio_of(sums: Sums, name: str) -> Array:
    """One of `metrics.aggregate.sums.RATIOS`, pooled; with `1 - ` before its name, 1 less it."""
    ratio = name.removeprefix("1 - ")
    value = quotient(sums[f"{ratio}.numerator"], sums[f"{ratio}.denominator"])
    return value if ratio == name else 1 - value


def pooled(
    name: str,
    description: str,
    *,
    of: str | None = None,
    lower_is_better: bool = False,
    has_unfairness: bool = False,
) -> Metric:
    """A pooled ratio (`ratio_of`), by default that of the same name."""
    ratio = of or name
    return Metric(
        name=name,
        description=description,
        requests=f"{ratio.removeprefix('1 - ')}.requests",
        evaluate=lambda sums, _run: ratio_of(sums, ratio),
        lower_is_better=lower_is_better,
        has_unfairness=has_unfairness,
    )
