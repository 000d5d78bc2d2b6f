"""Tables as every report shows them: cells with text for people and numbers to sort by."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tabulate import SEPARATING_LINE, tabulate

from lm_eval_specfair.escape import markdown, one_line
from lm_eval_specfair.metrics.statistics.intervals import Estimate
from lm_eval_specfair.reporting.format import (
    NOT_MEASURED,
    estimate_text,
    isolated,
    json_text,
    markdown_notes,
    terminal_notes,
)


@dataclass(frozen=True, slots=True)
class Cell:
    """What is shown, the number to sort by (None for text, or if not measured), and a link."""

    text: str = NOT_MEASURED
    value: float | None = None
    url: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """Rows of cells in sections, of which pages sort the first; the first column names the row.

    A line break in `header` is where the terminal should break; `note` says how to read the table.
    """

    title: str
    header: Sequence[str]
    sections: Sequence[Sequence[Sequence[Cell]]]
    note: str = ""

    @property
    def rows(self) -> list[Sequence[Cell]]:
        """The rows of all sections."""
        return [row for section in self.sections for row in section]

    def is_text(self, column: int) -> bool:
        """Whether a column has nothing numeric in it, so that it is sorted by its text."""
        return all(row[column].value is None for row in self.rows)

    def terminal(self) -> str:
        """For a terminal; a line separates sections, numbers under `n` are aligned."""
        lines: list[Sequence[str] | str] = []
        for section in self.sections:
            lines += [SEPARATING_LINE] if lines else []
            lines += [[cell.text for cell in row] for row in section]
        alignment = ["right" if name == "n" else "left" for name in self.header]
        return tabulate(
            lines, list(self.header), tablefmt="simple", disable_numparse=True, colalign=alignment
        )

    def markdown(self) -> str:
        """In GitHub's Markdown, with every cell escaped."""
        return tabulate(
            [[markdown(cell.text) for cell in row] for row in self.rows],
            headers=[markdown(name.replace("/\n", "/")) for name in self.header],
            tablefmt="github",
            disable_numparse=True,
            colalign=("left", *("right",) * (len(self.header) - 1)),
        )


def row_of(*cells: Cell | str) -> list[Cell]:
    """A row, in which text stands for a cell without a number."""
    return [Cell(one_line(cell)) if isinstance(cell, str) else cell for cell in cells]


def estimate_cell(estimate: Estimate | None, form: str = ".2f", *, name: str = "") -> Cell:
    """An estimate with its interval, and the name of what it is of."""
    if estimate is None:
        return Cell()
    text = f"{estimate_text(estimate, form)} {isolated(one_line(name))}".rstrip()
    return Cell(text, estimate.value)


def p_cell(p_value: float | None) -> Cell:
    """A p-value with no more digits than resampling gives."""
    if p_value is None:
        return Cell()
    return Cell("<0.001" if p_value < 0.001 else f"{p_value:.3f}", p_value)


def in_form(
    format: str,
    title: str,
    table: Table,
    notes: Sequence[str],
    *,
    as_json: Callable[[], Any],
    as_csv: Callable[[], str],
) -> str:
    """A table with title and notes as `table` or `md`, or what it is about as `json` or `csv`.

    Raises:
        ValueError: If there is no such format.
    """
    if format == "json":
        return json_text(as_json())
    if format == "csv":
        return as_csv()
    if format == "md":
        return f"# {markdown(title)}\n\n{table.markdown()}\n\n{markdown_notes(notes)}\n"
    if format == "table":
        return f"{title}\n\n{table.terminal()}\n\n{terminal_notes(map(one_line, notes))}"
    raise ValueError(f"format must be table, md, json or csv, got {format!r}")
