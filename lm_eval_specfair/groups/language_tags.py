"""Languages as BCP-47 tags in one standard form, whatever a data set calls them.

Knows tags and names of languages, nothing about tasks or figures.
"""

import functools
import importlib.util
import re

import langcodes

from lm_eval_specfair.groups.languages import usual_script

# What data sets write and CLDR does not: other English names, and regions spelled out.
_NAMES = {
    "bengali": "bn",  # CLDR's name is Bangla
    "chinese simplified": "zh-Hans",
    "chinese traditional": "zh-Hant",
    "darija": "ary",
    "farsi": "fa",
    "gaelic": "gd",
    "haitian": "ht",
    "kirundi": "rn",
    "mandarin": "zh",
    "nigerian pidgin": "pcm",
    "north macedonian": "mk",
    "oriya": "or",
    "pidgin": "pcm",  # of XL-Sum: BBC Pidgin is Nigerian
    "serbian cyrillic": "sr-Cyrl",
    "serbian latin": "sr-Latn",
    "simplified chinese": "zh-Hans",
    "tagalog": "fil",
    "traditional chinese": "zh-Hant",
}
_COUNTRIES = {  # of codes such as "spa_latn_mexi"
    "braz": "BR", "cana": "CA", "fran": "FR", "jord": "JO", "leba": "LB", "mexi": "MX",
    "pale": "PS", "peru": "PE", "port": "PT", "spai": "ES", "syri": "SY",
}  # fmt: skip
# Both scripts of Chinese are in everyday use, and data sets name the one that they mean.
_KEEP_SCRIPT = {"zh"}
# CLDR would make it Serbian in Latin letters; benchmarks mean all of Serbo-Croatian.
_SERBO_CROATIAN = re.compile("(hbs|sh)([-_].*)?", re.IGNORECASE)
_MIXTURES = {"Hang": "Kore", "Hira": "Jpan", "Kana": "Jpan", "Hrkt": "Jpan"}
_LONGEST = 100  # characters; no tag and no language's name is longer


@functools.lru_cache(maxsize=65536)
def standard_language(text: str) -> str:
    """The standard form of a BCP-47 tag, or the tag of a language's English name.

    One language gets one tag: the shortest code, CLDR's instead of an individual language that
    stands for its macrolanguage (`arb` is `ar`, `swh` is `sw`, `cmn` is `zh`), and no script where
    the language's usual one is meant, other than in Chinese.

    Example:
        >>> [standard_language(text) for text in ("zho", "zh_CN", "eng_Latn", "Swahili", "iw")]
        ['zh', 'zh-CN', 'en', 'sw', 'he']
        >>> [standard_language(t) for t in ("arb_Arab", "arb_Latn", "spa_latn_mexi", "zho_Hans")]
        ['ar', 'ar-Latn', 'es-MX', 'zh-Hans']

    Returns:
        The tag; the text itself where it names no language.

    Source:
        Unicode UTS 35, Annex C (canonical form) and likely subtags, as the library langcodes has
        them.
    """
    return _tag(text) or text


def language_tag(text: str) -> str | None:
    """The standard tag that a text stands for; None where it names no language."""
    found = standard_language(text)
    return found if is_language(found) else None


@functools.lru_cache(maxsize=65536)
def is_language(tag: str) -> bool:
    """Whether this is a valid tag of one language (not `und`, `mul` and the like)."""
    try:
        # The registered ones among the private codes say nothing: qaa to qtz.
        return (
            len(tag) <= _LONGEST
            and langcodes.tag_is_valid(tag)
            and _code(tag) not in ("", "und", "mul", "mis", "zxx")
            and not re.match("q[a-t][a-z]($|-)", tag)
        )
    except (ValueError, LookupError):
        return False


def language_code(tag: str) -> str:
    """The language of a valid tag, without script and region."""
    return _code(tag)


def tag_script(tag: str) -> str | None:
    """The script of a valid tag: what it names, what its region implies (`zh-TW`), or the usual."""
    language = langcodes.Language.get(tag, normalize=False)
    usual = usual_script(language.language or "")
    if language.script or not language.territory:
        return language.script or usual
    with_region = language.maximize().script
    without = langcodes.Language.make(language=language.language).maximize().script
    # Of languages that it doesn't know, CLDR has no more to say than the usual script.
    return with_region if with_region != without and usual == without else usual


def language_name(tag: str) -> str:
    """The English name of a valid tag; the tag where names are not installed."""
    if not _names_are_known():
        return tag
    if _code(tag) == "sh":
        return "Serbo-Croatian"
    return langcodes.Language.get(tag, normalize=False).display_name()


def script_name(script: str) -> str:
    """The English name of an ISO 15924 code."""
    if not _names_are_known() or not re.fullmatch("[A-Z][a-z]{3}", script):
        return script
    return langcodes.Language.make(script=script).script_name()


def _code(tag: str) -> str:
    return langcodes.Language.get(tag, normalize=False).language or ""


def _tag(text: str) -> str | None:
    if not text.strip() or len(text) > _LONGEST or not text.isprintable():
        return None
    try:
        # Classical Sanskrit got a code of its own after langcodes' copy of the registry.
        text = re.sub("^cls(?=[-_]|$)", "sa", text)
        if _SERBO_CROATIAN.fullmatch(text):
            return _serbo_croatian(text)
        spelled = re.fullmatch("([A-Za-z]{2,3}[-_][A-Za-z]{4})[-_]([a-z]{4})", text)
        if spelled:  # a region or, where it is no country, a dialect without a code
            country = _COUNTRIES.get(spelled[2])
            text = f"{spelled[1]}-{country}" if country else spelled[1]
        if langcodes.tag_is_valid(text):
            return _shortest(text)
        name = " ".join(re.split(r"[\s_-]+", text.casefold().strip()))
        if name in _NAMES:
            return _shortest(_NAMES[name])
        if _names_are_known() and re.fullmatch(r"[\w\s'’().,]+", name):
            found = langcodes.find(name)
            # It guesses: "Klingonese of Mars" is found too.
            if found.display_name().casefold() == name:
                return _shortest(found.to_tag())
    except (ValueError, LookupError):
        pass
    return None


def _shortest(tag: str) -> str:
    language = langcodes.Language.get(langcodes.standardize_tag(tag, macro=True))
    code, script = language.language, language.script
    usual = usual_script(code or "")
    if code not in _KEEP_SCRIPT and script and usual in (script, _MIXTURES.get(script)):
        with_region = language.update_dict({"script": None})
        # In some regions it does not go without saying: "pa-Guru-PK".
        if not language.territory or tag_script(with_region.to_tag()) in (None, usual):
            return with_region.to_tag()
    return language.to_tag()


def _serbo_croatian(text: str) -> str:
    _, *rest = re.split("[-_]", text)
    if not rest:
        return "sh"
    subtags = langcodes.standardize_tag("-".join(("und", *rest)))
    return subtags.replace("und", "sh", 1)


@functools.cache
def _names_are_known() -> bool:
    # langcodes keeps names and populations in another package, and prints where that is missing.
    return importlib.util.find_spec("language_data") is not None
