"""Rows of training data with their groups, as teams keep them: texts, prompts, conversations."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.groups.assign import NO_GROUP, assignments, canonical_key
from lm_eval_specfair.groups.language_tags import standard_language
from lm_eval_specfair.groups.task_facts import TaskFacts
from lm_eval_specfair.groups.user_file import UserGroups
from lm_eval_specfair.training.data.items import (
    GROUP_FIELDS,
    Membership,
    json_rows,
    membership_of,
    read_path,
)

CONVERSATIONS = ("conversations", "messages")
_ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant"}

Turn = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class TextRow:
    """A row, with where it stands.

    Attributes:
        file: As it was named.
        number: Its line from 1, or in a text file its paragraph from 0.
        membership: Its groups with its share in each.
        prompt: Empty for a plain text; None for a conversation.
        response: What is learnt from: a plain text, or an answer; None where there is none.
        turns: Of a conversation, with `role` and `content`.
        tools: What the conversation's model may call, as the row has it.
        learnt_bytes: UTF-8 bytes of what is learnt from; 0 without a response.
    """

    file: str
    number: int
    membership: Membership
    prompt: str | None = None
    response: str | None = None
    turns: Sequence[Turn] = ()
    tools: Any = None
    learnt_bytes: int = 0

    @property
    def learnt(self) -> str:
        """The text that is learnt from."""
        if not self.turns:
            return self.response or ""
        answers = [_text(turn) for turn in self.turns if turn["role"] == "assistant"]
        return "".join(answers)


def read_rows(
    paths: Sequence[Path], group_by: str, user: UserGroups | None = None
) -> list[TextRow]:
    """Rows of folders of `<group>.txt` and of JSON Lines.

    A line has `text`, `prompt` and perhaps `response` (or `completion`), `conversations`, or
    `messages`, and a group: the field that `group_by` names, `group`, `language` or `lang`, as a
    name, a list of names, or shares by name; script and family follow from the language.

    Raises:
        ConfigError: If a file cannot be read, a row is broken or has no group, or some rows have a
            response and some none.
    """
    user = dataclasses.replace(user or UserGroups(), sources=frozenset({"file", "document"}))
    rows = [row for path in paths for row in _read(path, canonical_key(group_by), user)]
    if not rows:
        raise ConfigError(f"{', '.join(map(str, paths))}: no rows; expected at least one a group")
    bare = [row for row in rows if not row.learnt_bytes]
    if bare and len(bare) < len(rows):
        raise ConfigError(
            f"{bare[0].file}, row {bare[0].number} has no response, others have: have the target "
            "answer all prompts first, or none"
        )
    return rows


def _read(path: Path, group_by: str, user: UserGroups) -> Iterator[TextRow]:
    if path.is_dir():
        for item in read_path(path):
            ((name, _),) = item.membership
            file = str(path / f"{name}.txt")
            groups = _groups({group_by: name}, file, group_by, user)
            yield _sized(
                TextRow(
                    file=file,
                    number=int(item.item.removeprefix("#")),
                    membership=groups,
                    prompt="",
                    response=item.response,
                )
            )
        return
    if not path.is_file():
        raise ConfigError(
            f"--data must be a folder of <group>.txt or a JSON Lines file, got {str(path)!r:.200}, "
            "which does not exist"
        )
    for number, row in json_rows(path):
        where = f"{path}, line {number}"
        groups = _groups(row, where, group_by, user)
        yield _sized(_row(row, str(path), number, groups, where))


def _row(row: Mapping[str, Any], file: str, number: int, groups: Membership, where: str) -> TextRow:
    shared: dict[str, Any] = {"file": file, "number": number, "membership": groups}
    key = next((key for key in CONVERSATIONS if row.get(key) is not None), None)
    if key is not None:
        turns = _turns(row[key], key, where)
        return TextRow(**shared, turns=turns, tools=row.get("tools"))
    text, prompt = row.get("text"), row.get("prompt")
    response = row.get("completion") if row.get("response") is None else row["response"]
    if (text is None) == (prompt is None):
        raise ConfigError(
            f"{where}: expected one of text, prompt, {' and '.join(CONVERSATIONS)}, got "
            f"{', '.join(sorted(row))[:100]}"
        )
    for name, value in (("text", text), ("prompt", prompt), ("response", response)):
        if value is not None and (not isinstance(value, str) or not value.strip()):
            raise ConfigError(
                f"{where}: {name} must be a text that is not empty, got {value!r:.60}"
            )
    if text is not None:
        return TextRow(**shared, prompt="", response=text)
    return TextRow(**shared, prompt=prompt, response=response)


def _turns(given: Any, key: str, where: str) -> list[Turn]:
    """Turns with `role` and `content`, whichever of the two spellings they came in.

    A file with both spellings gives each turn empty fields of the other one when it is read as a
    table, and readers then take the empty role.
    """
    turns: list[Turn] = []
    for turn in given if isinstance(given, list) else ():
        if not isinstance(turn, dict):
            break
        role = turn.get("role") or turn.get("from")
        content = turn.get("content") if turn.get("content") is not None else turn.get("value")
        if not isinstance(role, str) or not isinstance(content, (str, list)):
            break
        rest = {k: v for k, v in turn.items() if k not in ("role", "content", "from", "value")}
        turns.append({"role": _ROLES.get(role, role), "content": content, **rest})
    if not turns or len(turns) < len(given):
        raise ConfigError(
            f"{where}: {key} must be a list of turns with role and content (or from and value), "
            f"got {given!r:.100}"
        )
    return turns


def _text(turn: Turn) -> str:
    content = turn["content"]
    if isinstance(content, str):
        return content
    parts = [part.get("text") for part in content if isinstance(part, dict)]
    return "".join(part for part in parts if isinstance(part, str))


def _sized(row: TextRow) -> TextRow:
    size = len(row.learnt.encode("utf-8", errors="replace"))
    return dataclasses.replace(row, learnt_bytes=size)


def _groups(row: Mapping[str, Any], where: str, group_by: str, user: UserGroups) -> Membership:
    given = row.get("group")
    if isinstance(given, dict):
        shares: dict[str, float] = {}
        for name, share in membership_of(row, where):
            known = standard_language(name) if group_by == "language" else name
            shares[known] = shares.get(known, 0.0) + share
        return tuple(sorted(shares.items()))
    fields = row if given is None else {group_by: given, **row}
    found = assignments(TaskFacts(""), fields, group_by, user)
    names = sorted({one.group for one in found})
    if names == [NO_GROUP]:
        fields_asked = ", ".join(dict.fromkeys((group_by, *GROUP_FIELDS)))
        raise ConfigError(
            f"{where}: no group; expected one of the fields {fields_asked} with a name, a list of "
            f"names, or (group) shares by name, got {', '.join(sorted(row))[:100]}"
        )
    return tuple((name, 1 / len(names)) for name in names)
