"""Texts and prompts with their groups, read from files.

An item is what translations share: paragraph 7 of `de.txt` and of `sw.txt` are item 7. Splits are
made by item, so that no test text's translation is trained on. No torch.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.text_lines import file_lines, parse_json

GROUP_FIELDS = ("group", "language", "lang")
ITEM_FIELDS = ("item", "doc_id", "id")

Membership = tuple[tuple[str, float], ...]
"""Groups of a text with its share in each, above 0, adding up to 1."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """A text, or a prompt with or without its response."""

    item: str  # names what translations of this text share
    membership: Membership
    prompt: str = ""  # what is not learnt from; empty for a plain text
    response: str | None = None  # what is learnt from; None if a model is still to write it
    # As the model wrote it, which tokenising its text anew might not give.
    response_tokens: tuple[int, ...] | None = None


def read_path(path: Path) -> list[Item]:
    """Items of a folder of `<group>.txt`, or of a JSON Lines file.

    Raises:
        ConfigError: If there is nothing to read, or a line or a group is empty or broken.
    """
    if path.is_dir():
        return list(_folder(path))
    if path.is_file():
        return from_rows((row for _, row in json_rows(path)), str(path))
    raise ConfigError(
        f"--data must be a folder of <group>.txt, a JSON Lines file, task:NAME or datasets:ID, got "
        f"{str(path)!r}, which does not exist"
    )


def from_rows(rows: Iterable[Mapping[str, Any]], source: str) -> list[Item]:
    """Items of rows with `text`, or `prompt` and perhaps `response` (`completion`), and `group`.

    `group` (or `language`, `lang`) is a name, a list of names (equal shares), or shares by name.
    `item` (or `doc_id`, `id`) says which rows are translations of each other; without it, a row's
    number within its group does. Messages name the `source`.

    Raises:
        ConfigError: If a row lacks a field or has no text.
    """
    items, seen = [], dict[Membership, int]()
    for number, row in enumerate(rows, 1):
        where = f"{source}, row {number}"
        membership = membership_of(row, where)
        ordinal = seen[membership] = seen.get(membership, -1) + 1
        name = next((str(row[key]) for key in ITEM_FIELDS if row.get(key) is not None), None)
        items.append(_item(row, name or f"#{ordinal}", membership, where))
    if not items:
        raise ConfigError(f"{source} has no rows; expected at least one text a group")
    return items


def _item(row: Mapping[str, Any], name: str, membership: Membership, where: str) -> Item:
    text, prompt = row.get("text"), row.get("prompt")
    response = row.get("completion") if row.get("response") is None else row["response"]
    if (text is None) == (prompt is None):
        raise ConfigError(f"{where}: expected either `text` or `prompt`, got {sorted(row)}")
    for key, value in (("text", text), ("prompt", prompt), ("response", response)):
        if value is not None and (not isinstance(value, str) or not value.strip()):
            raise ConfigError(f"{where}: `{key}` must be a text that is not empty, got {value!r}")
    if text is not None:
        return Item(item=name, membership=membership, response=text)
    return Item(item=name, membership=membership, prompt=str(prompt), response=response)


def membership_of(row: Mapping[str, Any], where: str) -> Membership:
    """Groups of a row, with its share in each.

    Raises:
        ConfigError: If it names none.
    """
    given = next((row[key] for key in GROUP_FIELDS if row.get(key) is not None), None)
    if isinstance(given, str):
        given = [given]
    if isinstance(given, (list, tuple)):
        given = {name: 1 / len(set(given)) for name in given}
    shares = given if isinstance(given, dict) else {}
    names_fit = all(isinstance(name, str) and name.strip() for name in shares)
    if not shares or not names_fit or not all(_is_share(share) for share in shares.values()):
        raise ConfigError(
            f"{where}: expected `group` as a name, a list of names, or shares by name, got "
            f"{given!r}"
        )
    total = sum(shares.values())
    return tuple(sorted((name.strip(), share / total) for name, share in shares.items()))


def restricted(items: Iterable[Item], groups: Collection[str]) -> list[Item]:
    """Those with a share in some groups, and nothing of their shares in others."""
    kept = []
    for item in items:
        own = [(name, share) for name, share in item.membership if name in groups]
        total = sum(share for _, share in own)
        if own:
            membership = tuple((name, share / total) for name, share in own)
            kept.append(replace(item, membership=membership))
    return kept


def _is_share(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < 1e9


def json_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Objects of a JSON Lines file with the number of their line, from 1; empty lines are skipped.

    Raises:
        ConfigError: If the file cannot be read, or a line is no object.
    """
    for number, line in enumerate(_lines(path), 1):
        if not line.strip():
            continue
        try:
            row = parse_json(line)
        except (ValueError, RecursionError) as error:  # too many digits, too deep
            raise ConfigError(f"{path}, line {number}: not JSON ({error})") from error
        if not isinstance(row, dict):
            raise ConfigError(f"{path}, line {number}: expected an object, got {line[:40]!r}")
        yield number, row


def _folder(folder: Path) -> Iterator[Item]:
    paths = sorted(folder.glob("*.txt"))
    if not paths:
        raise ConfigError(f"{folder} has no <group>.txt; expected one text file for each group")
    for path in paths:
        lines = _lines(path)
        text = "\n".join(lines)
        # Paragraphs where the file has them, else lines.
        parts = text.split("\n\n") if "\n\n" in text.strip() else lines
        texts = [part.strip() for part in parts]
        if not any(texts):
            raise ConfigError(f"group {path.stem!r} has no text: {path} is empty")
        for number, part in enumerate(texts):
            if part:
                yield Item(item=f"#{number}", membership=((path.stem, 1.0),), response=part)


def _lines(path: Path) -> list[str]:
    try:
        return list(file_lines(path))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} must be a readable file in UTF-8: {error}") from error
