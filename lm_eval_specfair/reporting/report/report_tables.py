"""The main table of a report, for every form it is shown in."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from lm_eval_specfair.groups.assign import display_name
from lm_eval_specfair.metrics.statistics.intervals import Estimate
from lm_eval_specfair.metrics.summary import Estimates, Summary
from lm_eval_specfair.reporting.format import isolated, shortened
from lm_eval_specfair.reporting.tables import Cell, Table, estimate_cell, row_of


@dataclass(frozen=True, kw_only=True, slots=True)
class Column:
    """A column of a table of metrics; each string of `header` is a line."""

    metric: str
    header: tuple[str, ...]
    digits: int = 2
    has_interval: bool = False

    @property
    def title(self) -> str:
        """The header on one line."""
        return " ".join(self.header).replace("/ ", "/")

    def cell(self, estimate: Estimate | None) -> Cell:
        """An estimate as this column shows it."""
        form = f".{self.digits}f"
        if estimate is None or self.has_interval:
            return estimate_cell(estimate, form)
        return Cell(f"{estimate.value:{form}}", estimate.value)


COLUMNS = (
    Column(
        metric="conditional_acceptance_rate",
        header=("Conditional", "acceptance rate"),
        digits=3,
        has_interval=True,
    ),
    Column(metric="overlap", header=("Overlap",), digits=3),
    Column(
        metric="mean_acceptance_length",
        header=("Mean acceptance", "length (tokens)"),
        has_interval=True,
    ),
    Column(metric="measured_speedup", header=("Measured", "speed-up"), has_interval=True),
    Column(metric="modelled_speedup", header=("Modelled", "speed-up"), has_interval=True),
    Column(metric="bytes_per_token", header=("Bytes/", "token")),
    Column(metric="bits_per_byte", header=("Bits/", "byte")),
    Column(metric="answer_quality", header=("Answer", "quality")),
)
_SPREADS = (("Difference", "difference"), ("Ratio", "ratio"))


def shown_columns(summary: Summary) -> list[Column]:
    """The columns in which something was measured."""
    return [column for column in COLUMNS if summary.overall[column.metric] is not None]


def generated_requests(summary: Summary) -> int:
    """How many requests generated text; the others scored it."""
    generated = summary.overall["bytes_per_token"]
    return 0 if generated is None else generated.n


def main_table(summary: Summary) -> Table:
    """Each group, all requests, and the spread across groups."""
    columns = shown_columns(summary)
    table = table_of(summary, columns, title=f"Metrics by {summary.group_by}", counted=True)
    if not any(summary.disparity[column.metric] for column in columns):
        return table
    spread = [
        row_of(name, "", *(_extreme(summary, column, largest) for column in columns))
        for name, largest in (("Largest", True), ("Smallest", False))
    ]
    for name, measure in _SPREADS:
        disparities = [summary.disparity[column.metric] for column in columns]
        estimates = [None if each is None else each.statistics[measure] for each in disparities]
        cells = [column.cell(each) for column, each in zip(columns, estimates, strict=True)]
        spread.append(row_of(name, "", *cells))
    return dataclasses.replace(table, sections=[*table.sections, spread])


def table_of(
    summary: Summary,
    columns: Sequence[Column],
    *,
    title: str,
    note: str = "",
    counted: bool = False,
) -> Table:
    """A row a group, then all requests.

    With `counted` the first column after the name is the number of requests.
    """

    def row(name: str, estimates: Estimates, total: int) -> list[Cell]:
        # Of requests that generate text, which most columns rest on; else all.
        generated = estimates["bytes_per_token"]
        number = total if generated is None else generated.n
        counts = [Cell(str(number), number)] if counted else []
        return row_of(name, *counts, *(column.cell(estimates[column.metric]) for column in columns))

    groups = [
        row(
            shortened(display_name(group, summary.group_by)),
            estimates,
            summary.group_requests[group],
        )
        for group, estimates in summary.groups.items()
    ]
    overall = row("All requests", summary.overall, summary.counts.requests)
    headers = ["\n".join(column.header) for column in columns]
    return Table(
        title=title,
        header=[summary.group_by.capitalize(), *(["n"] if counted else []), *headers],
        sections=[part for part in (groups, [overall]) if part],
        note=note,
    )


def _extreme(summary: Summary, column: Column, largest: bool) -> Cell:
    disparity = summary.disparity[column.metric]
    if disparity is None:
        return Cell()
    values = {
        group: estimate.value
        for group in (disparity.worst, disparity.best)
        if (estimate := summary.groups[group][column.metric]) is not None
    }
    group = (max if largest else min)(values, key=lambda each: values[each])
    text = f"{values[group]:.{column.digits}f}"
    if len(set(values.values())) > 1:
        text += f" {isolated(shortened(group, 10))}"
    return Cell(text, values[group])
