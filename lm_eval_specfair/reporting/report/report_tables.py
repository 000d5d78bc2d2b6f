"""The main table of a report, for every form it is shown in."""

from collections.abc import Sequence
from dataclasses import dataclass

from lm_eval_specfair.groups.assign import display_name
from lm_eval_specfair.metrics.statistics.intervals import Estimate
from lm_eval_specfair.metrics.summary import Estimates, Summary
from lm_eval_specfair.reporting.format import NOT_MEASURED, estimate_text, isolated, shortened


@dataclass(frozen=True, kw_only=True, slots=True)
class Column:
    """A column of a table of metrics.

    Attributes:
        metric: The metric's name.
        header: Its lines.
        digits: After the decimal point.
        has_interval: Whether the interval is shown.
    """

    metric: str
    header: tuple[str, ...]
    digits: int = 2
    has_interval: bool = False

    @property
    def title(self) -> str:
        """The header on one line."""
        return " ".join(self.header).replace("/ ", "/")

    def cell(self, estimate: Estimate | None) -> str:
        """An estimate as this column shows it."""
        form = f".{self.digits}f"
        if estimate is None or self.has_interval:
            return estimate_text(estimate, form)
        return f"{estimate.value:{form}}"


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


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """Text in rows and columns.

    Attributes:
        header: The columns' names; a line break where the terminal should break.
        sections: Rows in parts that belong together.
        values: The numbers that the cells of the first section are sorted by, first column left
            out; None where not measured.
    """

    header: Sequence[str]
    sections: Sequence[Sequence[Sequence[str]]]
    values: Sequence[Sequence[float | None]] = ()


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
    overall = table_of(summary, columns, counted=True)
    if not any(summary.disparity[column.metric] for column in columns):
        return overall
    spread = [
        ["Largest", "", *(_extreme(summary, column, largest=True) for column in columns)],
        ["Smallest", "", *(_extreme(summary, column, largest=False) for column in columns)],
        *(
            [label, "", *(_spread(summary, column, name) for column in columns)]
            for label, name in _SPREADS
        ),
    ]
    return Table(header=overall.header, sections=[*overall.sections, spread], values=overall.values)


def table_of(summary: Summary, columns: Sequence[Column], *, counted: bool = False) -> Table:
    """A row a group, then all requests.

    Args:
        summary: The estimates.
        columns: Which of them.
        counted: Whether the first column after the name is the number of requests.
    """

    def row(name: str, estimates: Estimates, total: int) -> list[str]:
        number = [str(_num_requests(estimates, total))] if counted else []
        return [name, *number, *(column.cell(estimates.get(column.metric)) for column in columns)]

    def values(estimates: Estimates, total: int) -> list[float | None]:
        number: list[float | None] = [_num_requests(estimates, total)] if counted else []
        shown = (estimates.get(column.metric) for column in columns)
        return [*number, *(None if each is None else each.value for each in shown)]

    groups = [
        (shortened(display_name(group, summary.group_by)), estimates, summary.group_requests[group])
        for group, estimates in summary.groups.items()
    ]
    overall = row("All requests", summary.overall, summary.counts.requests)
    headers = ["\n".join(column.header) for column in columns]
    return Table(
        header=[summary.group_by.capitalize(), *(["n"] if counted else []), *headers],
        sections=[*([[row(*group) for group in groups]] if groups else []), [overall]],
        values=[values(estimates, total) for _, estimates, total in groups],
    )


def _num_requests(estimates: Estimates, total: int) -> int:
    """The requests that generate text, which most columns rest on; else all."""
    generated = estimates["bytes_per_token"]
    return total if generated is None else generated.n


def _extreme(summary: Summary, column: Column, *, largest: bool) -> str:
    disparity = summary.disparity[column.metric]
    if disparity is None:
        return NOT_MEASURED
    values = {
        group: estimate.value
        for group in (disparity.worst, disparity.best)
        if (estimate := summary.groups[group][column.metric]) is not None
    }
    group = (max if largest else min)(values, key=lambda each: values[each])
    text = f"{values[group]:.{column.digits}f}"
    return text if len(set(values.values())) == 1 else f"{text} {isolated(shortened(group, 10))}"


def _spread(summary: Summary, column: Column, statistic: str) -> str:
    disparity = summary.disparity[column.metric]
    return column.cell(None if disparity is None else disparity.statistics[statistic])
