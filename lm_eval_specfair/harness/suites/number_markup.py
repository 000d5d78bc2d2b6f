r"""Markup, powers of ten, fractions, Ethiopic and Han numerals as plain digits. No scoring.

`9{,}500`, `2\,125`, `1.5×10^3`, `2e3`, `1½`, `፲፰`, `三万五千`, `Ⅻ`:
9,500, 2 125, 1500, 2000, 1.5, 18, 35000, 12.
"""

import functools
import html
import unicodedata
from decimal import Decimal

import regex

_MARKUP = (
    (regex.compile(r"(?:\\(?:text|math(?:ord|punct)))?\{([.,])\}"), r"\1"),  # 9{,}500
    (regex.compile(r"\{(\\[,;:> ])\}"), r"\1"),  # 9{\,}500
    (regex.compile(r"\\!|\\?\{\}"), ""),  # 10,\!000
    (regex.compile(r"\\[,;:> ]|~|\\(?:thin|med|thick|en)space\b ?|\{[ ~]\}"), "\u2009"),  # 9\,500
    (regex.compile(r"\\([$%_.'])"), r"\1"),
    (regex.compile(r"(?<![/\p{Nd}])([۰-۹]+)/([۰-۹]+)(?![/\p{Nd}])"), r"\1٫\2"),  # Persian 12.5
    (regex.compile(r"(?:(?<=^)|(?<=[\s\p{Sc}=(−-]))(?=[.٫]\p{Nd})"), "0"),  # .5
)
_DIGIT = regex.compile(r"\p{Nd}")  # by a newer Unicode than Python's, which does not know some
_ETHIOPIC = regex.compile("[\u1369-\u137c]+")
_VULGAR = regex.compile(r"(?:(?<![.,\p{Nd}])(\p{Nd}+)[\p{Zs}\u2064]?)?([¼-¾⅐-⅞↉])")
_POWER = r"\p{Zs}?10(?:\^\{?|\*\*)\p{Zs}?(?P<power>[-−+]?\p{Nd}{1,2})(?!\p{Nd})\}?"
_SCIENTIFIC = regex.compile(
    r"(?<![\p{L}\p{Nd}.,])(?P<mantissa>\p{Nd}+(?:[.,٫]\p{Nd}+)?)"
    rf"(?:\p{{Zs}}?(?:[×xX*·⋅]|\\(?:times|cdot)){_POWER}"
    r"|[eE](?P<power>[-+]?\p{Nd}{1,2})(?![\p{L}\p{Nd}]))"
    rf"|(?<![\p{{L}}\p{{Nd}}.,]){_POWER}"
)
_SUPERSCRIPT = regex.compile("(?<=10)[⁻⁺]?[⁰¹²³⁴-⁹]+")

_HAN_DIGITS = "〇零一二三四五六七八九两兩壹贰貳弐叁參参肆伍陆陸柒捌玖"
_HAN_UNITS = "十拾百佰千仟万萬亿億兆"
_HAN = regex.compile(
    rf"(?<!\p{{Nd}}\p{{Zs}}?)(?<!(?<!\p{{Nd}}\p{{Zs}}?)[{_HAN_UNITS}])"
    rf"[{_HAN_DIGITS}十拾百佰千仟][{_HAN_DIGITS}{_HAN_UNITS}]*"
    rf"(?:[点點][{_HAN_DIGITS}]+(?![{_HAN_UNITS}]))?"
)
# One character is a number where it is all that is said: 一 begins many a word.
_HAN_SAID = regex.compile(r"(?:^|[是为為は负負:：=＝\s])$")
_SENTENCE_ENDS = regex.compile(r"[。．.!！\s]*(?:$|\n)|。")
# ① and Ⅻ, but where they begin the line of a list.
_ENCLOSED = regex.compile(
    r"(?<![\p{Nd}\p{Latin}])(?:[①-⒛⓪-⓿❶-➓㉑-㉟㊱-㊿]|[Ⅰ-ⅿ]+)(?![\p{Nd}\p{Latin}])"
)
_LINE_BEGINS = regex.compile(r"(?:^|\n)[\s*_]*$")


def plain_digits(text: str, *, colloquial: bool = False) -> str:
    """A text whose numbers are digits with separators, without markup or invisible characters.

    `colloquial` reads 一百二 as 120, as Chinese speakers do, and not as 102, as in Japanese.
    """
    text = without_invisible(html.unescape(text))
    text = _DIGIT.sub(lambda match: match[0] if match[0].isdecimal() else " ", text)
    for pattern, replacement in _MARKUP:
        text = pattern.sub(replacement, text)
    text = _HAN.sub(functools.partial(_from_han, colloquial=colloquial), text)
    text = _ENCLOSED.sub(_from_enclosed, text)
    text = _SUPERSCRIPT.sub(lambda m: f"^{unicodedata.normalize('NFKC', m[0])}", text)
    text = _SCIENTIFIC.sub(_positional, text)
    text = _VULGAR.sub(lambda m: f"{int(m[1] or 0) + unicodedata.numeric(m[2]):.6g}", text)
    return _ETHIOPIC.sub(lambda match: str(_ethiopic(match[0])), text)


def without_invisible(text: str) -> str:
    """A text without joiners, directions and the like, as in Sinhala's words."""
    return "".join(c for c in text if unicodedata.category(c) != "Cf")


def _positional(match: "regex.Match[str]") -> str:
    """1.5×10^3 as 1500."""
    mantissa = Decimal(regex.sub("[,٫]", ".", match["mantissa"] or "1"))
    return f"{mantissa.scaleb(int(match['power'].replace('−', '-'))):f}"


def _ethiopic(digits: str) -> int:
    total = hundreds = below = 0
    for digit in digits:
        value = int(unicodedata.numeric(digit))
        if value < 100:
            below += value
        elif value == 100:
            hundreds, below = hundreds + 100 * (below or 1), 0
        else:
            total, hundreds, below = 10_000 * (total + hundreds + below or 1), 0, 0
    return total + hundreds + below


def _from_han(match: "regex.Match[str]", *, colloquial: bool) -> str:
    """三万五千 as 35000, 二〇二五 as 2025, 三点五 as 3.5; what is no numeral stays."""
    whole, _, fraction = match[0].replace("點", "点").partition("点")
    before, text = match.string[max(0, match.start() - 1) : match.start()], match.string
    said = _HAN_SAID.search(before) and _SENTENCE_ENDS.match(text, match.end())
    by_place = not any(c in _HAN_UNITS for c in whole)
    zero = len(whole) > 1 and ("〇" in whole or "零" in whole)
    if (by_place or len(whole) == 1) and not (said or zero or fraction):
        return str(match[0])
    number = "".join(_value(c) for c in whole) if by_place else _han(whole, colloquial)
    if number is None:
        return str(match[0])
    apart = " " if text[match.end() : match.end() + 1] in {",", "，"} else ""  # a list: 二十，三十
    return (f"{number}.{''.join(map(_value, fraction))}" if fraction else number) + apart


def _value(character: str) -> str:
    special = {"两": 2, "兩": 2, "亿": 10**8, "億": 10**8, "兆": 10**12, "萬": 10**4, "万": 10**4}
    return str(special.get(character) or int(unicodedata.numeric(character)))


def _han(numeral: str, colloquial: bool) -> str | None:
    """A numeral with units, or None: "三四百" is some 300 or 400, 千万 is "by all means"."""
    if numeral[0] in "百佰千仟" and not any(c in _HAN_DIGITS for c in numeral):
        return None
    total = section = 0
    digit: int | None = None
    if colloquial and len(numeral) > 2 and numeral[-1] in _HAN_DIGITS:
        unit, last = numeral[-2], numeral[-1]
        if unit in _HAN_UNITS and _value(unit) != "10" and _value(last) != "0":
            tenth = int(_value(unit)) // 10
            whole = _han(numeral[:-1], colloquial)
            return None if whole is None else str(int(whole) + tenth * int(_value(last)))
    for character in numeral:
        value = int(_value(character))
        if value < 10:
            if digit:
                return None
            digit = value
        elif value < 10_000:
            section, digit = section + value * (digit or 1), None
        else:
            part = section + (digit or 0)
            smaller = total % value if part else total  # 一万亿 is a million millions
            total = total - smaller + (smaller + part) * value if part or total else value
            section, digit = 0, None
    return str(total + section + (digit or 0))


def _from_enclosed(match: "regex.Match[str]") -> str:
    begins = _LINE_BEGINS.search(match.string, max(0, match.start() - 9), match.start())
    if begins and not _SENTENCE_ENDS.match(match.string, match.end()):
        return str(match[0])
    values = [int(unicodedata.numeric(c)) if unicodedata.numeric(c, None) else 0 for c in match[0]]
    pairs = zip(values, [*values[1:], 0], strict=True)
    return str(sum(-a if a < b else a for a, b in pairs))
