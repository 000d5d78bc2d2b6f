"""Lines of UTF-8 text, which end at a line feed and nowhere else.

`str.splitlines` also cuts at U+2028, U+2029, U+0085, form feeds and more, which JSON Lines allows
inside a string; `Path.read_text` turns a lone carriage return into a line's end.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lm_eval_specfair.unique_keys import json_data


def split_lines(text: str) -> list[str]:
    r"""The lines of a text, each without its end (`\n` or `\r\n`); a byte-order mark is skipped.

    Example:
        >>> split_lines("one\u2028still one\r\ntwo\n")
        ['one\u2028still one', 'two']
    """
    lines = text.removeprefix("\ufeff").split("\n")
    if not lines[-1]:
        lines.pop()
    return [line.removesuffix("\r") for line in lines]


def num_bytes(text: str) -> int:
    """UTF-8 bytes of a decoded text, where a replacement character (U+FFFD) counts one.

    It stands for one to three bytes that are no character, such as the first of several where a
    text was cut inside one: its own three would be more than were written.

    Example:
        >>> num_bytes("né"), num_bytes("n\ufffd")
        (3, 2)
    """
    return len(text.replace("\ufffd", "?").encode("utf-8", errors="replace"))


def first_line(text: str) -> str:
    """The first line of a text that is not blank, without white space around it; may be empty."""
    return text.strip().split("\n", 1)[0].strip()


def file_lines(path: Path) -> Iterator[str]:
    """The lines of a file, read one at a time, as `split_lines` gives them.

    Raises:
        OSError: If the file cannot be read.
        UnicodeDecodeError: If it is not UTF-8.
    """
    with path.open("rb") as file:
        for number, line in enumerate(file):
            text = line.decode("utf-8-sig" if number == 0 else "utf-8")
            if text:  # not where a file is a mark and nothing else
                yield text.removesuffix("\n").removesuffix("\r")


def parse_json(line: str) -> Any:
    r"""A line's JSON.

    Raises:
        ValueError: If it is none, has a key twice, or a string holds half a surrogate pair
            (`"\ud800"`), no text.
        RecursionError: If it is too deep.
    """
    value = json_data(line)
    if "\\u" in line:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    return value
