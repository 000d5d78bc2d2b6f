"""A comparison as one page that needs nothing else: plots, tables, no request to anywhere."""

import re
from collections.abc import Sequence
from typing import Any

from lm_eval_specfair.groups.assign import display_name
from lm_eval_specfair.metrics.comparison.change import Candidate
from lm_eval_specfair.reporting.comparison.build_comparison import ComparisonReport
from lm_eval_specfair.reporting.comparison.compare_tables import (
    TitledTable,
    footnotes,
    tables,
    title,
)
from lm_eval_specfair.reporting.format import NOT_MEASURED, prose
from lm_eval_specfair.reporting.page import drawings
from lm_eval_specfair.reporting.page import forest_plot as charts
from lm_eval_specfair.reporting.page.shell import page

# A number as tables show it, alone or with an interval, a unit or a name behind it.
_NUMBER = re.compile(r"[<+]?(-?[0-9][0-9,]*(?:\.[0-9]+)?(?:e[+-]?[0-9]+)?)(?=[ %]|$)")


def as_html(report: ComparisonReport) -> str:
    """The page."""
    forests = [_forest(report, candidate) for candidate in report.comparison.candidates]
    return page(
        "compare.html.j2",
        title=title(report),
        group_by=report.comparison.group_by,
        verdicts=report.verdicts,
        pareto=_pareto(report),
        forests=[forest for forest in forests if forest is not None],
        tables=[_sortable(table) for table in tables(report)],
        footnotes=footnotes(report),
    )


def sort_keys(cells: Sequence[str]) -> tuple[str, list[str]]:
    """How a column is sorted.

    Args:
        cells: All of the column.

    Returns:
        `number` if all measured cells begin with one, else `text`; and each cell's key, which is
        empty where nothing was measured.

    Example:
        >>> sort_keys(["+0.10 [+0.05, +0.12]", "-", "<0.001"])
        ('number', ['0.10', '', '0.001'])
    """
    measured = [cell for cell in cells if cell != NOT_MEASURED]
    if not measured or not all(_NUMBER.match(cell) for cell in measured if cell):
        return "text", list(cells)
    found = [_NUMBER.match(cell) for cell in cells]
    return "number", [each[1].replace(",", "") if each else "" for each in found]


def _sortable(table: TitledTable) -> dict[str, Any]:
    """A table with what its cells are sorted by; its totals are a body of their own."""
    columns = [[row[place] for row in table.rows] for place in range(len(table.header))]
    keyed = [("text", columns[0]), *(sort_keys(column) for column in columns[1:])]
    keys = zip(*(each for _, each in keyed), strict=True)
    rows = [
        list(zip(row, its_keys, strict=True))
        for row, its_keys in zip(table.rows, keys, strict=True)
    ]
    last = len(rows) - table.num_totals
    return {
        "title": table.title,
        "columns": [(name, kind) for name, (kind, _) in zip(table.header, keyed, strict=True)],
        "bodies": [body for body in (rows[:last], rows[last:]) if body],
    }


def _forest(report: ComparisonReport, candidate: Candidate) -> charts.PlotRows | None:
    """Each group's change with its interval; None if none is known."""
    name = report.metric.name
    return charts.changes(
        {
            display_name(group, report.comparison.group_by): change.difference
            for group, changes in candidate.groups.items()
            if (change := changes[name]) is not None
        },
        caption=f"{candidate.name}: change in {prose(name)} against the base",
        lower_is_better=report.metric.lower_is_better,
    )


def _pareto(report: ComparisonReport) -> drawings.Scatter | None:
    """Each run's mean over groups against its worst group; None with fewer than two groups."""
    name = report.metric.name
    standings = {
        run: found
        for run, each in report.comparison.standings.items()
        if (found := each.get(name)) is not None
    }
    if len(report.comparison.groups) < 2:
        return None
    return drawings.plane(
        {run: (each.mean, each.worst) for run, each in standings.items()},
        {run: run for run in standings},
        labels=("Mean over groups", "Worst group"),
        caption=f"{prose(name).capitalize()} by run: mean over groups against the worst group",
        series=("on the Pareto front", "dominated"),
        second={run for run, each in standings.items() if each.beaten_by},
    )
