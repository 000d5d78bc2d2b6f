"""Layout of plots of a fixed size: scatter plots, and lines by draft position.

Places are points of a drawing `WIDTH` by `HEIGHT`. Knows no HTML: `templates/charts.html.j2` draws.
"""

import itertools
import math
import re
import unicodedata
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lm_eval_specfair.groups.assign import NO_GROUP, display_name
from lm_eval_specfair.metrics.statistics.intervals import Estimate
from lm_eval_specfair.metrics.summary import Estimates, Summary
from lm_eval_specfair.reporting.format import estimate_text, shortened
from lm_eval_specfair.reporting.page.forest_plot import Axis, Tick, extent

WIDTH, HEIGHT = 420, 330
LEFT, RIGHT, TOP, BOTTOM = 46, 14, 12, 46  # what the axes take
_TEXT_HEIGHT = 12.0
_LONGEST_LABEL = 14
_WIDEST_INTERVAL = 0.5  # a share known no better says nothing about a course
_POSITION = re.compile(r"conditional_acceptance(?:_rate)?_at_(\d+)")


@dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    """A group or run in a scatter plot; `label` is empty where no room is left for it."""

    name: str
    text: str
    x: float
    y: float
    x_range: tuple[float, float]
    y_range: tuple[float, float]
    label: str
    label_at: tuple[float, float]
    anchor: str
    series: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Drawing:
    """What plots of a fixed size share."""

    caption: str
    alternative: str
    x_label: str
    y_label: str
    x_ticks: Sequence[Tick]
    y_ticks: Sequence[Tick]


@dataclass(frozen=True, kw_only=True, slots=True)
class Scatter(Drawing):
    """Two metrics against each other; `line` is the diagonal where both have one scale.

    `series` says what the marks are, where there are several kinds.
    """

    points: Sequence[Point]
    line: tuple[float, float, float, float] | None
    series: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """A group's course; `kind` is `overall`, `best`, `worst` or empty."""

    name: str
    kind: str
    points: Sequence[tuple[float, float]]
    label_y: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Lines(Drawing):
    """A metric by position, a line for each group."""

    lines: Sequence[Line]


def scatter(
    summary: Summary, x: str, y: str, *, labels: tuple[str, str], caption: str, diagonal: bool
) -> Scatter | None:
    """One metric against another, a point for each group; None with fewer than two points.

    With `diagonal` both have one scale, and a line shows where they are equal.
    """
    shown = {
        group: (across, up)
        for group, estimates in summary.groups.items()
        if (across := estimates.get(x)) is not None and (up := estimates.get(y)) is not None
    }
    names = {group: display_name(group, summary.group_by) for group in shown}
    return plane(shown, names, labels=labels, caption=caption, diagonal=diagonal)


def plane(
    shown: Mapping[str, tuple[Estimate, Estimate]],
    names: Mapping[str, str],
    *,
    labels: tuple[str, str],
    caption: str,
    diagonal: bool = False,
    series: Sequence[str] = (),
    second: Collection[str] = (),
) -> Scatter | None:
    """Pairs of estimates (to the right, upwards) by label, as points; None with fewer than two.

    `names` are their names in full. With `diagonal` both have one scale, and a line where they are
    equal; `series` says what the two kinds of marks mean, the second being that of `second`.
    """
    if len(shown) < 2:
        return None
    x_values, y_values = (
        [value for pair in shown.values() for value in extent(pair[place])] for place in (0, 1)
    )
    if diagonal:
        x_values = y_values = [*x_values, *y_values]
    x_axis, y_axis = Axis(x_values, LEFT, WIDTH - RIGHT), Axis(y_values, HEIGHT - BOTTOM, TOP)
    places = {
        group: (x_axis.at(pair[0].value), y_axis.at(pair[1].value)) for group, pair in shown.items()
    }
    labelled = _place_labels(places)
    return Scatter(
        caption=caption,
        alternative=(
            f"{caption}. {len(shown)} points. {labels[0]} from {_range(shown, 0)}, "
            f"{labels[1]} from {_range(shown, 1)}. The tables have the values."
        ),
        x_label=labels[0],
        y_label=labels[1],
        x_ticks=x_axis.ticks,
        y_ticks=y_axis.ticks,
        points=[
            Point(
                name=names[group],
                text=f"{labels[0]} {estimate_text(pair[0])}, {labels[1]} {estimate_text(pair[1])}",
                x=places[group][0],
                y=places[group][1],
                x_range=(x_axis.at(min(extent(pair[0]))), x_axis.at(max(extent(pair[0])))),
                y_range=(y_axis.at(min(extent(pair[1]))), y_axis.at(max(extent(pair[1])))),
                series=int(group in second),
                **labelled[group],
            )
            for group, pair in shown.items()
        ],
        line=(LEFT, HEIGHT - BOTTOM, WIDTH - RIGHT, TOP) if diagonal else None,
        series=series,
    )


def by_position(summary: Summary) -> Lines | None:
    """Conditional acceptance by draft position, as far as its interval is at most one half wide."""
    groups = {group: _course(estimates) for group, estimates in summary.groups.items()}
    groups = {group: course for group, course in groups.items() if len(course) > 1}
    overall = _course(summary.overall)
    courses = [*groups.values(), overall]
    values = [value for course in courses for value in course.values()]
    if not groups or not values:
        return None
    last = max(len(course) for course in courses)
    room = 96  # for names at the right
    x_axis = [LEFT + 8 + (WIDTH - LEFT - room - 8) * i / max(last - 1, 1) for i in range(last)]
    y_axis = Axis(values, HEIGHT - BOTTOM, TOP)
    ranked = sorted((g for g in groups if g != NO_GROUP), key=lambda group: groups[group][1])
    kinds = dict.fromkeys(ranked[:2], "worst") | dict.fromkeys(ranked[2:][-2:], "best")

    def line(name: str, kind: str, course: Mapping[int, float]) -> Line:
        points = [(round(x_axis[at - 1], 2), y_axis.at(course[at])) for at in sorted(course)]
        return Line(name=name, kind=kind, points=points, label_y=points[-1][1])

    lines = [
        line(display_name(group, summary.group_by), kinds.get(group, ""), course)
        for group, course in groups.items()
    ]
    lines.sort(key=lambda each: each.kind != "")  # what has a name is drawn last
    if overall:
        lines.append(line("All requests", "overall", overall))
    first = [course[1] for course in groups.values()]
    return Lines(
        caption="Share of drafted tokens accepted, by draft position",
        alternative=(
            f"Acceptance by draft position for {len(groups)} groups. At position 1 from "
            f"{min(first):.2f} to {max(first):.2f}; all requests together "
            + ", ".join(f"{value:.2f} at {at}" for at, value in sorted(overall.items()))
            + "."
        ),
        x_label="Draft position (where the interval is at most 0.5 wide)",
        y_label="Accepted / examined",
        x_ticks=[Tick(at=round(at, 2), label=str(i)) for i, at in enumerate(x_axis, start=1)],
        y_ticks=y_axis.ticks,
        lines=_spread_labels(lines),
    )


def _course(estimates: Estimates) -> dict[int, float]:
    """Values by position, from the first to the last that is known well."""
    known = {
        int(match[1]): estimate.value
        for metric, estimate in estimates.items()
        if (match := _POSITION.fullmatch(metric))
        and estimate is not None
        and estimate.low is not None
        and estimate.high is not None
        and estimate.high - estimate.low <= _WIDEST_INTERVAL
    }
    positions = itertools.takewhile(known.__contains__, itertools.count(1))
    return {position: known[position] for position in positions}


def _range(shown: Mapping[str, tuple[Estimate, Estimate]], place: int) -> str:
    low, high = (pick(shown.items(), key=lambda item: item[1][place].value) for pick in (min, max))
    return f"{low[1][place].value:.2f} ({low[0]}) to {high[1][place].value:.2f} ({high[0]})"


def text_width(text: str) -> float:
    """Roughly, at 11 points; the browser's fonts are not known here."""
    wide = sum(unicodedata.east_asian_width(each) in "WF" for each in text)
    return 6.0 * (len(text) - wide) + 11.0 * wide


def _place_labels(places: Mapping[str, tuple[float, float]]) -> dict[str, dict[str, Any]]:
    """Labels beside their points where they hide no point and no other label; else none."""
    taken = [(x - 4, y - 4, x + 4, y + 4) for x, y in places.values()]
    named: dict[str, dict[str, Any]] = {}
    for group, (x, y) in places.items():
        label = shortened(group, _LONGEST_LABEL)
        width = text_width(label)
        named[group] = {"label": "", "label_at": (x, y), "anchor": "start"}
        for dx, dy, anchor in (
            (6, 4, "start"), (-6, 4, "end"), (0, -7, "middle"), (0, 15, "middle"),
            (5, -5, "start"), (-5, -5, "end"), (5, 13, "start"), (-5, 13, "end"),
        ):  # fmt: skip
            left = x + dx - {"start": 0.0, "end": width, "middle": width / 2}[anchor]
            box = (left, y + dy - _TEXT_HEIGHT + 3, left + width, y + dy + 2)
            inside = box[0] > LEFT and box[2] < WIDTH and box[1] > TOP / 2
            if inside and box[3] < HEIGHT - BOTTOM and not any(_overlap(box, o) for o in taken):
                taken.append(box)
                at = (round(x + dx, 2), round(y + dy, 2))
                named[group] = {"label": label, "label_at": at, "anchor": anchor}
                break
    return named


def _overlap(
    one: tuple[float, float, float, float], other: tuple[float, float, float, float]
) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _spread_labels(lines: Sequence[Line]) -> list[Line]:
    """Names at the right moved down until none hides another."""
    moved, lowest = {}, -math.inf
    for line in sorted((each for each in lines if each.kind), key=lambda each: each.label_y):
        lowest = max(line.label_y, lowest + _TEXT_HEIGHT + 1)
        moved[line.name] = lowest
    excess = max(0.0, lowest - (HEIGHT - BOTTOM))
    return [
        replace(
            line,
            name=shortened(line.name, 16) if line.kind else line.name,
            label_y=round(moved.get(line.name, line.label_y) - excess, 2),
        )
        for line in lines
    ]
