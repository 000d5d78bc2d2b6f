"""The number that an answer gives, whatever its digits and separators. No scoring.

`1,234.5`, `1.234,5`, `1 234,5`, `1'234.5`, `12,34,567`, `١٬٢٣٤٫٥` and `７万` are numbers.
"""

import unicodedata
from decimal import Decimal

import regex

# Points, commas and apostrophes of all scripts, and the spaces that group digits.
_SEPARATORS = ".,'’٫٬،·˙，．_ \u00a0\u2009\u202f"
_MINUS = "-−‑﹣－"
_DIGITS = rf"\p{{Nd}}+(?:[{regex.escape(_SEPARATORS)}]\p{{Nd}}+)*"
_PART = regex.compile(rf"({_DIGITS})([億亿万萬千百]?)")
# A minus sign stands before a number (or its currency: -$5) only where nothing that it could join
# stands before it.
_NUMBER = regex.compile(
    rf"(?:(?<![\p{{L}}\p{{M}}\p{{N}}])(?P<sign>[{_MINUS}])\p{{Sc}}?)?(?P<parts>(?:{_PART.pattern})+)"
)
_UNITS = {"億": 10**8, "亿": 10**8, "万": 10**4, "萬": 10**4, "千": 1000, "百": 100, "": 1}
_DECIMAL_MARKS = set(".,٫·˙،，．")


def numbers_in(text: str) -> list[frozenset[Decimal]]:
    """The numbers of a text in their order, each with all values that it can be read as.

    `1.234` is one thousand and more in German and a little over one in English. Both are meant
    somewhere, and a text in one language may follow the habit of another, so both are given.

    Example:
        >>> [sorted(map(str, each)) for each in numbers_in("1.234 km, -१२.५ °C, 3万5000円")]
        [['1.234', '1234'], ['-12.5'], ['35000']]
    """
    plain = "".join(c for c in text if unicodedata.category(c) != "Cf")  # directions before a sign
    found: list[frozenset[Decimal]] = []
    for match in _NUMBER.finditer(plain):
        negative = match["sign"] is not None
        values = _values(match["parts"])
        if not values:
            # Separators that group nothing: a list such as "3, 4" without its space.
            pieces = regex.findall(r"\p{Nd}+", match[0])
            found.extend(frozenset({Decimal(piece)}) for piece in pieces)
            continue
        found.append(frozenset(-value if negative else value for value in values))
    return found


def _values(written: str) -> set[Decimal]:
    parts = [(number, unit) for number, unit in _PART.findall(written)]
    if len(parts) == 1:
        number, unit = parts[0]
        return {value * _UNITS[unit] for value in _readings(number)}
    # 1億2000万: each part is counted in its own unit, and the units get smaller.
    units = [_UNITS[unit] for _, unit in parts]
    if units != sorted(set(units), reverse=True):
        return set()
    readings = [_readings(number) for number, _ in parts]
    if any(len(each) != 1 for each in readings):
        return set()
    return {sum((next(iter(r)) * u for r, u in zip(readings, units, strict=True)), Decimal(0))}


def _readings(number: str) -> set[Decimal]:
    """The values of digits and separators: as groups of thousands, as a decimal fraction."""
    digits = regex.split(rf"[{regex.escape(_SEPARATORS)}]", number)
    marks = regex.findall(rf"[{regex.escape(_SEPARATORS)}]", number)
    found = set()
    if not marks or (len(set(marks)) == 1 and _is_grouped(digits)):
        found.add(Decimal("".join(digits)))
    *groups, fraction = digits
    *separators, mark = marks or [""]
    if mark in _DECIMAL_MARKS and mark not in separators:
        whole = len(groups) == 1 or (len(set(separators)) == 1 and _is_grouped(groups))
        if whole:
            found.add(Decimal(f"{''.join(groups)}.{fraction}"))
    return found


def _is_grouped(digits: list[str]) -> bool:
    """Whether digits are parted in threes, or as in India: threes at the end, twos before."""
    first, *middle, last = digits
    if unicodedata.digit(first[0]) == 0 or len(last) != 3:
        return False
    threes = len(first) <= 3 and all(len(each) == 3 for each in middle)
    twos = len(first) <= 2 and all(len(each) == 2 for each in middle)
    return threes or twos
