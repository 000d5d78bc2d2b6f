"""The assignment of requests to groups: by language, domain, or any field of documents and tasks.

Asked in this order: the user's own file, the document, the task's metadata, its configuration, its
name. Languages are BCP-47 tags in their standard form; script, family, macroarea and resource class
follow from the language where nothing says them.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from lm_eval_specfair.escape import one_line
from lm_eval_specfair.groups.language_tags import (
    is_language,
    language_code,
    language_name,
    script_name,
    standard_language,
    tag_script,
)
from lm_eval_specfair.groups.languages import RESOURCE_CLASSES, languages
from lm_eval_specfair.groups.sources import GroupSource
from lm_eval_specfair.groups.task_facts import TaskFacts
from lm_eval_specfair.groups.task_language import (
    LANGUAGE_FIELDS,
    is_about_code,
    language_in_name,
    language_of_task,
)
from lm_eval_specfair.groups.user_file import UserGroups

Fields = Mapping[str, Any]

NO_GROUP = "(none)"
DEFAULT_MIN_REQUESTS = 5

# Data sets call one thing by several names; the first is ours.
_ALIASES = {"language": LANGUAGE_FIELDS, "macroarea": ("macroarea", "region")}
OF_LANGUAGES = ("language", "script", "family", "macroarea", "resource_class")
"""What every language has, so that a run can be read by it without any metadata."""

_NO_USER = UserGroups()
# Programming languages whose short names are codes of natural ones.
_PROGRAMMING = {
    "ada": "Ada", "cs": "C#", "lua": "Lua", "ml": "OCaml", "nim": "Nim", "pl": "Perl",
    "sh": "Shell", "ts": "TypeScript",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Assignment:
    """A group of a request."""

    group: str  # its name, on one line
    source: GroupSource | None = None  # None for the task's own name and for `NO_GROUP`


_NONE = (Assignment(NO_GROUP),)


def assignments(
    task: TaskFacts, document: Fields, group_by: str, user: UserGroups = _NO_USER
) -> tuple[Assignment, ...]:
    """The groups of one request without repetition; `NO_GROUP` alone where nothing names one.

    `group_by` is `language` (alias `lang`), `script`, `family`, `macroarea` (alias `region`),
    `resource_class` (of the language where nothing says it), `task`, or any field of the documents
    or of the tasks' metadata. Of several, separated by commas, each makes its own groups:
    `language,family` puts a Swahili document into `language: sw` and into `family: Atlantic-Congo`.
    """
    keys = canonical_key(group_by).split(",")
    groups: dict[str, GroupSource | None] = {}
    for key in keys:
        for group, source in _groups(task, document, key, user):
            groups.setdefault(f"{key}: {group}" if len(keys) > 1 else group, source)
    return tuple(Assignment(*item) for item in groups.items()) or _NONE


def group_of(task: TaskFacts, document: Fields, group_by: str, user: UserGroups = _NO_USER) -> str:
    """The first of a request's groups (`assignments`)."""
    return assignments(task, document, group_by, user)[0].group


def canonical_key(group_by: str) -> str:
    """`language` for its aliases, `macroarea` for `region`; any other key as it is."""
    names = [name.strip() for name in group_by.split(",")]
    keys = [
        next((key for key, aliases in _ALIASES.items() if name in aliases), name) for name in names
    ]
    return ",".join(dict.fromkeys(key for key in keys if key))


def parallel_key(task: str, doc_id: int, group_by: str) -> tuple[str, int]:
    """What translations of one document have in common: the task without its language, the number.

    Document 7 of `xnli_sw` is taken for the translation of document 7 of `xnli_fr`.
    """
    if canonical_key(group_by) == "language":
        return language_in_name(task).rest, doc_id
    return task, doc_id


def display_name(group: str, group_by: str) -> str:
    """How a group is shown to people: a language with its English name and code.

    Example:
        >>> display_name("sw", "language"), display_name("law", "domain")
        ('Swahili (sw)', 'law')
        >>> display_name("2", "resource_class"), display_name("script: Deva", "language,script")
        ('2, the hopefuls', 'Devanagari (Deva)')
    """
    key = canonical_key(group_by)
    if "," in key:
        key, separator, group = group.partition(": ")
        if not separator or key not in OF_LANGUAGES:
            return key + separator + group
    if key == "resource_class" and group in RESOURCE_CLASSES:
        return f"{group}, {RESOURCE_CLASSES[group]}"
    name = group
    if key == "language" and is_language(group):
        name = language_name(group)
    elif key == "script":
        name = script_name(group)
    return f"{name} ({group})" if name != group else group


def impossible_groups(groups: Iterable[str], group_by: str) -> list[str]:
    """Names that no request's language can have, each with what to write instead.

    Example:
        >>> impossible_groups(["sw", "english", "xx"], "language")
        ["'english' is not how a language is named here: write en", "'xx' is no language"]
    """
    if canonical_key(group_by) != "language":
        return []
    return [
        f"{group!r} is no language"
        if (tag := standard_language(group)) == group
        else f"{group!r} is not how a language is named here: write {tag}"
        for group in groups
        if group != NO_GROUP and not (is_language(group) and standard_language(group) == group)
    ]


def _groups(
    task: TaskFacts, document: Fields, key: str, user: UserGroups
) -> list[tuple[str, GroupSource | None]]:
    if key == "task":
        return [(one_line(task.name), None)]
    names = _ALIASES.get(key, (key,))
    stated: dict[GroupSource, Fields] = {
        "file": user.of_task(task.name),
        "document": document,
        "metadata": task.metadata,
    }
    for source, fields in stated.items():
        if source in user.sources and (texts := _texts(fields, names)):
            if key == "language":
                texts = [_language(text, task, source) for text in texts]
            return [(text, source) for text in texts]
    if key == "language":
        conclusion = language_of_task(task, user.sources)
        return [conclusion] if conclusion else []
    languages_spoken = _groups(task, document, "language", user)
    for tag, _ in languages_spoken:
        if texts := _texts(user.of_language(tag), names):
            return [(text, "file") for text in texts]
    if key not in OF_LANGUAGES:
        return []
    facts = [(_fact(tag, key), source) for tag, source in languages_spoken if is_language(tag)]
    return [(fact, source) for fact, source in facts if fact]


def _texts(fields: Fields, names: Iterable[str]) -> list[str]:
    for name in names:
        value = fields.get(name)
        values = value if isinstance(value, (list, tuple)) else [value]
        texts = [
            one_line(value)
            for value in values
            if isinstance(value, (str, int, float)) and value == value  # of NaN: Min Nan Chinese
        ]
        if texts := list(filter(None, texts)):
            return texts
    return []


def _language(text: str, task: TaskFacts, source: GroupSource) -> str:
    if source != "file" and text.casefold() in _PROGRAMMING and is_about_code(task.name):
        return _PROGRAMMING[text.casefold()]
    return standard_language(text)


def _fact(tag: str, key: str) -> str | None:
    if key == "script":
        return tag_script(tag)
    return getattr(languages().get(language_code(tag)), key, None)
