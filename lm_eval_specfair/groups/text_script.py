"""Whether a text is written in the script of the language that was asked for."""

import functools
from collections.abc import Mapping
from typing import Any

import regex

from lm_eval_specfair.groups.assign import group_of
from lm_eval_specfair.groups.language_tags import is_language, tag_script
from lm_eval_specfair.groups.task_facts import TaskFacts

# ISO 15924 has codes of mixtures; Unicode, for each character, its parts.
_PARTS = {
    "Jpan": ("Hani", "Hira", "Kana"), "Kore": ("Hang", "Hani"), "Hans": ("Hani",),
    "Hant": ("Hani",), "Hrkt": ("Hira", "Kana"),
}  # fmt: skip
# Letters of all scripts and of none, such as modifiers, say nothing.
_LETTER = regex.compile(r"[\p{L}--[\p{Script=Zyyy}\p{Script=Zinh}]]", regex.V1)


def script_counts(text: str, language: str) -> tuple[int, int] | None:
    """The letters of a text, and those among them of another script than the language's.

    None where the language, a BCP-47 tag, or its script is not known. Letters alone are counted:
    digits, punctuation and marks belong to many scripts.

    Example:
        >>> script_counts("Привет, world 1!", "ru"), script_counts("東京タワー", "ja")
        ((11, 5), (4, 0))
    """
    script = tag_script(language) if is_language(language) else None
    own = _letters_of(script) if script else None
    if own is None:
        return None
    letters = len(_LETTER.findall(text))
    return letters, letters - len(own.findall(text))


def script_fields(text: str | None, task: TaskFacts, document: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a record about its text's script; none where text or language is not known."""
    counts = None if text is None else script_counts(text, group_of(task, document, "language"))
    if counts is None:
        return {}
    return {"num_letters": counts[0], "num_other_script_letters": counts[1]}


@functools.cache
def _letters_of(script: str) -> "regex.Pattern[str] | None":
    parts = "".join(rf"\p{{Script={part}}}" for part in _PARTS.get(script, (script,)))
    try:
        return regex.compile(rf"[\p{{L}}&&[{parts}]]", regex.V1)
    except regex.error:  # a script that Unicode has no characters of
        return None
