"""A summary as text: a table for the terminal, Markdown, CSV."""

import csv
import io
import textwrap
from collections.abc import Iterator, Sequence

from tabulate import SEPARATING_LINE, tabulate

from lm_eval_specfair.escape import csv_cell, markdown
from lm_eval_specfair.metrics.statistics.bootstrap import Estimate
from lm_eval_specfair.metrics.summary import Summary
from lm_eval_specfair.reporting.report.bound_tables import HEADING, Promise, promises
from lm_eval_specfair.reporting.report.notes import footnotes, title
from lm_eval_specfair.reporting.report.report_tables import Table, main_table

TERMINAL_WIDTH = 120


def as_table(summary: Summary) -> str:
    """For a terminal of some 120 columns."""
    table = main_table(summary)
    rows: list[Sequence[str] | str] = []
    for section in table.sections:
        rows += [SEPARATING_LINE, *section] if rows else section
    text = tabulate(
        rows,
        headers=table.header,
        tablefmt="simple",
        disable_numparse=True,
        colalign=("left", "right", *("left",) * (len(table.header) - 2)),
    )
    notes = [f"INVALID: {flag.message}." for flag in summary.flags] + footnotes(summary)
    wrapped = [
        textwrap.fill(note, TERMINAL_WIDTH, subsequent_indent="  ", break_on_hyphens=False)
        for note in notes
    ]
    return "\n".join([title(summary), "", text, "", *wrapped])


def as_markdown(summary: Summary, plot: str | None = None) -> str:
    """For a README, an issue or a pull request.

    Args:
        summary: The numbers.
        plot: File name of the plot beside it, if there is one.
    """
    image = [f"![Mean acceptance length and speed-up by {summary.group_by}]({plot})", ""]
    notes = [f"**Invalid:** {markdown(flag.message)}." for flag in summary.flags]
    notes += [markdown(line) for line in footnotes(summary)]
    return "\n".join(
        [
            f"# {markdown(title(summary))}",
            "",
            _github(main_table(summary)),
            "",
            *(image if plot else []),
            *(f"- {line}" for line in notes),
            "",
            *_folded(promises(summary)),
        ]
    )


def _github(table: Table) -> str:
    return tabulate(
        [[markdown(cell) for cell in row] for section in table.sections for row in section],
        headers=[markdown(name.replace("/\n", "/")) for name in table.header],
        tablefmt="github",
        disable_numparse=True,
        colalign=("left", *("right",) * (len(table.header) - 1)),
    )


def _folded(found: Sequence[Promise]) -> list[str]:
    """Bounds in a section that is opened by who wants it; nothing where none is known."""
    if not found:
        return []
    lines = [f"<details><summary>{HEADING}: bounds beside what was measured</summary>", ""]
    for each in found:
        lines += [f"**{each.title}**", "", _github(each.table), "", markdown(each.note), ""]
    return [*lines, "</details>", ""]


def as_csv(summary: Summary) -> str:
    """One figure a line, for a spreadsheet or a data frame."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(
        ["section", "group", "metric", "statistic", "value", "low", "high", "num_requests"]
    )
    for section, group, metric, statistic, figure in _lines(summary):
        if figure is not None:
            texts = [csv_cell(text) for text in (section, group, metric, statistic)]
            numbers = [figure.value, figure.low, figure.high, figure.n]
            writer.writerow([*texts, *numbers])
    return file.getvalue()


def _lines(summary: Summary) -> Iterator[tuple[str, str, str, str, Estimate | None]]:
    for metric, figure in summary.overall.items():
        yield "overall", "", metric, "", figure
    for group, figures in summary.groups.items():
        for metric, figure in figures.items():
            yield "group", group, metric, "", figure
    for metric, disparity in summary.disparity.items():
        if disparity is not None:
            for label, group in (("worst", disparity.worst), ("best", disparity.best)):
                yield "disparity", group, metric, label, summary.groups[group][metric]
            for statistic, figure in disparity.statistics.items():
                yield "disparity", "", metric, statistic, figure
