"""The form of values in reports: estimates, p-values, names, notes, CSV and JSON."""

import csv
import io
import json
import textwrap
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from lm_eval_specfair.escape import csv_cell, markdown
from lm_eval_specfair.metrics.statistics.intervals import Estimate

NOT_MEASURED = "-"
LONGEST_NAME = 40

TERMINAL_WIDTH = 120
_LONGEST_JSON_LINE = 130
_LEAST = 1e-12  # what is left where rounding alone keeps a difference from 0


def estimate_text(estimate: Estimate | None, form: str = ".2f") -> str:
    """An estimate with its interval, if it has one; `form` formats each number.

    Example:
        >>> estimate_text(Estimate(value=0.512, low=0.48, high=0.544, n=9), "+.3f")
        '+0.512 [+0.480, +0.544]'
    """
    if estimate is None:
        return NOT_MEASURED
    return f"{estimate.value:{form}} {interval_text(estimate, form)}".rstrip()


def interval_text(estimate: Estimate, form: str = ".2f") -> str:
    """An estimate's interval, such as `[0.48, 0.54]`; empty where it has none."""
    if estimate.low is None or estimate.high is None:
        return ""
    return f"[{estimate.low:{form}}, {estimate.high:{form}}]"


def four_digits(value: float) -> str:
    """A number with four significant digits.

    Example:
        >>> four_digits(12.3), four_digits(1e-15)
        ('12.30', '0')
    """
    return f"{value:#.4g}".removesuffix(".") if abs(value) >= _LEAST else "0"


def count(number: int, noun: str) -> str:
    """A number of things.

    Example:
        >>> count(1, "group"), count(1200, "group")
        ('1 group', '1,200 groups')
    """
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def prose(name: str) -> str:
    """A metric's or a measure's name as text.

    Example:
        >>> prose("modelled_speedup")
        'modelled speed-up'
    """
    return name.replace("_", " ").replace("speedup", "speed-up")


def shortened(text: str, length: int = LONGEST_NAME) -> str:
    """Text cut to at most this many characters."""
    return text if len(text) <= length else f"{text[: length - 2]}.."


def isolated(name: str) -> str:
    """A name beside other text: one written from right to left does not reorder it.

    Source:
        Unicode Standard Annex 9, the isolates FSI and PDI.
    """
    turns = any(unicodedata.bidirectional(each) in ("R", "AL", "AN") for each in name)
    return f"\u2068{name}\u2069" if turns else name


def terminal_notes(notes: Iterable[str]) -> str:
    """Notes for a terminal, each wrapped."""
    return "\n".join(
        textwrap.fill(note, TERMINAL_WIDTH, subsequent_indent="  ", break_on_hyphens=False)
        for note in notes
    )


def markdown_notes(notes: Iterable[str]) -> str:
    """Notes as a list in Markdown, escaped."""
    return "\n".join(f"- {markdown(note)}" for note in notes)


def csv_text(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A CSV file; text that a spreadsheet would take for a formula is quoted."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(header)
    for row in rows:
        writer.writerow([csv_cell(cell) if isinstance(cell, str) else cell for cell in row])
    return file.getvalue()


def as_dicts(items: Mapping[str, Any]) -> dict[str, Any]:
    """Dataclasses by name as objects for JSON; None stays."""
    return {name: None if item is None else asdict(item) for name, item in items.items()}


def listed(items: Sequence[str], most: int, separator: str = ", ") -> str:
    """The first items, and how many more there are.

    Example:
        >>> listed(["a", "b", "c"], 2)
        'a, b, and 1 more'
    """
    more = f"{separator}and {len(items) - most} more" if len(items) > most else ""
    return f"{separator.join(items[:most])}{more}"


def json_text(data: Any, indent: str = "") -> str:
    """Indented JSON; what holds no further objects is on one line where it fits.

    Raises:
        ValueError: If a number is not finite.

    Example:
        >>> print(json_text({"a": {"value": 1.5, "n": 9}}))
        {
          "a": {"value": 1.5, "n": 9}
        }
    """
    values: Iterable[Any] = ()
    if isinstance(data, Mapping):
        values = data.values()
    elif isinstance(data, (list, tuple)):
        values = data
    if not any(isinstance(value, (Mapping, list, tuple)) for value in values):
        line = json.dumps(data, ensure_ascii=False, allow_nan=False)
        if len(line) <= _LONGEST_JSON_LINE or not values:
            return line
    inner = f"{indent}  "
    if isinstance(data, Mapping):
        parts = [
            f"{json.dumps(key, ensure_ascii=False)}: {json_text(value, inner)}"
            for key, value in data.items()
        ]
        first, last = "{", "}"
    else:
        parts = [json_text(value, inner) for value in data]
        first, last = "[", "]"
    lines = ",\n".join(f"{inner}{part}" for part in parts)
    return f"{first}\n{lines}\n{indent}{last}"
