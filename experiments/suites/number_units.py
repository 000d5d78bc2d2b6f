"""Write the words for thousands and more that stand beside digits, from Unicode's CLDR.

    python experiments/suites/number_units.py    # writes harness/suites/number_units.tsv

CLDR's compact decimals ("70 thousand", "7万", "elfu 70") are read through Babel, for every language
that it has. A hand-made list adds what people write besides. A test checks the committed table.
"""

from collections import Counter
from pathlib import Path

from babel import Locale
from babel.localedata import locale_identifiers

TABLE = Path(__file__).resolve().parents[2] / "lm_eval_specfair/harness/suites/number_units.tsv"

# Language -> word -> factor: inflected forms, older and smaller units that CLDR has no pattern for.
MORE = {
    "en": {
        "k": 3,
        "thousands": 3,
        "mn": 6,
        "bn": 9,
        "lakh": 5,
        "lakhs": 5,
        "crore": 7,
        "crores": 7,
    },
    "am": {"ሺህ": 3, "ሺሕ": 3},
    "kn": {"ಲಕ್ಷ": 5, "ಕೋಟಿ": 7},
    "ml": {"ലക്ഷം": 5, "കോടി": 7},
    "ta": {"லட்சம்": 5, "இலட்சம்": 5, "கோடி": 7},
    "bn": {"হাজারটি": 3, "লক্ষ": 5, "কো": 7, "সহস্র": 3},
    "de": {"tsd.": 3},
    "fr": {"milliers": 3},
    "hi": {"हजार": 3, "करोड": 7},
    "hu": {"ezret": 3},
    "ne": {"करोड": 7},
    "ru": {"тысячам": 3, "тысячу": 3},
    "te": {"వేల": 3, "లక్ష": 5, "లక్షలు": 5, "లక్షల": 5, "కోటి": 7, "కోట్లు": 7, "కోట్ల": 7},
    "vi": {"ngàn": 3, "tỉ": 9},
    "zh": {"百": 2, "千": 3, "仟": 3, "佰": 2, "万": 4, "萬": 4, "亿": 8, "億": 8},
    "ja": {"百": 2, "千": 3},
    "ko": {"백": 2},
}
MORE_BEFORE = {
    "sw": {"laki": 5},
    "ha": {"dubu": 3},
    "am": {"ሺህ": 3, "ሺሕ": 3},
    "bn": {"সহস্র": 3},
    "bo": {"སྟོང": 3, "སྟོང་": 3, "སྟོང་ཕྲག": 3, "སྟོང་ཕྲག་": 3},
}


def rows() -> list[tuple[str, str, int, str]]:
    """Language, place beside the digits, power of ten, word."""
    found: set[tuple[str, str, int, str]] = set()
    for name in locale_identifiers():
        if "_" in name and name not in ("zh_Hans", "zh_Hant", "sr_Latn", "uz_Cyrl"):
            continue
        formats = Locale.parse(name).compact_decimal_formats
        language = name.split("_")[0]
        for plurals in [
            p for kind in ("long", "short") for p in (formats.get(kind) or {}).values()
        ]:
            for size, pattern in plurals.items():
                before, after = (_word(part[0]) for part in (pattern.prefix, pattern.suffix))
                digits = pattern.pattern.split(";")[0].count("0")
                power = len(size) - digits
                if digits and bool(before) != bool(after) and 0 < power <= 12:
                    place, word = ("before", before) if before else ("after", after)
                    if len(word) > 1 or not word.isascii():  # "5 m" is metres as well
                        found.add((language, place, power, word))
    # CLDR itself is wrong where a word has several powers; by hand then.
    known = Counter((language, place, word) for language, place, _, word in found)
    found = {row for row in found if known[row[0], row[1], row[3]] == 1}
    for place, table in (("after", MORE), ("before", MORE_BEFORE)):
        for language, words in table.items():
            found |= {(language, place, power, word) for word, power in words.items()}
    return sorted(found)


def _word(pattern: str) -> str:
    bare = pattern.replace("'", "").replace("\u200e", "").replace("\u200f", "")
    return " ".join(bare.split()).casefold()


def content() -> str:
    """The table."""
    lines = ["\t".join(map(str, row)) for row in [("language", "place", "power", "word"), *rows()]]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    TABLE.write_text(content(), encoding="utf-8")
