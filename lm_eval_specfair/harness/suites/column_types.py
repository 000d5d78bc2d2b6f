"""A check that a data set's rows hold what its tasks read: columns, types and values."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.harness.suites.suite_sources import Source

Check = tuple[str, Callable[[Any], bool]]


def check_columns(source: Source, columns: Mapping[str, Sequence[Any]], where: object) -> None:
    """Look at every value that tasks are going to read, before anything is decoded.

    Args:
        source: The data set.
        columns: Its values by column, one per row.
        where: The file, or the hub, for messages.

    Raises:
        ConfigError: If a column is missing or a value is of another kind, at the first such value.
    """
    missing = [column for column in source.read if column not in columns]
    if missing:
        raise ConfigError(
            f"expected the rows of {source.hub_id} with the columns {', '.join(source.read)}, "
            f"{where} came without {', '.join(missing)}: see the suite's README for the layout."
        )
    for column in source.read:
        expected, fits = _check(source, column)
        for row, value in enumerate(columns[column], start=1):
            if not fits(value):
                got = json.dumps(value, ensure_ascii=False, default=repr)
                raise ConfigError(
                    f"{where}, column {column}, row {row}: expected {expected}, got {got:.80}; see "
                    "the suite's README for the layout."
                )


def type_of(source: Source, column: str) -> str:
    """A column's type and what it may hold, for a table.

    Example:
        >>> from lm_eval_specfair.harness.suites.suite_sources import SOURCES
        >>> type_of(SOURCES["facebook/belebele"], "correct_answer_num")
        'string: 1, 2, 3 or 4'
    """
    values = source.values.get(column)
    null = " or null" if column in source.nullable else ""
    return f"{source.columns[column]}{f': {_any_of(values)}' if values else ''}{null}"


def _check(source: Source, column: str) -> Check:
    expected, fits = _of_type(source.columns[column], source.values.get(column))
    if column in source.nullable:
        return f"{expected} or null", lambda value: value is None or fits(value)
    return expected, fits


def _of_type(kind: str, values: Sequence[str] | None) -> Check:
    if values is not None:
        return f"the text {_any_of(values)}", lambda value: value in values
    if labels := re.fullmatch(r"class\((.*)\)", kind):
        names = labels[1].split(", ")
        numbers = _any_of(list(map(str, range(len(names)))))
        return (
            f"a whole number, {numbers} ({', '.join(names)})",
            lambda value: _is_whole(value) and 0 <= value < len(names),
        )
    if kind.startswith("int"):
        return "a whole number", _is_whole
    if kind.startswith("{text: list[string]"):
        return "an object whose `text` is a list of one text or more", _is_answers
    return "a text", lambda value: isinstance(value, str)


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63


def _is_answers(value: object) -> bool:
    texts = value.get("text") if isinstance(value, dict) else None
    return isinstance(texts, list) and bool(texts) and all(isinstance(text, str) for text in texts)


def _any_of(words: Sequence[str]) -> str:
    return f"{', '.join(words[:-1])} or {words[-1]}"
