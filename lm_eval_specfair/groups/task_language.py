"""The language of a task, from its name and from the data set that it reads.

Its language is that of its documents: of the question, of the text that answers are cut from, and
in translation of what is written. Better none than a wrong one: of several answers that differ, or
an English word that is also a code (`to`, `cot`, `law`), nothing is concluded, and no task is
English because nothing says otherwise.

What names can't be relied on to say is in `suites.tsv`, the known suites. How often the rules find
a language, and how often the right one, is measured by `experiments/attribution.py` on all task
names of lm-eval; docs/attribution.md has the result.
"""

import functools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lm_eval_specfair.groups.language_tags import language_code, language_tag, tag_script
from lm_eval_specfair.groups.languages import UNCLASSIFIED, languages

LANGUAGE_FIELDS = ("language", "lang", "locale", "language_code")
"""What data sets call the field that names a language; the first is ours."""

_TABLE = Path(__file__).with_name("suites.tsv")
_MIXED = "-"

_SCRIPTS = "|".join(
    sorted(
        {each.script for each in languages().values() if each.script}
        | {"Hang", "Hant", "Mtei", "Tfng"}  # of languages that are usually written otherwise
    )
)
# A code, with a script and a variety (`spa_Latn`, `apc_arab_jord`), or an English name in one word.
_LANGUAGE = f"[A-Za-z]{{2,3}}[_-](?i:{_SCRIPTS})(?:[_-][a-z]{{4}})?|[A-Za-z]{{2,}}"
_WILDCARDS = {
    "*": ".*?",
    "?": ".",
    "{language}": f"(?P<language>{_LANGUAGE})",
    "{other}": f"(?:{_LANGUAGE})",
}
# Three-letter codes that are English words or usual abbreviations.
_WORDS = re.compile(
    "abs|bis|bos|cat|cha|col|cor|cos|dan|div|dut|est|fin|fry|ger|gre|hat|her|ice|ind|kin|lat|lin|"
    "mac|mal|may|msa|nor|ori|pan|per|pol|por|pus|que|rum|run|sag|san|sin|slo|som|sun|tag|tam|tat|"
    "tel|tha|tib|tir|ton|war|wol"
)
# From or into the language that the name holds.
_TRANSLATED = re.compile("(?<![A-Za-z])translated?(?![A-Za-z])")
_WITH_SCRIPT = re.compile(f"(?<![A-Za-z])([a-z]{{2,3}})[_-]((?i:{_SCRIPTS}))(?![A-Za-z])")
# What says nothing at the end of a name: numbers of prompts and settings.
_SETTINGS = re.compile(r"([_-](prompt[_-]?\d+|p\d+|v\d+(\.\d+)*|\d+|\d*-?shots?|gen|mc\d?|cot))+$")
# Codes of languages that names end with in another meaning: machine translation, input and output,
# "yes_no".
_AMBIGUOUS = re.compile("(.*[_-])?(mt|io|ii|ie|in|to|yes[_-]no)")


@dataclass(frozen=True, slots=True)
class Attribution:
    """What the rules conclude about a task.

    Attributes:
        language: The tag in its standard form, or None.
        rest: The task's name without the part that names the language: equal for tasks that differ
            in their language alone.
    """

    language: str | None
    rest: str


def language_of_task(task: str, config: Mapping[str, Any]) -> str | None:
    """The language of a task's documents.

    Args:
        task: Its name.
        config: What `run.json` says of its configuration (`dataset_path`, `dataset_name`, and
            those of `dataset_kwargs` that name a language); may be empty.

    Returns:
        The tag in its standard form, or None where nothing or too much is said.
    """
    path, name, kwargs = (config.get(key) for key in _CONFIG)
    language = None
    if isinstance(kwargs, Mapping):
        language = next((kwargs[key] for key in LANGUAGE_FIELDS if kwargs.get(key)), None)
    return _concluded(task, _text(path), _text(name), _text(language))


_CONFIG = ("dataset_path", "dataset_name", "dataset_kwargs")


@functools.lru_cache(maxsize=65536)
def language_in_name(task: str) -> Attribution:
    """What a task's name says about its language.

    Known suites are looked up; of other names, a code with a script counts anywhere (`deu_Latn`,
    of a pair the second), else the last part, if it is a two-letter code, a three-letter code of
    such a language, or a language's English name.

    Example:
        >>> language_in_name("global_mmlu_full_te_professional_law").language
        'te'
        >>> language_in_name("my_task_zho_Hans"), language_in_name("gsm8k").language
        (Attribution(language='zh-Hans', rest='my_task'), None)
    """
    known = _known_suite(task)
    if known is not None:
        return known
    return _unknown_suite(task)


@functools.lru_cache(maxsize=65536)
def _known_suite(task: str) -> Attribution | None:
    for prefix, pattern, language in _suites():
        found = pattern.fullmatch(task) if task.startswith(prefix) else None
        if found is None:
            continue
        if "language" not in found.groupdict():
            return Attribution(None if language == _MIXED else language, task)
        tag = language_tag(found["language"])
        if tag is not None:
            return Attribution(tag, _without(task, *found.span("language")))
    return None


def _unknown_suite(task: str) -> Attribution:
    *_, last = [None, *_with_script(task)]
    if last is not None:
        return last
    stem = _SETTINGS.sub("", task)
    head, end = _split_last(stem)
    tag = _plain(end)
    if tag is None or not head or _AMBIGUOUS.fullmatch(stem):
        return Attribution(None, task)
    other = _split_last(head)[1]
    pair = stem.endswith(f"_{end}") and re.fullmatch("[a-z]{2}", other) and language_tag(other)
    if pair and not _AMBIGUOUS.fullmatch(head):
        # In translation the second of two codes would count, in cross-lingual tasks the first.
        return Attribution(None, task)
    return Attribution(tag, head + task[len(stem) :])


@functools.lru_cache(maxsize=65536)
def _concluded(task: str, path: str, name: str, language: str) -> str | None:
    """From the strongest to the weakest; sources of one strength that differ say nothing."""
    stated = language_tag(language) if language else None
    if stated is not None:
        return stated
    known = _known_suite(task)
    if known is not None:
        return _with_script_of(known.language, _whole(name))
    if _TRANSLATED.search(task) or _TRANSLATED.search(path):
        return None
    found = {tag for tag in (language_in_name(task).language, _whole(name)) if tag is not None}
    if not found:
        return _last_word(path)
    return found.pop() if len({language_code(tag) for tag in found}) == 1 else None


def _with_script(task: str) -> Iterator[Attribution]:
    """Codes with their scripts, in their order."""
    for found in _WITH_SCRIPT.finditer(task):
        tag = language_tag(f"{found[1]}-{found[2]}")
        if tag is not None:
            yield Attribution(tag, _without(task, *found.span()))


def _without(task: str, start: int, end: int) -> str:
    """The name without a part of it and the separator beside that."""
    before, after = task[:start], task[end:]
    return before.rstrip("_-") + after if before else after.lstrip("_-")


def _plain(part: str) -> str | None:
    """The language that one word names, if no other meaning is likely."""
    if re.fullmatch("[a-z]{2}", part):
        return language_tag(part)
    if re.fullmatch("[a-z]{3}", part):
        tag = language_tag(part)
        # Thousands of words are three-letter codes too.
        known = tag and len(language_code(tag)) == 2 and not _WORDS.fullmatch(part)
        return tag if known else None
    if re.fullmatch("[A-Za-z]{4,}", part):
        tag = language_tag(part)
        # Of small languages, names are words and places too.
        found = languages().get(language_code(tag)) if tag else None
        return tag if found and found.resource_class not in ("0", UNCLASSIFIED) else None
    return None


def _with_script_of(tag: str | None, other: str | None) -> str | None:
    """The tag; or the other, if it is the same language in a script that the first leaves out."""
    if tag is None or other is None or language_code(tag) != language_code(other):
        return tag
    return tag if tag_script(tag) == tag_script(other) else other


def _whole(name: str) -> str | None:
    """The language that is all of a configuration's name, such as `de`, `deu_Latn` or `Swahili`."""
    if re.fullmatch("[a-z]{2,3}[_-][A-Za-z]{4}|[a-z]{2}|[a-z]{2}[_-][A-Z]{2}", name):
        return language_tag(name)
    if re.fullmatch("([A-Z]{2})[_-]([A-Z]{2})", name):
        return language_tag(f"{name[:2].lower()}-{name[3:]}")
    return _plain(name) if len(name) > 2 else None


def _last_word(path: str) -> str | None:
    """The language at the end of a data set's path, such as `example/piqa-bn`."""
    stem = path.rpartition("/")[2]
    head, end = _split_last(stem)
    return _plain(end) if head and not _AMBIGUOUS.fullmatch(stem) else None


def _split_last(text: str) -> tuple[str, str]:
    """Before the last separator, and behind it."""
    found = re.fullmatch("(.*)[_-]([^_-]*)", text, re.DOTALL)
    return (found[1], found[2]) if found else ("", text)


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


@functools.cache
def _suites() -> list[tuple[str, re.Pattern[str], str]]:
    """How names start, what they look like, their language; in the table's order, first fits."""
    rows = []
    for line in _TABLE.read_text(encoding="utf-8").splitlines()[1:]:
        if not line.startswith("#"):
            pattern, language, *_ = line.split("\t")
            prefix, *rest = re.split(r"(\*|\?|\{language\}|\{other\})", pattern)
            expression = "".join(_WILDCARDS.get(part) or re.escape(part) for part in rest)
            rows.append((prefix, re.compile(re.escape(prefix) + expression, re.DOTALL), language))
    return rows
