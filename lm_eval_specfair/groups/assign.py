"""Assigns requests to groups: by language, domain, or any field of documents and tasks.

Asked in this order: the user's own file, the document, the task's metadata, its configuration, its
name. Languages are BCP-47 tags in their standard form; script, family, macroarea and resource class
follow from the language where nothing says them.
"""

import re
from collections.abc import Iterable, Mapping
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
from lm_eval_specfair.groups.task_facts import TaskFacts
from lm_eval_specfair.groups.task_language import (
    LANGUAGE_FIELDS,
    language_in_name,
    language_of_task,
)
from lm_eval_specfair.groups.user_file import Mapped

Fields = Mapping[str, Any]

NO_GROUP = "(none)"
DEFAULT_MIN_REQUESTS = 5

# Data sets call one thing by several names; the first is ours.
_ALIASES = {
    "language": LANGUAGE_FIELDS,
    "macroarea": ("macroarea", "region"),
}
OF_LANGUAGES = ("language", "script", "family", "macroarea", "resource_class")
"""What every language has, so that a run can be read by it without any metadata."""

_NO_MAPPING = Mapped()


def groups_of(
    task: TaskFacts,
    document: Fields,
    group_by: str,
    mapping: Mapped = _NO_MAPPING,
) -> tuple[str, ...]:
    """The groups of one request: several where a field holds a list, or several fields are asked.

    Args:
        task: The request's task.
        document: Fields of its document that may name a group.
        group_by: What makes a group: `language` (alias `lang`), `script`, `family`, `macroarea`
            (alias `region`), `resource_class` (of the language where nothing says it), `task`, or
            any field of the documents or of the tasks' metadata. Of several, separated by commas,
            each makes its own groups: `language,family` puts a Swahili document into
            `language: sw` and into `family: Atlantic-Congo`.
        mapping: The user's own file.

    Returns:
        The groups' names, each on one line, without repetition; `(NO_GROUP,)` where nothing names
        one.
    """
    keys = canonical_key(group_by).split(",")
    groups = [
        f"{key}: {group}" if len(keys) > 1 else group
        for key in keys
        for group in _groups(task, document, key, mapping)
    ]
    return tuple(dict.fromkeys(groups)) or (NO_GROUP,)


def group_of(
    task: TaskFacts, document: Fields, group_by: str, mapping: Mapped = _NO_MAPPING
) -> str:
    """The first of a request's groups (`groups_of`)."""
    return groups_of(task, document, group_by, mapping)[0]


def canonical_key(group_by: str) -> str:
    """`language` for its aliases, `macroarea` for `region`; any other key as it is."""
    names = [name.strip() for name in group_by.split(",")]
    keys = [
        next((key for key, aliases in _ALIASES.items() if name in aliases), name) for name in names
    ]
    return ",".join(dict.fromkeys(key for key in keys if key))


def parallel_key(task: str, doc_id: int, group_by: str) -> tuple[str, int]:
    """What translations of one document have in common.

    The task's name without the part that names the language, and the document's number: document 7
    of `xnli_sw` is taken for the translation of document 7 of `xnli_fr`.
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
    if group == NO_GROUP:
        return group
    if key == "language" and is_language(group):
        name = language_name(group)
        return f"{name} ({group})" if name != group else group
    if key == "script" and re.fullmatch("[A-Z][a-z]{3}", group):
        name = script_name(group)
        return f"{name} ({group})" if name != group else group
    if key == "resource_class" and group in RESOURCE_CLASSES:
        return f"{group}, {RESOURCE_CLASSES[group]}"
    return group


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


def _groups(task: TaskFacts, document: Fields, key: str, mapping: Mapped) -> Iterable[str]:
    if key == "task":
        return [one_line(task.name)]
    names = _ALIASES.get(key, (key,))
    for fields in (mapping.of_task(task.name), document, task.metadata):
        if groups := _values(fields, names, is_language=key == "language"):
            return groups
    if key == "language":
        language = language_of_task(task.name, task.config)
        return [language] if language else []
    languages_spoken = _groups(task, document, "language", mapping)
    if mapping.languages:
        for tag in languages_spoken:
            if groups := _values(mapping.of_language(tag), names, is_language=False):
                return groups
    if key in OF_LANGUAGES:
        return [fact for tag in languages_spoken if is_language(tag) and (fact := _fact(tag, key))]
    return []


def _values(fields: Fields, names: Iterable[str], *, is_language: bool) -> list[str]:
    """What some fields hold under the first of some names that they have."""
    for name in names:
        value = fields.get(name)
        values = value if isinstance(value, (list, tuple)) else [value]
        texts = [one_line(value) for value in values if isinstance(value, (str, int, float))]
        if texts := [standard_language(text) if is_language else text for text in texts if text]:
            return texts
    return []


def _fact(tag: str, key: str) -> str | None:
    if key == "script":
        return tag_script(tag)
    known = languages().get(language_code(tag))
    return getattr(known, key) if known else None
