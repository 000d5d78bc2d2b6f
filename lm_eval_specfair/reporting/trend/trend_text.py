"""A trend as text and as a page: for a terminal, Markdown, JSON, HTML."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lm_eval_specfair.escape import markdown, one_line
from lm_eval_specfair.files import write_files
from lm_eval_specfair.groups.assign import display_name
from lm_eval_specfair.metrics.statistics.intervals import CONFIDENCE, Estimate
from lm_eval_specfair.reporting.format import (
    NOT_MEASURED,
    count,
    estimate_text,
    json_text,
    listed,
    markdown_notes,
    prose,
    shortened,
    terminal_notes,
)
from lm_eval_specfair.reporting.page.forest_plot import Axis, PlotRow, PlotRows, Tick, extent, mark
from lm_eval_specfair.reporting.tables import Cell, Table, estimate_cell, row_of
from lm_eval_specfair.reporting.trend.build_trend import Series, Trend
from lm_eval_specfair.reporting.trend.trend_headline import name_of_point, trend_headline

SCHEMA_VERSION = 1
"""Of the JSON trend (`schemas/trend-1.json`)."""

_MOST_NAMED = 6


def render_trend(trend: Trend, format: str) -> str:
    """A trend as text: `table` (for a terminal), `md`, `json` or `html` (one page).

    Raises:
        ValueError: If there is no such format.
    """
    forms = {"table": as_table, "md": as_markdown, "html": as_html}
    if format == "json":
        return json_text(as_json(trend))
    if format not in forms:
        raise ValueError(f"format must be table, md, json or html, got {format!r}")
    return forms[format](trend)


def write_trend(trend: Trend, directory: Path) -> list[Path]:
    """Write `trend.md`, `.json` and `.html`; files of these names are replaced.

    Raises:
        ConfigError: If the folder cannot be made or written.
    """
    forms = {form: render_trend(trend, form) for form in ("md", "json", "html")}
    forms["json"] += "\n"
    return write_files(directory, {f"trend.{form}": text for form, text in forms.items()})


def title(trend: Trend) -> str:
    """What the trend is about, in one line."""
    measured = sum(len(series.points) for series in trend.series)
    return (
        f"Trend of {prose(trend.metric.name)} by {prose(trend.group_by)}: "
        f"{count(measured, 'measurement')} in {len(trend.series)} series"
    )


def as_table(trend: Trend) -> str:
    """For a terminal of some 120 columns."""
    parts = [one_line(title(trend)), terminal_notes(map(one_line, trend_headline(trend)))]
    for number, series in enumerate(trend.series):
        parts.append(one_line(series_title(trend, number)))
        for table in series_tables(trend, series):
            parts += [one_line(table.title), table.terminal()]
    return "\n\n".join([*parts, terminal_notes(map(one_line, footnotes(trend)))])


def as_markdown(trend: Trend) -> str:
    """For a README, an issue or a pull request."""
    parts = [f"# {markdown(title(trend))}", markdown_notes(trend_headline(trend))]
    for number, series in enumerate(trend.series):
        parts.append(f"## {markdown(series_title(trend, number))}")
        for table in series_tables(trend, series):
            parts += [f"**{markdown(table.title)}**", table.markdown()]
    return "\n\n".join([*parts, markdown_notes(footnotes(trend)), ""])


def as_html(trend: Trend) -> str:
    """One page that needs nothing else: a plot for each group, its runs from top to bottom."""
    # Only here: it loads the templates.
    from lm_eval_specfair.reporting.page.shell import page

    return page(
        "trend.html.j2",
        title=title(trend),
        verdict=trend_headline(trend),
        series=[
            {
                "title": series_title(trend, number),
                "plots": series_plots(trend, series),
                "tables": series_tables(trend, series),
            }
            for number, series in enumerate(trend.series)
        ],
        footnotes=footnotes(trend),
    )


def as_json(trend: Trend) -> dict[str, Any]:
    """The object that `--format json` prints; what was not measured is None."""
    return {
        "schema_version": SCHEMA_VERSION,
        "verdict": trend_headline(trend),
        "group_by": trend.group_by,
        "metric": trend.metric.name,
        "false_alarm_rate": trend.rate,
        "confidence": CONFIDENCE,
        "series": [
            {
                "conditions": dict(series.points[0].conditions),
                "differs_in": list(series.apart),
                "points": [
                    {
                        "name": point.name,
                        "date": point.date.isoformat(),
                        "kind": point.kind,
                        "drafter": point.drafter,
                        "gate": point.gate,
                        "passed": point.passed,
                    }
                    for point in series.points
                ],
                "groups": {
                    group: [None if one is None else _figure(one) for one in line]
                    for group, line in series.groups.items()
                },
                "breaks": [
                    {
                        "group": each.group,
                        "point": each.run,
                        "before": each.before,
                        "after": each.after,
                        "p_value": each.p_value,
                        "allowed": each.allowed,
                    }
                    for each in series.breaks
                ],
            }
            for series in trend.series
        ],
        "group_names": {
            group: display_name(group, trend.group_by)
            for series in trend.series
            for group in series.groups
        },
        "left_out": dict(trend.left_out),
    }


def _figure(one: Estimate) -> dict[str, Any]:
    return {"value": one.value, "low": one.low, "high": one.high, "n": one.n}


def series_title(trend: Trend, number: int) -> str:
    """What a series is, and in what it differs from the first."""
    series = trend.series[number]
    kinds = {"run": "run", "comparison": "candidate", "submission": "entry"}
    kind, many = kinds[series.points[0].kind], len(series.points)
    text = f"Series {number + 1}: {many} {'entries' if kind == 'entry' and many > 1 else kind}"
    text += "s" if many > 1 and kind != "entry" else ""
    if series.apart:
        text += f"; differs from the first in {listed(series.apart, _MOST_NAMED)}"
    return text


def series_tables(trend: Trend, series: Series) -> list[Table]:
    """Each group's first and last figure and its break; and the measurements."""
    return [_groups(trend, series), _points(series)]


def _groups(trend: Trend, series: Series) -> Table:
    rows = []
    for group, line in series.groups.items():
        known = [one for one in line if one is not None]
        broke = series.last_break(group)
        where, moved = Cell(), Cell()
        if broke is not None:
            where = Cell(name_of_point(series, broke.run))
            moved = Cell(f"{broke.before:.2f} to {broke.after:.2f}", broke.after - broke.before)
        number = sum(each.group == group for each in series.breaks)
        rows.append(
            row_of(
                shortened(display_name(group, trend.group_by)),
                Cell(str(len(known)), len(known)),
                estimate_cell(known[0]),
                estimate_cell(known[-1]),
                Cell(str(number), number),
                where,
                moved,
            )
        )
    header = [prose(trend.group_by).capitalize(), "n", "First", "Last", "Breaks", "Last break at"]
    return Table(
        title=f"{prose(trend.metric.name).capitalize()}, first and last",
        header=[*header, "From, to"],
        sections=[rows],
    )


def _points(series: Series) -> Table:
    rows = []
    for number, point in enumerate(series.points):
        broken = [each.group for each in series.breaks if each.run == number]
        gate = NOT_MEASURED
        if point.gate is not None:
            gate = f"{'passes' if point.passed else 'FAILS'} ({point.gate})"
        rows.append(
            row_of(
                shortened(point.name),
                f"{point.date:%Y-%m-%d %H:%M}",
                shortened(str(point.drafter or NOT_MEASURED)),
                gate,
                listed(broken, _MOST_NAMED) if broken else NOT_MEASURED,
            )
        )
    header = ["Measurement", "When", "Drafter", "Gate", "Groups that left their level"]
    return Table(title="Measurements, the oldest first", header=header, sections=[rows])


def series_plots(trend: Trend, series: Series) -> list[PlotRows]:
    """A plot for each group: a row for each measurement, the oldest on top."""
    plots = []
    values = [value for line in series.groups.values() for one in line for value in extent(one)]
    axis = Axis(values, 2, 98)  # one for all, so that plots can be held side by side
    for group, line in series.groups.items():
        broken = {each.run for each in series.breaks if each.group == group}
        rows = [
            PlotRow(
                name=name_of_point(series, number),
                marks=[mark(axis, one, int(number in broken))],
                text=estimate_text(one),
            )
            for number, one in enumerate(line)
            if one is not None
        ]
        last = series.last_break(group)
        before = None
        if last is not None:
            before = Tick(at=axis.at(last.before), label=f"the former level, {last.before:.2f}")
        plots.append(
            PlotRows(
                caption=display_name(group, trend.group_by),
                series=["as before", "left its level"] if broken else [],
                rows=rows,
                ticks=axis.ticks,
                reference=before,
                value_header="Value [95% interval]",
                one_each=True,
            )
        )
    return plots


def footnotes(trend: Trend) -> Sequence[str]:
    """What a reader must know to use the tables."""
    notes = [
        f"{prose(trend.metric.name).capitalize()}: {trend.metric.description}. n: measurements "
        "that have it. In brackets: 95% intervals over documents, each measurement's own.",
        "A group leaves its level where a measurement differs from the mean of those since its "
        "last break by more than their intervals leave, after Holm's correction over groups. In "
        f"a series in which nothing changes, any break is named with a chance of at most "
        f"{trend.rate:g}, however long it grows; what was said of a measurement stays said.",
        "Measurements count as independent: of the same requests true changes must be larger than "
        "a paired comparison needs (specfair compare). What a machine does between two runs is in "
        "no interval, so speed-ups may leave their level for that alone.",
    ]
    notes += [f"Left out: {name}: {why}." for name, why in trend.left_out.items()]
    return notes
