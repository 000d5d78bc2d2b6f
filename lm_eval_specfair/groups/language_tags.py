"""BCP-47 tags in one standard form, from the codes and names that data sets use."""

import functools
import importlib.util
import re
from contextlib import suppress

import langcodes
from langcodes.registry_parser import parse_registry

from lm_eval_specfair.groups.languages import languages, read_table, usual_script

# What data sets write and CLDR does not: other English names, and regions spelled out.
_NAMES = {row["name"]: row["tag"] for row in read_table("names.tsv")}
_COUNTRIES = {  # of codes such as "spa_latn_mexi"
    "braz": "BR", "cana": "CA", "fran": "FR", "jord": "JO", "leba": "LB", "mexi": "MX",
    "pale": "PS", "peru": "PE", "port": "PT", "spai": "ES", "syri": "SY",
}  # fmt: skip
# Both scripts of Chinese are in everyday use, and data sets name the one that they mean.
_KEEP_SCRIPT = {"zh"}
# CLDR would make it Serbian in Latin letters; benchmarks mean all of Serbo-Croatian.
_SERBO_CROATIAN = re.compile("(hbs|sh)([-_].*)?", re.IGNORECASE)
_MIXTURES = {"Hang": "Kore", "Hira": "Jpan", "Kana": "Jpan", "Hrkt": "Jpan"}
# Regions that name no country: private use (but Kosovo's XK), unknown, unions of states, the world.
_NO_COUNTRY = re.compile("AA|Q[M-Z]|X[A-JL-Z]|ZZ|EU|EZ|UN|001")
# Some locales only repeat the language ("ar_AR", "sv_SV"); these mean a country none the less.
_COUNTRY_OF_ONE_NAME = {"pt", "se"}
# Codes of small languages that data sets only use for what a file holds, or for no language.
_OTHER_THINGS = re.compile(
    "adb|apl|awk|bat|clj|cob|css|csv|for|mat|sas|sol|tex|txt|xml|all|any|mix|oth|unk|xxx"
)
# What is no tag, or not meant as the tag that it looks like: Microsoft's and MediaWiki's names.
_SPELLINGS = {
    "zh-chs": "zh-Hans", "zh-cht": "zh-Hant", "sr-ec": "sr-Cyrl", "sr-el": "sr-Latn",
    "zh-classical": "lzh", "roa-rup": "rup", "bat-smg": "sgs", "fiu-vro": "vro",
    "roa-tara": "nap-x-tara", "map-bms": "jv-x-bms", "be-x-old": "be-tarask", "cbk-zam": "cbk",
    "eml": "egl",
}  # fmt: skip
# A POSIX locale with a character set or a modifier (`en_US.UTF-8`, `sr_RS@latin`); Java's and
# Android's ways to write a script or a region (`sr__#Latn`, `zh-rCN`, `b+sr+Latn`).
_POSIX = re.compile(r"([A-Za-z]{2,3}(?:[_-][A-Za-z]{2,4})*)(?:\.[A-Za-z0-9-]+)?(?:@([a-z]+))?")
_MODIFIERS = {
    "latin": "Latn", "iqtelif": "Latn", "cyrillic": "Cyrl", "devanagari": "Deva", "arabic": "Arab",
    "shaw": "Shaw",
}  # fmt: skip
_JAVA = re.compile("([a-z]{2,3})_([A-Z]{2})?_#([A-Z][a-z]{3})")
_ANDROID = re.compile("([a-z]{2,3})-r([A-Z]{2})")
_LONGEST = 100  # characters; no tag and no language's name is longer


@functools.lru_cache(maxsize=65536)
def standard_language(text: str) -> str:
    """The standard form of a BCP-47 tag, or the tag of a language's English name; else the text.

    One language gets one tag: the shortest code, CLDR's instead of an individual language that
    stands for its macrolanguage (`arb` is `ar`, `cmn` is `zh`), and no script where the language's
    usual one is meant, other than in Chinese.

    Example:
        >>> [standard_language(text) for text in ("zho", "zh_CN", "eng_Latn", "Swahili", "iw")]
        ['zh', 'zh-CN', 'en', 'sw', 'he']
        >>> [standard_language(t) for t in ("arb_Arab", "arb_Latn", "spa_latn_mexi", "zho_Hans")]
        ['ar', 'ar-Latn', 'es-MX', 'zh-Hans']

    Source:
        Unicode UTS 35, Annex C (canonical form) and likely subtags, as langcodes has them.
    """
    return _tag(text) or text


def language_tag(text: str) -> str | None:
    """The standard tag that a text stands for; None where it names no language."""
    tag = standard_language(text)
    return tag if is_language(tag) else None


@functools.lru_cache(maxsize=65536)
def is_language(tag: str) -> bool:
    """Whether this is a valid tag of one language: not `und`, `mul`, a family or a file type."""
    try:
        # The registered ones among the private codes say nothing: qaa to qtz.
        return (
            len(tag) <= _LONGEST
            and langcodes.tag_is_valid(tag)
            and (code := language_code(tag)) not in ("", "und", "mul", "mis", "zxx")
            and not re.match("q[a-t][a-z]($|-)|x-", tag)
            and not _OTHER_THINGS.fullmatch(tag)
            and not langcodes.Language.get(tag, normalize=False).extlangs  # "en-abc"
            and (len(code) == 2 or code in languages() or code not in _collections())
        )
    except (ValueError, LookupError):
        return False


def language_code(tag: str) -> str:
    """The language of a valid tag, without script and region."""
    return langcodes.Language.get(tag, normalize=False).language or ""


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
    if language_code(tag) == "sh":
        return "Serbo-Croatian"
    return langcodes.Language.get(tag, normalize=False).display_name()


def script_name(script: str) -> str:
    """The English name of an ISO 15924 code."""
    if not _names_are_known() or not re.fullmatch("[A-Z][a-z]{3}", script):
        return script
    return langcodes.Language.make(script=script).script_name()


def _tag(text: str) -> str | None:
    if not text.strip() or len(text) > _LONGEST or not text.isprintable():
        return None
    with suppress(ValueError, LookupError):
        # Classical Sanskrit got a code of its own after langcodes' copy of the registry.
        text = re.sub("^cls(?=[-_]|$)", "sa", text)
        text = _locale(text)
        text = _SPELLINGS.get(text.casefold().replace("_", "-"), text)
        if _SERBO_CROATIAN.fullmatch(text):
            subtags = re.split("[-_]", text)[1:]
            return langcodes.standardize_tag("-".join(["und", *subtags])).replace("und", "sh", 1)
        spelled = re.fullmatch("([A-Za-z]{2,3}[-_][A-Za-z]{4})[-_]([a-z]{4})", text)
        if spelled:  # a region or, where it is no country, a dialect without a code
            country = _COUNTRIES.get(spelled[2])
            text = f"{spelled[1]}-{country}" if country else spelled[1]
        locale = re.fullmatch("([a-z]{2,3})[-_][A-Z]{2}", text)
        # The language twice, such as "en_EN"; "uk_UK" and "cs_CS" are not of Britain and Serbia.
        if locale and (re.fullmatch("uk.UK|cs.CS", text) or not langcodes.tag_is_valid(text)):
            text = locale[1]
        three = re.fullmatch("([a-z]{2,3})[-_]([A-Z]{3}|[a-z]{3})", text)
        if three:  # a language of a macrolanguage ("zh-yue"), or a country ("en_USA")
            of_others = three[1] in _extended().get(three[2].lower(), ())
            if not of_others and three[2].islower():
                return None
            text = three[2].lower() if of_others else three[1]
        if langcodes.tag_is_valid(text):
            return _shortest(text)
        name = " ".join(re.split(r"[\s_-]+", text.casefold().strip()))
        if name in _NAMES:
            return _shortest(_NAMES[name])
        if _names_are_known() and re.fullmatch(r"[\w\s'’().,]+", name):
            language = langcodes.find(name)
            # It guesses: "Klingonese of Mars" is found too.
            if language.display_name().casefold() == name:
                return _shortest(language.to_tag())
    return None


def _locale(text: str) -> str:
    """A locale as programs write it, as a tag; other texts as they are."""
    if text.startswith("b+"):
        return text[2:].replace("+", "-")
    if android := _ANDROID.fullmatch(text):
        return f"{android[1]}-{android[2]}"
    if java := _JAVA.fullmatch(text):
        return "-".join(filter(None, (java[1], java[3], java[2])))
    posix = _POSIX.fullmatch(text)
    if posix is None:
        return text
    locale, modifier = posix.groups()
    if modifier in _MODIFIERS:
        code, *rest = re.split("[_-]", locale)
        return "-".join([code, _MODIFIERS[modifier], *rest])
    variety = f"{locale}-{modifier}"  # such as "ca_ES@valencia"
    return variety if modifier and langcodes.tag_is_valid(variety) else locale


def _shortest(tag: str) -> str:
    language = langcodes.Language.get(langcodes.standardize_tag(tag, macro=True))
    code, script = language.language, language.script
    # Calendars and ways to sort, the extensions, make no variety.
    language = language.update_dict({"territory": _territory(language), "extensions": None})
    usual = usual_script(code or "")
    if code not in _KEEP_SCRIPT and script and usual in (script, _MIXTURES.get(script)):
        with_region = language.update_dict({"script": None})
        # In some regions it does not go without saying: "pa-Guru-PK".
        if not language.territory or tag_script(with_region.to_tag()) in (None, usual):
            return with_region.to_tag()
    return language.to_tag()


def _territory(language: langcodes.Language) -> str | None:
    """The country or part of the world that a locale means; None where it means none."""
    code, territory = language.language or "", language.territory
    if territory == "LA" and code in ("es", "pt"):
        return "419"  # Latin America, not Laos
    if territory is None or _NO_COUNTRY.fullmatch(territory):
        return None
    is_repeated = territory == code.upper() and code not in _COUNTRY_OF_ONE_NAME
    likely = langcodes.Language.make(language=code).maximize().territory
    return None if is_repeated and territory != likely else territory


@functools.cache
def _collections() -> set[str]:
    """Codes of families and other collections of languages, such as `cpp` of Portuguese creoles."""
    return {
        entry["Subtag"]
        for entry in parse_registry()  # type: ignore[no-untyped-call]
        if entry.get("Type") == "language" and entry.get("Scope") == "collection"
    }


@functools.cache
def _extended() -> dict[str, list[str]]:
    """Extended language subtags, each with the languages that it may follow."""
    return {
        entry["Subtag"]: entry["Prefix"]
        for entry in parse_registry()  # type: ignore[no-untyped-call]
        if entry.get("Type") == "extlang"
    }


@functools.cache
def _names_are_known() -> bool:
    # langcodes keeps names and populations in another package, and prints where that is missing.
    return importlib.util.find_spec("language_data") is not None
