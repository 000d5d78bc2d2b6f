"""A user's own groups: a file that says what tasks and languages belong to.

As YAML or JSON:

    tasks:                              # patterns of task names (*, ?); the first that fits counts
      "gsm8k*": {language: en, domain: mathematics}
      "law_*": {domain: [law, "public service"]}      # a list: several groups at once
    languages:                          # BCP-47 tags; a tag with a script or region comes first
      sw: {community: [africa, east-africa]}

As CSV, one pattern or language a line, several groups separated by semicolons:

    task,language,domain
    gsm8k*,en,mathematics
"""

import csv
import io
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import yaml

from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.groups.language_tags import is_language, language_code, language_tag
from lm_eval_specfair.groups.sources import GROUP_SOURCES
from lm_eval_specfair.groups.task_language import LANGUAGE_FIELDS
from lm_eval_specfair.unique_keys import RepeatedKeyError, json_data, yaml_data

Fields = Mapping[str, Sequence[str]]

_EXAMPLE = (
    'a groups file looks like {"tasks": {"gsm8k*": {"language": "en", "domain": ["math"]}}, '
    '"languages": {"sw": {"community": ["africa"]}}}, or is CSV with a column "task" or "language"'
)


@dataclass(frozen=True, kw_only=True, slots=True)
class UserGroups:
    """The user's own groups, and which sources of groups the user believes."""

    tasks: Mapping[str, Fields] = field(default_factory=dict)  # by pattern, in the file's order
    languages: Mapping[str, Fields] = field(default_factory=dict)  # by standard tag
    sources: frozenset[str] = frozenset(GROUP_SOURCES)
    _known: dict[str, Fields] = field(default_factory=dict, init=False, repr=False, compare=False)

    def of_task(self, task: str) -> Fields:
        """What the patterns that fit say; of two that name one field, the first."""
        if task not in self._known:
            fitting = [fields for name, fields in self.tasks.items() if fnmatchcase(task, name)]
            self._known[task] = {
                key: one for fields in fitting[::-1] for key, one in fields.items()
            }
        return self._known[task]

    def unused(self, tasks: Collection[str]) -> list[str]:
        """The patterns that fit none of these tasks."""
        return [name for name in self.tasks if not any(fnmatchcase(task, name) for task in tasks)]

    def of_language(self, tag: str) -> Fields:
        """What is said of a language; what is said of its script or region comes first."""
        code = language_code(tag) if is_language(tag) else tag
        return {**self.languages.get(code, {}), **self.languages.get(tag, {})}


def user_groups(path: Path | None, sources: frozenset[str]) -> UserGroups:
    """The user's file, if there is one, and the sources that the user believes."""
    return replace(read_mapping(path) if path else UserGroups(), sources=sources)


def read_mapping(path: Path) -> UserGroups:
    """The user's file: YAML, JSON or CSV, as its name ends.

    Raises:
        ConfigError: If it cannot be read, is of another form, or names a language that is none.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise ConfigError(f"cannot read the groups file {path}: {reason}") from None
    if path.suffix.lower() in (".csv", ".tsv"):
        data: Any = _from_csv(text, path)
    else:
        try:
            data = json_data(text) if path.suffix.lower() == ".json" else yaml_data(text)
        except RepeatedKeyError as error:
            raise ConfigError(f"{path}: {error}") from None
        except (ValueError, RecursionError, yaml.YAMLError):
            raise ConfigError(f"{path} is neither YAML, JSON nor CSV; {_EXAMPLE}") from None
    if not isinstance(data, dict) or not data or set(data) - {"tasks", "languages"}:
        got = sorted(map(str, data)) if isinstance(data, dict) else type(data).__name__
        raise ConfigError(f"{path}: expected tasks and languages, got {got!r:.80}; {_EXAMPLE}")
    tasks = {_name(key, path): _of_task(value, path) for key, value in _table(data, "tasks", path)}
    named: dict[str, Fields] = {}
    for key, value in _table(data, "languages", path):
        # YAML 1.1 takes "no", Norwegian, for false.
        tag = language_tag("no" if key is False else str(key))
        if tag is None:
            raise ConfigError(f"{path}: expected BCP-47 tags under languages, got {key!r:.60}")
        if tag in named:
            raise ConfigError(f"{path}: {key!r:.60} is {tag}, given twice; keep one of them")
        named[tag] = _fields(value, path)
        if "language" in named[tag]:
            raise ConfigError(
                f"{path}: {key} is under languages and cannot have another language; say what "
                "language a task has under tasks"
            )
    return UserGroups(tasks=tasks, languages=named)


def _table(data: Mapping[Any, Any], section: str, path: Path) -> list[tuple[Any, Any]]:
    table = data.get(section) or {}
    if not isinstance(table, dict):
        raise ConfigError(f"{path}: {section} must be a table; {_EXAMPLE}")
    return list(table.items())


def _name(value: object, path: Path) -> str:
    if isinstance(value, bool) or not isinstance(value, (str, int, float)) or value == "":
        raise ConfigError(f"{path}: expected a name, got {value!r:.60} (in YAML, quote it)")
    return str(value)


def _fields(value: object, path: Path) -> Fields:
    if not isinstance(value, dict):
        raise ConfigError(f"{path}: expected fields and groups, got {value!r:.60}; {_EXAMPLE}")
    return {
        _name(key, path): [
            "no" if each is False and key == "language" else _name(each, path)
            for each in (groups if isinstance(groups, list) else [groups])
        ]
        for key, groups in value.items()
    }


def _of_task(value: object, path: Path) -> Fields:
    fields = _fields(value, path)
    for name in LANGUAGE_FIELDS:
        for each in fields.get(name, ()):
            if language_tag(each) is None:
                raise ConfigError(
                    f"{path}: expected a BCP-47 tag or a language's English name under {name}, got "
                    f"{each!r:.60}; other kinds of groups want a field of another name"
                )
    return fields


def _from_csv(text: str, path: Path) -> dict[str, dict[str, dict[str, list[str]]]]:
    dialect = "excel-tab" if path.suffix.lower() == ".tsv" else "excel"
    reader = csv.DictReader(io.StringIO(text), dialect=dialect)
    columns = [(name or "").strip() for name in reader.fieldnames or []]
    key = next((name for name in ("task", "language") if name in columns), None)
    if key is None or len(columns) < 2:
        expected = "a first line with task or language and at least one field"
        raise ConfigError(f"{path}: expected {expected}, got {columns!r:.80}")
    rows: dict[str, dict[str, list[str]]] = {}
    for row in reader:
        cells = {(name or "").strip(): cell for name, cell in row.items()}
        if None in row.values() or not all(isinstance(cell, str) for cell in cells.values()):
            where = f"{path}:{reader.line_num}"
            raise ConfigError(f"{where}: expected {len(columns)} columns, got another number")
        name = cells.pop(key).strip()
        groups = {
            column: [part.strip() for part in cell.split(";") if part.strip()]
            for column, cell in cells.items()
        }
        stated = {column: names for column, names in groups.items() if names}
        before = rows.get(name, {})
        for column in stated.keys() & before.keys():
            if stated[column] != before[column]:
                where = f"{path}:{reader.line_num}"
                raise ConfigError(f"{where}: {column} of {name!r:.60} is given twice; keep one")
        rows[name] = stated | before
    return {f"{key}s": rows}
