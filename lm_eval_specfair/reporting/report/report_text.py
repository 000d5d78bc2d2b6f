"""A summary as text: a table for the terminal, Markdown, CSV."""

from collections.abc import Iterator

from lm_eval_specfair.escape import markdown
from lm_eval_specfair.metrics.statistics.intervals import Estimate
from lm_eval_specfair.metrics.summary import Summary
from lm_eval_specfair.reporting.format import csv_text, markdown_notes, terminal_notes
from lm_eval_specfair.reporting.report.bound_tables import HEADING, bound_tables
from lm_eval_specfair.reporting.report.notes import footnotes, title
from lm_eval_specfair.reporting.report.record_notes import flag_text
from lm_eval_specfair.reporting.report.report_tables import main_table


def as_table(summary: Summary) -> str:
    """For a terminal of some 120 columns."""
    parts = [title(summary), main_table(summary).terminal()]
    invalid = [f"INVALID: {flag_text(flag, summary.group_by)}." for flag in summary.flags]
    notes = invalid + footnotes(summary)
    for table in bound_tables(summary):
        parts += [table.title, table.terminal()]
        notes.append(table.note)
    return "\n\n".join([*parts, terminal_notes(notes)])


def as_markdown(summary: Summary, plot: str | None = None) -> str:
    """For a README, an issue or a pull request; `plot` is the file name of the plot beside it."""
    parts = [f"# {markdown(title(summary))}", main_table(summary).markdown()]
    if plot:
        parts.append(f"![Mean acceptance length and speed-up by {summary.group_by}]({plot})")
    invalid = [
        f"- **Invalid:** {markdown(flag_text(flag, summary.group_by))}." for flag in summary.flags
    ]
    parts.append("\n".join([*invalid, markdown_notes(footnotes(summary))]))
    if bounds := bound_tables(summary):
        parts.append(f"<details><summary>{HEADING}: bounds beside what was measured</summary>")
        for table in bounds:
            parts += [f"**{table.title}**", table.markdown(), markdown(table.note)]
        parts.append("</details>")
    return "\n\n".join([*parts, ""])


def as_csv(summary: Summary) -> str:
    """One estimate a line, for a spreadsheet or a data frame."""
    return csv_text(
        ["section", "group", "metric", "statistic", "value", "low", "high", "num_requests"],
        (
            [*names, estimate.value, estimate.low, estimate.high, estimate.n]
            for *names, estimate in _lines(summary)
            if estimate is not None
        ),
    )


def _lines(summary: Summary) -> Iterator[tuple[str, str, str, str, Estimate | None]]:
    for metric, estimate in summary.overall.items():
        yield "overall", "", metric, "", estimate
    for group, estimates in summary.groups.items():
        for metric, estimate in estimates.items():
            yield "group", group, metric, "", estimate
    for metric, disparity in summary.disparity.items():
        if disparity is not None:
            for label, group in (("worst", disparity.worst), ("best", disparity.best)):
                yield "disparity", group, metric, label, summary.groups[group][metric]
            for statistic, estimate in disparity.statistics.items():
                yield "disparity", "", metric, statistic, estimate
