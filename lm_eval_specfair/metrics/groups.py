"""Which group a record belongs to: a language, a domain, whatever the user reads a run by.

Asked in this order: the document, the task's metadata, the task's name. Languages are BCP-47 tags
in their standard form. Knows nothing about figures.
"""

import functools
import importlib.util
import re
from collections.abc import Mapping
from typing import Any

import langcodes

from lm_eval_specfair.records import Record

NO_GROUP = "(none)"
DEFAULT_MIN_REQUESTS = 5

# Data sets call one thing by several names; the first is ours.
_ALIASES = {
    "language": ("language", "lang", "locale", "language_code"),
    "script": ("script",),
}
_NOT_LANGUAGES = {"und", "mul", "mis", "zxx"}  # BCP-47: undetermined, several, uncoded, none


def group_of(record: Record, group_by: str, task_metadata: Mapping[str, Any]) -> str:
    """The group of one request.

    Args:
        record: The request.
        group_by: What makes a group: `language` (alias `lang`), `script` (of the language where
            nothing says it), `task`, or any field of the documents or of the tasks' metadata.
        task_metadata: The task's own metadata, as `run.json` gives it; may be empty.

    Returns:
        The group's name on one line; `NO_GROUP` where nothing names one.
    """
    key = canonical_key(group_by)
    if key == "task":
        return _one_line(record.task)
    for fields in (record.group_fields, task_metadata):
        for name in _ALIASES.get(key, (key,)):
            value = fields.get(name)
            if isinstance(value, (str, int, float)) and _one_line(str(value)):
                text = _one_line(str(value))
                return standard_language(text) if key == "language" else text
    if key == "language":
        return language_in_name(record.task)[0] or NO_GROUP
    if key == "script":
        language = group_of(record, "language", task_metadata)
        return _script_of(language) or NO_GROUP
    return NO_GROUP


def canonical_key(group_by: str) -> str:
    """`language` for its aliases; any other key as it is."""
    return next((key for key, names in _ALIASES.items() if group_by in names), group_by)


def parallel_key(record: Record, group_by: str) -> tuple[str, int]:
    """What translations of one document have in common.

    The task's name without the part that names the language, and the document's number: document 7
    of `xnli_sw` is taken for the translation of document 7 of `xnli_fr`.
    """
    if canonical_key(group_by) == "language":
        return language_in_name(record.task)[1], record.doc_id
    return record.task, record.doc_id


@functools.lru_cache(maxsize=4096)
def standard_language(text: str) -> str:
    """The standard form of a BCP-47 tag, or the tag of a language's English name.

    Example:
        >>> [standard_language(text) for text in ("zho", "zh_CN", "eng_Latn", "Swahili", "iw")]
        ['zh', 'zh-CN', 'en', 'sw', 'he']

    Returns:
        The tag; the text itself where it names no language.
    """
    try:
        if langcodes.tag_is_valid(text):
            return langcodes.standardize_tag(text)
        if _names_are_known():
            found = langcodes.find(text)
            # It guesses: "Klingonese of Mars" is found too.
            if found.display_name().casefold() == text.casefold():
                return found.to_tag()
    except (ValueError, LookupError):
        pass
    return text


@functools.lru_cache(maxsize=4096)
def language_in_name(task: str) -> tuple[str | None, str]:
    """The language that a task's name holds, and the name without it.

    The last part that is a tag counts, as suites put it at the end: `xnli_multi_sw` is Swahili,
    `belebele_zho_Hans` Chinese in simplified characters. Thousands of three-letter words are tags
    too (cot, law, arc). So three letters count only where they have a two-letter form, stand
    before a script or a region, or belong to a language that CLDR knows speakers of.

    Example:
        >>> language_in_name("xnli_multi_sw"), language_in_name("gsm8k")
        (('sw', 'xnli_multi'), (None, 'gsm8k'))

    Returns:
        The standard tag or None, and the remaining name.
    """
    parts = re.split("[_-]", task)
    for start in reversed(range(len(parts))):
        tag, end = parts[start], start + 1
        # Upper case is a region ("pt_BR"); a lower-case one would be a language ("en_fr").
        for subtag in ("[A-Za-z]{4}", "[A-Z]{2}|[0-9]{3}"):
            if end < len(parts) and re.fullmatch(subtag, parts[end]):
                longer = f"{tag}-{parts[end]}"
                if langcodes.tag_is_valid(longer):
                    tag, end = longer, end + 1
        if _is_language(parts[start], is_alone=tag == parts[start]):
            return langcodes.standardize_tag(tag), "_".join(parts[:start] + parts[end:])
    return None, task


def display_name(group: str, group_by: str) -> str:
    """How a group is shown to people: a language with its English name and code.

    Example:
        >>> display_name("sw", "language"), display_name("law", "domain")
        ('Swahili (sw)', 'law')
    """
    key = canonical_key(group_by)
    if group == NO_GROUP or not _names_are_known():
        return group
    if key == "language" and langcodes.tag_is_valid(group):
        return f"{langcodes.Language.get(group).display_name()} ({group})"
    if key == "script" and re.fullmatch("[A-Z][a-z]{3}", group):
        return f"{langcodes.Language.make(script=group).script_name()} ({group})"
    return group


def _is_language(part: str, *, is_alone: bool) -> bool:
    if not re.fullmatch("[a-z]{2,3}", part) or part in _NOT_LANGUAGES:
        return False
    if not langcodes.tag_is_valid(part):
        return False
    if not is_alone or len(langcodes.standardize_tag(part)) == 2:
        return True
    return _names_are_known() and langcodes.Language.get(part).speaking_population() > 0


def _script_of(language: str) -> str | None:
    if language == NO_GROUP or not langcodes.tag_is_valid(language):
        return None
    return langcodes.Language.get(language).maximize().script


@functools.cache
def _names_are_known() -> bool:
    # langcodes keeps names and populations in another package, and prints where that is missing.
    return importlib.util.find_spec("language_data") is not None


def _one_line(text: str) -> str:
    """Without line breaks and control characters, which a terminal would obey."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())
