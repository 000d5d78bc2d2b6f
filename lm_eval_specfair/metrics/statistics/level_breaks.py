"""Breaks in series of estimates: the first run that a group's former level does not explain.

A group's level is the mean of its runs since its last break. A run breaks it where the difference
is beyond what both intervals leave, after Holm's correction over the groups of the run, at the rate
``alpha / (t (t + 1))`` for the t-th run that is tested. These rates add up to alpha, so by
Bonferroni's inequality a series in which nothing changes has a false break with a chance of at most
alpha however long it grows, and what was said of a run stays said when later ones come.

Runs count as independent. Runs of the same requests are not, as a hard document is hard in each;
their differences are then smaller than assumed, and fewer false breaks are found, and fewer true
ones (docs/decisions/metrics.md has the rates).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

from lm_eval_specfair.metrics.statistics.intervals import CONFIDENCE, Estimate
from lm_eval_specfair.metrics.statistics.multiple_testing import holm

FALSE_ALARM_RATE = 0.05
"""Chance that a series in which nothing changes has any break."""

_REACH = float(special.ndtri((1 + CONFIDENCE) / 2))


@dataclass(frozen=True, kw_only=True, slots=True)
class LevelBreak:
    """A run in which a group left its level."""

    group: str
    run: int  # its number in the series, from 0
    before: float  # the level
    after: float
    p_value: float  # after correction over the groups of this run
    allowed: float  # what it had to be at most


def level_breaks(
    runs: Sequence[Mapping[str, Estimate | None]], rate: float = FALSE_ALARM_RATE
) -> list[LevelBreak]:
    """All breaks of a series, in the order of runs.

    Args:
        runs: Each run's figure by group, the oldest first; one without an interval is no evidence.
        rate: Chance of any false break in the series, in (0, 1).

    Example:
        >>> def run(value):
        ...     return {"sw": Estimate(value=value, low=value - 0.1, high=value + 0.1, n=50)}
        >>> [each.run for each in level_breaks([run(2.0), run(2.05), run(1.5), run(1.52)])]
        [2]
    """
    former: dict[str, list[Estimate]] = {}
    found: list[LevelBreak] = []
    for number, figures in enumerate(runs):
        known = {
            group: one
            for group, one in figures.items()
            if one is not None and one.low is not None and one.high is not None
        }
        tested = [group for group in known if group in former]
        adjusted = holm([_p_value(known[group], former[group]) for group in tested])
        allowed = rate / (number * (number + 1)) if number else 0.0
        broken = {
            group: p_value
            for group, p_value in zip(tested, adjusted, strict=True)
            if p_value is not None and p_value <= allowed
        }
        for group, one in known.items():
            if group in broken:
                found.append(
                    LevelBreak(
                        group=group,
                        run=number,
                        before=level_of(former[group]),
                        after=one.value,
                        p_value=broken[group],
                        allowed=allowed,
                    )
                )
                former[group] = []
            former.setdefault(group, []).append(one)
    return found


def level_of(former: Sequence[Estimate]) -> float:
    """The level of some runs: the mean of their figures."""
    return float(np.mean([each.value for each in former]))


def _p_value(one: Estimate, former: Sequence[Estimate]) -> float:
    """Two-sided, of the claim that a run is not at the level of former ones."""
    level = level_of(former)
    # As if former runs erred alike, which those of the same requests do: no gain from their number.
    of_level = float(np.mean([_error(each, one.value) for each in former]))
    error = float(np.hypot(_error(one, level), of_level))
    distance = abs(one.value - level)
    if error == 0:
        return float(distance == 0)
    return float(2 * special.ndtr(-distance / error))


def _error(one: Estimate, towards: float) -> float:
    """A standard error from the end of the interval that is nearer to a value."""
    assert one.low is not None
    assert one.high is not None
    reach = one.high - one.value if towards > one.value else one.value - one.low
    return max(reach, 0.0) / _REACH
