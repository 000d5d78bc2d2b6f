"""The main table of a report, whatever it is shown in."""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from lm_eval_specfair.groups.assign import display_name
from lm_eval_specfair.metrics.statistics.bootstrap import Estimate
from lm_eval_specfair.metrics.summary import Figures, Summary


@dataclass(frozen=True, kw_only=True, slots=True)
class Column:
    """A column of the main table.

    Attributes:
        metric: The figure's name.
        header: Its lines.
        digits: Behind the point.
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
)
_SPREADS = (("Difference", "difference"), ("Ratio", "ratio"))
NOT_MEASURED = "-"


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """Text in rows and columns.

    Attributes:
        header: The columns' names; a line break where the terminal should break.
        sections: Rows in parts that belong together.
        values: The numbers behind the cells of the first section, names left out, for sorting;
            None where not measured.
    """

    header: Sequence[str]
    sections: Sequence[Sequence[Sequence[str]]]
    values: Sequence[Sequence[float | None]] = ()


def shown_columns(summary: Summary) -> list[Column]:
    """The columns in which something was measured."""
    return [column for column in COLUMNS if summary.overall[column.metric] is not None]


def _num_requests(figures: Figures, total: int) -> str:
    """Those that generate text, which most columns rest on; else all."""
    generated = figures["bytes_per_token"]
    return f"{total if generated is None else generated.n}"


def main_table(summary: Summary) -> Table:
    """Each group, all requests, and the spread across groups."""
    columns = shown_columns(summary)
    groups = [
        [
            shortened(display_name(group, summary.group_by), 40),
            _num_requests(figures, summary.group_requests[group]),
            *(cell(figures[column.metric], column) for column in columns),
        ]
        for group, figures in summary.groups.items()
    ]
    overall = [
        "All requests",
        _num_requests(summary.overall, summary.counts.requests),
        *(cell(summary.overall[column.metric], column) for column in columns),
    ]
    sections = [groups, [overall]] if groups else [[overall]]
    if any(summary.disparity[column.metric] for column in columns):
        sections.append(
            [
                ["Largest", "", *(_extreme(summary, column, largest=True) for column in columns)],
                ["Smallest", "", *(_extreme(summary, column, largest=False) for column in columns)],
                *(
                    [label, "", *(_spread(summary, column, name) for column in columns)]
                    for label, name in _SPREADS
                ),
            ]
        )
    header = [summary.group_by.capitalize(), "n", *("\n".join(each.header) for each in columns)]
    return Table(header=header, sections=sections, values=_values(summary, columns))


def _values(summary: Summary, columns: Sequence[Column]) -> list[list[float | None]]:
    return [
        [
            float(_num_requests(figures, summary.group_requests[group])),
            *(
                None if (figure := figures[column.metric]) is None else figure.value
                for column in columns
            ),
        ]
        for group, figures in summary.groups.items()
    ]


def cell(figure: Estimate | None, column: Column) -> str:
    """A figure as text, such as `0.512 [0.48, 0.54]`."""
    if figure is None:
        return NOT_MEASURED
    text = f"{figure.value:.{column.digits}f}"
    if not column.has_interval:
        return text
    return f"{text} {interval(figure)}".rstrip()


def interval(figure: Estimate, digits: int = 2) -> str:
    """Its interval as text; nothing where there is none."""
    if figure.low is None or figure.high is None:
        return ""
    return f"[{figure.low:.{digits}f}, {figure.high:.{digits}f}]"


def shortened(text: str, length: int) -> str:
    """At most so many characters."""
    return text if len(text) <= length else f"{text[: length - 2]}.."


def isolated(name: str) -> str:
    """A name beside other text: one written from right to left does not reorder it.

    Source:
        Unicode Standard Annex 9, the isolates FSI and PDI.
    """
    turns = any(unicodedata.bidirectional(each) in ("R", "AL", "AN") for each in name)
    return f"\u2068{name}\u2069" if turns else name


def _extreme(summary: Summary, column: Column, *, largest: bool) -> str:
    disparity = summary.disparity[column.metric]
    if disparity is None:
        return NOT_MEASURED
    values = {
        group: figure.value
        for group in (disparity.worst, disparity.best)
        if (figure := summary.groups[group][column.metric]) is not None
    }
    group = (max if largest else min)(values, key=lambda each: values[each])
    text = f"{values[group]:.{column.digits}f}"
    return text if len(set(values.values())) == 1 else f"{text} {isolated(shortened(group, 10))}"


def _spread(summary: Summary, column: Column, statistic: str) -> str:
    disparity = summary.disparity[column.metric]
    return cell(None if disparity is None else disparity.statistics[statistic], column)
