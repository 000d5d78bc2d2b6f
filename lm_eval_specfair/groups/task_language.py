"""The language of a task, from its name and from the data set that it reads.

A task's language is that of its documents. Better none than a wrong one: nothing is concluded from
answers that differ. Known suites are in `suites.tsv`. The name of any other task is believed only
where the run has tasks that differ from it in their last word alone, all of these words are
languages, and most of them usually mean nothing else (as `cs` does, the type of a file). Where all
of them are countries, states or English words as well, it is a guess of low certainty.
docs/attribution.md says how often these rules find a language, and how often the right one.
"""

import functools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from lm_eval_specfair.groups.ambiguous_codes import are_ambiguous
from lm_eval_specfair.groups.language_tags import language_code, language_tag, tag_script
from lm_eval_specfair.groups.languages import UNCLASSIFIED, languages, read_table
from lm_eval_specfair.groups.sources import GROUP_SOURCES, GroupSource
from lm_eval_specfair.groups.task_facts import TaskFacts, split_name

LANGUAGE_FIELDS = ("language", "lang", "locale", "language_code")
"""What data sets call the field that names a language; the first is ours."""

_NO_LANGUAGE, _CODE = "-", "code"

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
    "{code}": "(?P<language>[a-z]{2})",
    "{other}": f"(?:{_LANGUAGE})",
}
# Codes that names use in other meanings: English words, usual abbreviations, types of files,
# departments, places, units, splits.
_OTHER_MEANINGS = frozenset(
    Path(__file__).with_name("other_meanings.txt").read_text(encoding="utf-8").split()
)
# From or into the language that the name holds.
_TRANSLATED = re.compile("(?<![A-Za-z])translated?(?![A-Za-z])")
_WITH_SCRIPT = re.compile(f"(?<![A-Za-z])([a-z]{{2,3}})[_-]((?i:{_SCRIPTS}))(?![A-Za-z])")
# Codes of languages that names end with in another meaning: machine translation, input and output,
# "yes_no".
_AMBIGUOUS = re.compile("(.*[_-])?(mt|io|ii|ie|in|to|yes[_-]no)")
_ABOUT_CODE = re.compile(
    "(?<!en)(?<!de)(?<!uni)code(?![a-z_-]*(mix|switch))|(?<![a-z])(aider|apps|class_?eval|coding|crux_?eval|"
    "ds_?1000|eval_?plus|human_?eval|mathqa_x|mbpp|mbxp|mc_?eval|multipl[_-]e|mx_?eval|programming|"
    "repo_?bench|spider|swe_?bench)(?![a-z])|^multiple[_-](?!choice|de|en|es|fr)[a-z+#]{1,6}$",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class NameParts:
    """A task's name, taken apart."""

    language: str | None  # the standard tag that it holds
    rest: str  # equal for tasks that differ in their language alone


Conclusion = tuple[str, GroupSource] | None  # a tag in its standard form, and what says so


def language_of_task(
    facts: TaskFacts, sources: frozenset[str] = frozenset(GROUP_SOURCES)
) -> Conclusion:
    """A task's language by these sources and no metadata; None if nothing or too much is said."""
    path, name, kwargs = (facts.config.get(f"dataset_{key}") for key in ("path", "name", "kwargs"))
    language = None
    if isinstance(kwargs, Mapping):
        language = next((kwargs[key] for key in LANGUAGE_FIELDS if kwargs.get(key)), None)
    texts = (value if isinstance(value, str) else "" for value in (path, name, language))
    return _concluded(facts.name, *texts, facts.last_words, sources)


@functools.lru_cache(maxsize=65536)
def is_about_code(task: str) -> bool:
    """Whether a task is about programs, so that `cs` among its words is C# rather than Czech."""
    row = _row(task)
    return (row is not None and row[0] == _CODE) or bool(_ABOUT_CODE.search(task))


@functools.lru_cache(maxsize=65536)
def language_in_name(task: str) -> NameParts:
    """The language that a task's name may hold, whether that is to be believed or not.

    Known suites are looked up; of other names, a code with a script counts anywhere (`deu_Latn`,
    of a pair the second), else the last part, if it is a code of two letters, a three-letter one of
    the same language, or a language's English name.

    Example:
        >>> language_in_name("global_mmlu_full_te_professional_law").language
        'te'
        >>> language_in_name("my_task_zho_Hans"), language_in_name("gsm8k").language
        (NameParts(language='zh-Hans', rest='my_task'), None)
    """
    return _known_suite(task) or _unknown_suite(task)


@functools.lru_cache(maxsize=65536)
def _row(task: str) -> tuple[str, re.Match[str]] | None:
    """The language of the known suite that a task belongs to, as its row says, and the match."""
    for prefix, pattern, language in _suites():
        match = pattern.fullmatch(task) if task.startswith(prefix) else None
        if match and ("language" not in match.groupdict() or language_tag(match["language"])):
            return language, match
    return None


def _known_suite(task: str) -> NameParts | None:
    row = _row(task)
    if row is None:
        return None
    language, match = row
    if "language" in match.groupdict():
        return NameParts(language_tag(match["language"]), _without(task, *match.span("language")))
    return NameParts(None if language in (_NO_LANGUAGE, _CODE) else language, task)


def _unknown_suite(task: str) -> NameParts:
    *_, last = [None, *_with_script(task)]
    if last is not None:
        return last
    head, end, settings = split_name(task)
    stem = task.removesuffix(settings)
    tag = _unambiguous(end)
    if tag is None or not head or _AMBIGUOUS.fullmatch(stem) or is_about_code(task):
        return NameParts(None, task)
    other = split_name(head)[1]
    pair = stem.endswith(f"_{end}") and re.fullmatch("[a-z]{2}", other) and language_tag(other)
    if pair and not _AMBIGUOUS.fullmatch(head):
        # In translation the second of two codes would count, in cross-lingual tasks the first.
        return NameParts(None, task)
    return NameParts(tag, head + settings)


@functools.lru_cache(maxsize=65536)
def _concluded(
    task: str,
    path: str,
    name: str,
    language: str,
    last_words: frozenset[str],
    sources: frozenset[str],
) -> Conclusion:
    """From the strongest to the weakest; sources of one strength that differ say nothing."""
    from_data = "dataset" in sources
    stated = language_tag(language) if language and from_data else None
    if stated is not None:
        return stated, "dataset"
    known = _known_suite(task)
    if known is not None and "suite" in sources:
        tag = _with_script_of(known.language, _whole(name))
        return None if tag is None else (tag, "suite")
    if is_about_code(task) or _TRANSLATED.search(task) or _TRANSLATED.search(path):
        return None
    in_name, in_data = language_in_name(task).language, _whole(name)
    if in_name and in_data and language_code(in_name) != language_code(in_data):
        return None
    differ = _differ_in_language(last_words)
    ambiguous = differ and are_ambiguous(last_words)
    if in_data and from_data and ((differ and not ambiguous) or name not in _OTHER_MEANINGS):
        return in_data, "dataset"
    source: GroupSource = "ambiguous_name" if ambiguous else "name"
    guess = in_name or (in_data if ambiguous and from_data else None)
    if guess and source in sources and (differ or any(_with_script(task))):
        return guess, source
    tag = _last_word(path) if from_data and not in_data else None
    return (tag, "dataset") if tag and in_name in (None, tag) else None


def _differ_in_language(last_words: frozenset[str]) -> bool:
    """Whether words are several languages, most of them without another meaning."""
    tags = {language_tag(word) for word in last_words}
    if None in tags or len({language_code(tag) for tag in tags if tag}) < 2:
        return False
    clear = [word for word in last_words if _unambiguous(word) and word not in _OTHER_MEANINGS]
    return 2 * len(clear) > len(last_words)


def _with_script(task: str) -> Iterator[NameParts]:
    """Codes with their scripts, in their order."""
    for match in _WITH_SCRIPT.finditer(task):
        tag = language_tag(f"{match[1]}-{match[2]}")
        if tag is not None:
            yield NameParts(tag, _without(task, *match.span()))


def _without(task: str, start: int, end: int) -> str:
    """The name without a part of it and the separator beside that."""
    before, after = task[:start], task[end:]
    return before.rstrip("_-") + after if before else after.lstrip("_-")


def _unambiguous(word: str) -> str | None:
    """The language that one word names, if it is hardly an English word too."""
    tag = language_tag(word)
    if tag is None or re.fullmatch("[a-z]{2}", word):
        return tag
    if re.fullmatch("[a-z]{3}", word):
        # Thousands of words are three-letter codes too.
        return tag if len(language_code(tag)) == 2 and word not in _OTHER_MEANINGS else None
    if re.fullmatch("[A-Za-z]{4,}", word):
        # Of small languages, names are words and places too.
        known = languages().get(language_code(tag))
        return tag if known and known.resource_class not in ("0", UNCLASSIFIED) else None
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
    return _unambiguous(name) if len(name) > 2 else None


def _last_word(path: str) -> str | None:
    """The language at the end of a data set's path, such as `example/piqa-bn`."""
    stem = path.rpartition("/")[2]
    head, end, settings = split_name(stem)
    if not head or settings or _AMBIGUOUS.fullmatch(stem) or end in _OTHER_MEANINGS:
        return None
    return None if _ABOUT_CODE.search(stem) else _unambiguous(end)


@functools.cache
def _suites() -> list[tuple[str, re.Pattern[str], str]]:
    """How names start, what they look like, their language; in the table's order, first fits."""
    rows = []
    for row in read_table("suites.tsv"):
        if not row["tasks"].startswith("#"):
            prefix, *rest = re.split(r"(\*|\?|\{language\}|\{code\}|\{other\})", row["tasks"])
            expression = "".join(_WILDCARDS.get(part) or re.escape(part) for part in rest)
            pattern = re.compile(re.escape(prefix) + expression, re.DOTALL)
            rows.append((prefix, pattern, row["language"]))
    return rows
