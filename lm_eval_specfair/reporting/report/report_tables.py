"""The main table of a report, for every form it is shown in."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from lm_eval_specfair.groups.assign import display_name
from lm_eval_specfair.metrics.percentiles import LEVELS
from lm_eval_specfair.metrics.statistics.intervals import Estimate
from lm_eval_specfair.metrics.summary import Estimates, Summary
from lm_eval_specfair.reporting.format import isolated, shortened
from lm_eval_specfair.reporting.tables import Cell, Table, estimate_cell, row_of


@dataclass(frozen=True, slots=True)
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
    Column("conditional_acceptance_rate", ("Conditional", "acceptance rate"), 3, has_interval=True),
    Column("overlap", ("Overlap",), 3),
    Column("mean_acceptance_length", ("Mean acceptance", "length (tokens)"), has_interval=True),
    Column("measured_speedup", ("Measured", "speed-up"), has_interval=True),
    Column("modelled_speedup", ("Modelled", "speed-up"), has_interval=True),
    Column("scored_agreement", ("Agreement on", "references"), 3, has_interval=True),
    Column("repeated_4grams", ("Repeated", "4-grams")),
    Column("other_script_letters", ("Other", "script")),
    Column("accepted_bytes_share", ("Accepted", "bytes"), 3, has_interval=True),
    Column("draft_vocabulary_coverage", ("Vocabulary", "coverage"), 3, has_interval=True),
    Column("bytes_per_token", ("Bytes/", "token")),
    Column("bits_per_byte", ("Bits/", "byte")),
    Column("answer_quality", ("Answer", "quality")),
)


def shown_columns(summary: Summary) -> list[Column]:
    """The columns in which something was measured."""
    return [column for column in COLUMNS if summary.overall[column.metric] is not None]


_LATENCY = tuple(
    Column(f"{metric}_{level}", (header, level), 4)
    for metric, header in (
        ("time_to_first_token", "Time to first token, s,"),
        ("time_per_output_token", "Time per output token, s,"),
    )
    for level in LEVELS
)


def latency_table(summary: Summary) -> Table | None:
    """How long users of a server waited, by group; None where none was asked."""
    shown = [column for column in _LATENCY if summary.overall.get(column.metric) is not None]
    if not shown:
        return None
    return table_of(
        summary,
        shown,
        title="Latency by group",
        note="Percentiles over documents of what the client measured, queueing and network "
        "included, with as many requests under way as the run's num_concurrent.",
    )


def generated_requests(summary: Summary) -> int:
    """How many requests generated text; the others scored it."""
    return summary.counts.generated_requests


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
    for name in ("Difference", "Ratio"):
        disparities = [(column, summary.disparity[column.metric]) for column in columns]
        cells = [
            column.cell(None if each is None else each.statistics[name.lower()])
            for column, each in disparities
        ]
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

    names = {group: shortened(display_name(group, summary.group_by)) for group in summary.groups}
    groups = [
        row(names[group], estimates, summary.group_requests[group])
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
