"""Layout of forest plots; `templates/charts.html.j2` draws them.

Rows have no fixed width: places are percentages of it (`page.drawings` has plots of a fixed size).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lm_eval_specfair.groups.assign import display_name
from lm_eval_specfair.metrics.statistics.intervals import Estimate
from lm_eval_specfair.metrics.summary import Summary
from lm_eval_specfair.reporting.format import estimate_text


@dataclass(frozen=True, kw_only=True, slots=True)
class Tick:
    """A labelled place on an axis."""

    at: float
    label: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Mark:
    """A value on a row with its interval (both ends at the value without one); series from 0."""

    at: float
    low: float
    high: float
    series: int


@dataclass(frozen=True, kw_only=True, slots=True)
class PlotRow:
    """A group of a row plot: its name, its marks and its values as text."""

    name: str
    marks: Sequence[Mark]
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class PlotRows:
    """A forest plot, one row a group.

    `series` names the kinds of marks, where there are several; with `one_each` a row has one mark,
    of one kind. `reference` is a place with a meaning, such as that of plain decoding.
    """

    caption: str
    series: Sequence[str]
    rows: Sequence[PlotRow]
    ticks: Sequence[Tick]
    reference: Tick | None
    value_header: str
    one_each: bool = False


class Axis:
    """Maps values to places, with round ticks; holds all values that it was made from."""

    def __init__(self, values: Sequence[float], start: float, end: float) -> None:
        """An axis from one place to another."""
        low, high = min(values), max(values)
        span = (high - low) or abs(high) or 1.0
        step = _round_step(span / 5)
        first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
        last += first == last
        self._low, self._high = first * step, last * step
        self._start, self._end = start, end
        digits = max(0, -math.floor(math.log10(step) + 1e-9))
        self.ticks = [
            Tick(at=self.at(number * step), label=f"{number * step:.{digits}f}")
            for number in range(first, last + 1)
        ]

    def at(self, value: float) -> float:
        """The place of a value."""
        share = (value - self._low) / (self._high - self._low)
        return round(self._start + share * (self._end - self._start), 2)


def _round_step(rough: float) -> float:
    power = 10.0 ** math.floor(math.log10(rough))
    return next(step * power for step in (1, 2, 5, 10) if step * power >= rough * 0.999)


def forest(
    summary: Summary,
    metrics: Mapping[str, str],
    *,
    caption: str,
    reference: tuple[float, str] | None = None,
) -> PlotRows | None:
    """Groups with their intervals, in the summary's order; None where none has a metric.

    `metrics` has the name of each series, `reference` a value with a meaning and what it means.
    """
    shown = {
        group: series
        for group, estimates in summary.groups.items()
        if any(series := [estimates.get(metric) for metric in metrics])
    }
    values = [value for series in shown.values() for each in series for value in extent(each)]
    if not values:
        return None
    axis = Axis([*values, *([reference[0]] if reference else [])], 2, 98)
    several = len(metrics) > 1
    rows = [
        PlotRow(
            name=display_name(group, summary.group_by),
            marks=[mark(axis, each, n) for n, each in enumerate(series) if each is not None],
            text=" / ".join(
                f"{each.value:.2f}" if several and each else estimate_text(each) for each in series
            ),
        )
        for group, series in shown.items()
    ]
    return PlotRows(
        caption=caption,
        series=list(metrics.values()) if several else [],
        rows=rows,
        ticks=axis.ticks,
        reference=None if reference is None else Tick(at=axis.at(reference[0]), label=reference[1]),
        value_header=" / ".join(metrics.values()) if several else "Value [95% interval]",
    )


def changes(
    differences: Mapping[str, Estimate], *, caption: str, lower_is_better: bool = False
) -> PlotRows | None:
    """What changed by group, the greatest loss on top; gains and losses are two series."""
    if not differences:
        return None
    sign = -1 if lower_is_better else 1
    axis = Axis([0.0, *(value for each in differences.values() for value in extent(each))], 2, 98)
    return PlotRows(
        caption=caption,
        series=["gain", "loss"],
        rows=[
            PlotRow(
                name=name,
                marks=[mark(axis, difference, int(sign * difference.value < 0))],
                text=estimate_text(difference, "+.2f"),
            )
            for name, difference in sorted(
                differences.items(), key=lambda item: sign * item[1].value
            )
        ],
        ticks=axis.ticks,
        reference=Tick(at=axis.at(0.0), label="no change"),
        value_header="Change [95% interval]",
        one_each=True,
    )


def mark(axis: Axis, estimate: Estimate, series: int) -> Mark:
    """An estimate on an axis."""
    low, high = min(extent(estimate)), max(extent(estimate))
    return Mark(at=axis.at(estimate.value), low=axis.at(low), high=axis.at(high), series=series)


def extent(estimate: Estimate | None) -> list[float]:
    """The value and the ends of its interval."""
    if estimate is None:
        return []
    return [x for x in (estimate.value, estimate.low, estimate.high) if x is not None]
