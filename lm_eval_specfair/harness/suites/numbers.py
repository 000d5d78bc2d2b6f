r"""The numbers of a text in any digits, separators, units and markup. No scoring.

`1,234.5`, `1.234,5`, `1 234,5`, `1'234.5`, `12,34,567`, `١٬٢٣٤٫٥`, `$9{,}500`, `2\,125`, `7 万`,
`elfu 70`, `፲፰`, `1½` and `1.5×10^3` are numbers. A text loses markup and invisible characters,
then is cut into tokens: a sign, a unit before, digits with separators, units after.
"""

import functools
import itertools
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

import regex

from lm_eval_specfair.harness.suites.number_markup import plain_digits, without_invisible
from lm_eval_specfair.harness.suites.words import MINUS_WORDS
from lm_eval_specfair.text_lines import file_lines

Values = frozenset[Decimal]

_UNITS_FILE = Path(__file__).with_name("number_units.tsv")  # experiments/suites/number_units.py

# Points and commas of all scripts, of which each can also mark a fraction; and what only groups.
_MARKS = ".,٫·˙،，．﹐﹒⹁߸"
_SEPARATORS = f"{_MARKS}٬'’‘‛ʼʻʹˈ᾽＇′´`_՚՛׳ꞌ"
_MINUS = "-−‑–﹣－"
_MARK, _SEPARATOR, _DASH = (f"[{regex.escape(marks)}]" for marks in (_MARKS, _SEPARATORS, _MINUS))
_ATOM = rf"\p{{Nd}}+(?:{_SEPARATOR}\p{{Nd}}+)*"
_GAP = r"(?:, |\p{Zs})"
_GROUP_BEFORE_SPACE = regex.compile(r"[1-9]\p{Nd}{0,2}")
_LAST_GROUP = regex.compile(rf"\p{{Nd}}{{3}}(?:{_MARK}\p{{Nd}}+)?")
# With a word of another script before a code, as in Persian's "فرانک CFA".
_CODES = r"(?:(?:(?!\p{Latin})[\p{L}\p{M}])+\p{Zs})?(?-i:\p{Lu}{1,4}\p{Zs}?){1,2}"
_CURRENCY = rf"(?:\p{{L}}{{0,3}}\p{{Sc}}|Rs\.?|සිෆ්එ|{_CODES})"
_MONEY = rf"(?:\*\*)?{_CURRENCY}?\p{{Zs}}?(?:\*\*)?"
# After these a minus sign subtracts; after a letter a dash may be one, where a space follows it.
_SUBTRACTS = regex.compile(r"(?:[\p{N})\]}%]|\p{N}\p{Sc})$")
_LETTER = regex.compile(r"[\p{L}\p{M}]$")
_SINITIC = frozenset(("zh", "yue", "wuu", "nan", "hak", "gan", "hsn", "cdo"))
_MOST_GROUPS = 12  # of one number; a longer row of digits is a list
_CODE = regex.compile(r"\b\p{Lu}{3}$")
_AFTER_CURRENCY = regex.compile(r"(?:\p{Sc}|\b\p{Lu}{3})\p{Zs}?$")
_TRAILING_DASH = regex.compile(rf"{_DASH}(?![\p{{L}}\p{{N}}\p{{Sc}}\\])")
# Accountants' ($5), (EUR 5) and (5 €).
_MONEY_SIGN = r"(?:\p{L}{0,3}\p{Sc}|(?-i:\p{Lu}{3})|[元圆圓円원])"
_OPENS_MONEY = regex.compile(rf"\((?P<sign>{_MONEY_SIGN}\p{{Zs}}?)?$")
_CLOSES_MONEY = regex.compile(rf"(?P<sign>\p{{Zs}}?{_MONEY_SIGN})?\p{{Zs}}?\)")
_SIGN_FOLLOWS = regex.compile(r"[=(≈<>]$")
# Scripts that write no space between words: a unit may be followed by any letter.
_UNSPACED = r"\p{Han}\p{Hangul}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\p{Tibetan}\p{Hira}\p{Kana}"


def numbers_in(text: str, language: str = "en") -> list[Values]:
    """The numbers of a text in their order, each with all values that it can be read as.

    `1.234` is one thousand and more in German and a little over one in English. Both are meant
    somewhere, and a text in one language may follow the habit of another, so both are given.

    Args:
        text: Any text.
        language: BCP-47 tag: its words for thousands, lakhs or millions count as units, as do those
            of English, Chinese, Japanese and Korean.

    Example:
        >>> [sorted(map(str, each)) for each in numbers_in("1.234 km, -१२.५ °C, 3万5000円")]
        [['1.234', '1234'], ['-12.5'], ['35000']]
    """
    plain = plain_digits(text, colloquial=language.split("-")[0] in _SINITIC)
    tokens = _merged(plain, _tokens(plain, language.split("-")[0]))
    return [
        frozenset(sign * value for sign in token.signs for value in token.values)
        for token in tokens
    ]


@dataclass(kw_only=True, slots=True)
class _Token:
    """Digits with their unit.

    Attributes:
        values: What it can be read as, without its sign.
        unit: Its smallest unit, 1 without.
        signs: 1, -1, or both where a dash can be either a minus or a dash.
    """

    start: int
    end: int
    values: set[Decimal]
    unit: int = 1
    signs: tuple[int, ...] = (1,)


# ------------------------------------------------------------------ tokens


@functools.cache
def _units() -> dict[str, dict[str, dict[str, int]]]:
    """Language -> "before" or "after" the digits -> word -> factor."""
    table: dict[str, dict[str, dict[str, int]]] = {}
    for line in itertools.islice(file_lines(_UNITS_FILE), 1, None):
        language, place, power, word = line.split("\t")
        places = table.setdefault(language, {"before": {}, "after": {}})
        places[place][without_invisible(word)] = 10 ** int(power)
    return table


@functools.cache
def _grammar(language: str) -> tuple["regex.Pattern[str]", "regex.Pattern[str]", dict[str, int]]:
    """The patterns of a token and of one unit, and the factors of units."""
    table = _units()
    own = table.get(language, {"before": {}, "after": {}})
    after = {w: f for name in ("en", "ja", "ko", "zh") for w, f in table[name]["after"].items()}
    after |= own["after"]

    def any_of(words: dict[str, int]) -> str:
        longest_first = sorted(words, key=lambda word: (-len(word), word))
        return "|".join(regex.escape(word).replace(r"\ ", r"\p{Zs}") for word in longest_first)

    unit = rf"(?:{any_of(after)})(?:(?<=[{_UNSPACED}])|(?![\p{{L}}\p{{M}}]))"
    before = rf"(?P<before>\b(?:{any_of(own['before']) or '(?!)'})\p{{Zs}}?)?"
    token = (
        rf"(?:(?P<sign>{_DASH})(?P<gap>\p{{Zs}}*){_MONEY})?{before}"
        rf"(?P<digits>{_ATOM}(?:{_GAP}{_ATOM})*)(?P<after>(?:\p{{Zs}}?{unit})*)"
    )
    flags = regex.IGNORECASE
    return regex.compile(token, flags), regex.compile(unit, flags), {**after, **own["before"]}


def _tokens(text: str, language: str) -> Iterator[_Token]:
    token, unit, factors = _grammar(language)
    for match in token.finditer(text):
        numbers = list(_numbers(match["digits"]))
        signs = _signs(text, match, language)
        words = [word[0] for word in unit.finditer(match["after"])]
        for place, (start, end, values) in enumerate(numbers):
            offset = match.start("digits")
            made = _Token(start=offset + start, end=offset + end, values=values)
            if place == 0:
                made.signs = signs
                if match["before"]:
                    _multiply(made, [match["before"].strip()], factors)
            if place == len(numbers) - 1 and words:
                made.end = match.end("after")
                _multiply(made, words, factors)
            yield made


def _multiply(token: _Token, words: list[str], factors: dict[str, int]) -> None:
    """Count a token in its units; letters such as K and M may be another unit's sign as well."""
    names = [" ".join(word.casefold().split()) for word in words]
    for name in names:
        token.unit *= factors[name]
    kept = token.values if all(len(name) <= 2 and name[0].isascii() for name in names) else set()
    token.values = {value * token.unit for value in token.values} | kept


@functools.cache
def _minus_words(language: str) -> "regex.Pattern[str]":
    """A word for minus in front of digits, in a language or in English."""
    words = "|".join(filter(None, {MINUS_WORDS["en"], MINUS_WORDS.get(language, "")}))
    words = rf"(?P<sign>[负負])|(?<![\p{{L}}\p{{M}}])(?:{words})"
    return regex.compile(rf"(?:{words})\p{{Zs}}?$", regex.IGNORECASE)


def _signs(text: str, match: "regex.Match[str]", language: str) -> tuple[int, ...]:
    """Whether a dash or a word before digits is a minus sign, no sign or either."""
    near = text[max(0, match.start() - 24) : match.start()]
    if match["sign"] is None:  # in Frisian a debt is "US$ 1,00-"
        owed = _AFTER_CURRENCY.search(near) and _TRAILING_DASH.match(text, match.end())
        opens, closes = _OPENS_MONEY.search(near), _CLOSES_MONEY.match(text, match.end())
        accounting = opens and closes and (opens["sign"] or closes["sign"])
        if said := _minus_words(language).search(near):
            before = near[: said.start()].rstrip()
            if _SUBTRACTS.search(before):
                return (1,)
            is_sign = not before or said["sign"] or before[-1] in "=:：(≈<>"
            return (-1,) if is_sign else (1, -1)
        return (1, -1) if owed or accounting else (1,)  # ($5) may be an aside as well
    if not match["gap"]:
        if _CODE.search(near):  # EUR-5
            return (1, -1)
        return (1,) if _SUBTRACTS.search(near) or _LETTER.search(near) else (-1,)
    near = near.rstrip(" \t\u00a0\u2009\u202f")
    if _SUBTRACTS.search(near):
        return (1,)
    return (-1,) if _SIGN_FOLLOWS.search(near) else (1, -1)


def _merged(text: str, tokens: Iterable[_Token]) -> list[_Token]:
    """Parts of one number joined: 1億2000万, 2 हज़ार 500. Units get smaller."""
    merged: list[_Token] = []
    for token in tokens:
        last = merged[-1] if merged else None
        if last is not None and last.unit > 1 and token.signs == (1,):
            gap = text[last.end : token.start]
            small = {v for v in token.values if v < last.unit and v == v.to_integral_value()}
            whole = {v for v in last.values if v == v.to_integral_value() and v >= last.unit}
            follows = token.unit > 1 or any(10 * value >= last.unit for value in small)
            if small and whole and (not gap or (gap.isspace() and len(gap) == 1 and follows)):
                last.values = {a + b for a in whole for b in small}
                last.end, last.unit = token.end, token.unit
                continue
        merged.append(token)
    return merged


# ------------------------------------------------------------------ digits


def _numbers(digits: str) -> Iterator[tuple[int, int, set[Decimal]]]:
    """The numbers in digits that may be grouped by spaces: start, end and values of each."""
    atoms = [(match.start(), match.end(), match[0]) for match in regex.finditer(_ATOM, digits)]
    place = 0
    while place < len(atoms):
        start, end, atom = atoms[place]
        count = _grouped_by_gaps(digits, atoms[place : place + _MOST_GROUPS])
        if count > 1:
            parts = atoms[place : place + count]
            joined = _readings("".join(part for *_, part in parts))
            if digits[end : end + 2] == ", ":  # a list as well
                for first, last, part in parts:
                    yield first, last, _readings(part) | joined
            else:
                yield start, parts[-1][1], joined
            place += count
            continue
        values = _readings(atom)
        if values:
            yield start, end, values
        else:  # separators that group nothing: a list such as "3,4,5"
            for match in regex.finditer(r"\p{Nd}+", atom):
                yield start + match.start(), start + match.end(), {Decimal(match[0])}
        place += 1


def _grouped_by_gaps(digits: str, atoms: list[tuple[int, int, str]]) -> int:
    """How many of the first atoms are groups of one number, with one kind of gap between them."""
    if len(atoms) < 2 or not _GROUP_BEFORE_SPACE.fullmatch(atoms[0][2]):
        return 1
    gap, best = digits[atoms[0][1] : atoms[1][0]], 1
    for count in range(2, len(atoms) + 1):
        if digits[atoms[count - 2][1] : atoms[count - 1][0]] != gap:
            break
        *groups, last = (atom for *_, atom in atoms[:count])
        if not all(group.isdecimal() for group in groups):
            break
        if _LAST_GROUP.fullmatch(last) and _is_grouped([*groups, last[:3]]):
            best = count
    return best


def _readings(number: str) -> set[Decimal]:
    """The values of digits and separators: as groups, as a decimal fraction."""
    digits = regex.split(_SEPARATOR, number)
    marks = regex.findall(_SEPARATOR, number)
    values = set()
    if not marks or _is_number_of_groups(digits, marks):
        values.add(Decimal("".join(digits)))
    *groups, fraction = digits
    *separators, mark = marks or [""]
    is_whole = len(groups) == 1 or (separators and _is_number_of_groups(groups, separators))
    thousands = values and not fraction.strip("0٠۰")  # 80,000 is not 80
    if mark and mark in _MARKS and mark not in separators and is_whole and not thousands:
        values.add(Decimal(f"{''.join(groups)}.{fraction}"))
    return values


def _is_number_of_groups(digits: list[str], marks: list[str]) -> bool:
    """Whether marks are of one kind (or an apostrophe after millions) and cut proper groups."""
    kinds = set(marks)
    one_kind = len(kinds) == 1 or (marks[0] not in _MARKS and len(set(marks[1:])) == 1)
    return one_kind and (_is_grouped(digits) or (marks[0] in ",，'" and _is_grouped(digits, 4)))


def _is_grouped(digits: list[str], size: int = 3) -> bool:
    """Whether digits are cut in groups, or as in India: threes at the end, twos before."""
    first, *middle, last = digits
    if unicodedata.digit(first[0]) == 0 or len(last) != size:
        return False
    equal = len(first) <= size and all(len(group) == size for group in middle)
    indian = size == 3 and len(first) <= 2 and all(len(group) == 2 for group in middle)
    return equal or indian
