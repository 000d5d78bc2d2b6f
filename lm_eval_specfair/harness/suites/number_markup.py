r"""Markup, powers of ten, fractions and Ethiopic digits as plain digits. No scoring.

`9{,}500`, `2\,125`, `1.5×10^3`, `2e3`, `1½`, `፲፰`: 9,500, 2 125, 1500, 2000, 1.5, 18.
"""

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
    (regex.compile(r"(?:(?<=^)|(?<=[\s\p{Sc}=(−-]))(?=[.٫]\p{Nd})"), "0"),  # .5
)
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


def plain_digits(text: str) -> str:
    """A text whose numbers are digits with separators, without markup or invisible characters."""
    text = "".join(c for c in html.unescape(text) if unicodedata.category(c) != "Cf")
    for pattern, replacement in _MARKUP:
        text = pattern.sub(replacement, text)
    text = _SUPERSCRIPT.sub(lambda m: f"^{unicodedata.normalize('NFKC', m[0])}", text)
    text = _SCIENTIFIC.sub(_positional, text)
    text = _VULGAR.sub(lambda m: f"{int(m[1] or 0) + unicodedata.numeric(m[2]):.6g}", text)
    return _ETHIOPIC.sub(lambda match: str(_ethiopic(match[0])), text)


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
