"""Numbers as people and models write them, in the languages that Unicode's CLDR has.

python -m pytest tests/harness/test_suites_numbers.py
"""

import importlib.util
from decimal import Decimal
from pathlib import Path

import pytest
from babel import Locale
from babel.localedata import locale_identifiers
from babel.numbers import (
    UnsupportedNumberingSystemError,
    format_compact_decimal,
    format_currency,
    format_decimal,
)
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lm_eval_specfair.harness.suites.answers import number
from lm_eval_specfair.harness.suites.numbers import _UNITS_FILE, numbers_in

CHECKOUT = Path(__file__).resolve().parents[2]
# Toki Pona groups digits in twos, "1 00", which in other languages are two numbers.
LOCALES = sorted(
    name
    for name in locale_identifiers()
    if Locale.parse(name).decimal_formats and name.split("_")[0] != "tok"
)
# Of MGSM and AfriMGSM, and of the suites with a card that says so.
LANGUAGES = ["bn", "de", "en", "es", "fr", "ja", "ru", "sw", "te", "th", "zh", "am", "ee", "ha"]
LANGUAGES += ["ig", "rw", "ln", "lg", "om", "sn", "st", "ak", "wo", "xh", "yo", "zu"]

values = st.one_of(
    st.integers(-(10**9), 10**9).map(Decimal),
    st.decimals(-(10**6), 10**6, places=2, allow_nan=False),
)


def the_number(text: str, language: str = "en") -> frozenset[Decimal]:
    (found,) = numbers_in(text, language)
    return found


@settings(deadline=None, max_examples=600)
@given(
    value=values,
    locale=st.one_of(st.sampled_from(LANGUAGES), st.sampled_from(LOCALES)),
    system=st.sampled_from(["default", "native", "latn"]),
    group=st.booleans(),
)
def test_numbers_are_read_as_each_language_writes_them(value, locale, system, group):
    # Babel writes by Unicode's CLDR: digits, separators, grouping and signs of the locale.
    def write(system: str) -> str:
        return format_decimal(value, locale=locale, numbering_system=system, group_separator=group)

    try:
        written = write(system)
    except UnsupportedNumberingSystemError:
        written = write("latn")
    for sentence in (written, f"({written}).", f"= {written}。", f"«{written}»", f"**{written}**"):
        found = the_number(sentence, locale.split("_")[0])
        assert value in found, (locale, written)
        assert len(found) <= 2


@settings(deadline=None, max_examples=300)
@given(
    value=values,
    locale=st.one_of(st.sampled_from(LANGUAGES), st.sampled_from(LOCALES)),
    currency=st.sampled_from(["USD", "EUR", "INR", "JPY", "XOF", "BRL"]),
)
def test_amounts_of_money_are_read_with_their_sign(value, locale, currency):
    written = format_currency(value, currency, locale=locale, currency_digits=False)
    assert any(value in each for each in numbers_in(written, locale.split("_")[0])), written


@settings(deadline=None, max_examples=400)
@given(
    digits=st.integers(1, 999),
    power=st.integers(3, 13),
    kind=st.sampled_from(["long", "short"]),
    locale=st.one_of(
        st.sampled_from(LANGUAGES),
        st.sampled_from([name for name in LOCALES if "_" not in name]),
    ),
)
def test_thousands_and_millions_are_read_in_the_units_of_the_language(digits, power, kind, locale):
    value = digits * 10**power
    locale_has = Locale.parse(locale).compact_decimal_formats
    # Babel writes "elfu 10" for a thousand: Swahili is tested by hand.
    if value >= 10**13 or kind not in locale_has or locale == "sw":
        return
    table = {line.split("\t")[3] for line in _UNITS_FILE.read_text("utf-8").splitlines()[1:]}
    written = format_compact_decimal(
        value, format_type=kind, locale=locale, fraction_digits=10, numbering_system="latn"
    )
    words = [word for word in written.split() if not any(c.isdigit() for c in word)]
    # Joined to the digits or a phrase (tested by hand), without digits, one letter, wrong in CLDR.
    if len(words) != 1 or words == [written] or len(words[0]) == 1 or words[0] in ("কো", "करोड"):
        return
    if words[0].casefold() not in table:
        return
    assert Decimal(value) in the_number(written, locale), (locale, written)


@given(
    value=st.integers(1_000, 10**9),
    separator=st.sampled_from(
        [
            *(",", ".", "'", "’", "ʼ", " ", "_", "٬", "，", "\u00a0", "\u2009", "\u202f", "\u2007"),
            *(
                "{,}",
                "{.}",
                r"\,",
                r"\;",
                r"\:",
                r"\ ",
                "~",
                "{,}\u200b",
                r",\!",
                r"\text{,}",
                r"\_",
                r"{\,}",
                r"\mathord{,}",
            ),
            *("&nbsp;", "&#8239;", r"\thinspace ", "{ }", "\u3000", "＇", "‛", "ʹ"),
        ]
    ),
    around=st.sampled_from(
        ["{}", "${}$", r"\boxed{{{}}}", r"\({}\)", "**{}**", "${}", "{} €", "= {}."]
    ),
    size=st.sampled_from(["western", "indian"]),
)
@settings(deadline=None, max_examples=400)
def test_whatever_groups_digits_is_read(value, separator, around, size):
    written = f"{value:,}"
    if size == "indian":
        head, tail = written.replace(",", "")[:-3], written[-3:]
        twos = [head[max(0, i - 2) : i] for i in range(len(head), 0, -2)][::-1]
        written = ",".join([*twos, tail])
    found = the_number(around.format(written.replace(",", separator)))
    assert Decimal(value) in found
    pieces = {Decimal(piece) for piece in written.split(",")}
    assert not found & pieces


@pytest.mark.parametrize(
    ("language", "text", "expected"),
    [
        ("en", "1,234", [{"1234", "1.234"}]),
        ("en", "1,23,456", [{"123456"}]),
        ("en", "12.50", [{"12.50"}]),
        ("en", "10.0", [{"10"}]),
        ("en", "80,000", [{"80000"}]),  # and not 80
        ("en", "0,125", [{"0.125"}]),  # no group of thousands begins with 0
        ("en", ".5 or $.50", [{"0.5"}, {"0.5"}]),
        ("en", "3, 4 and 5", [{"3"}, {"4"}, {"5"}]),
        ("en", "3,4,5", [{"3"}, {"4"}, {"5"}]),
        ("en", "9, 500", [{"9", "9500"}, {"500", "9500"}]),  # a list, or a space too many
        ("en", "in 2020 12 500 people", [{"2020"}, {"12500"}]),
        ("en", "10-5", [{"10"}, {"5"}]),
        ("en", "10 - 5", [{"10"}, {"5"}]),
        ("en", "(10) - 5", [{"10"}, {"5"}]),
        ("en", "= - 5", [{"-5"}]),
        ("en", "x=-5", [{"-5"}]),
        ("en", "The answer is - 5", [{"5", "-5"}]),  # a dash or a sign
        ("ru", "Ответ - 5", [{"5", "-5"}]),
        ("en", "−7", [{"-7"}]),
        ("en", "-$5, £-3", [{"-5"}, {"-3"}]),
        ("en", "US$-5", [{"-5"}]),
        ("en", r"-US$5 and -\$ 5 and −**5**", [{"-5"}, {"-5"}, {"-5"}]),
        ("ja", "7万円", [{"70000"}]),
        ("ja", "7 万円と７　万", [{"70000"}, {"70000"}]),
        ("zh", "3亿5000万", [{"350000000"}]),
        ("zh", "1万2000", [{"12000"}]),
        ("zh", "3千万和7百万", [{"30000000"}, {"7000000"}]),
        ("zh", "1,2345", [{"1.2345", "12345"}]),
        ("zh", "3億1,234万", [{"312340000", "300012340"}]),
        ("zh", "7万，8万", [{"70000"}, {"80000"}]),
        ("ko", "3천만 원, 5천3백 원", [{"30000000"}, {"5300"}]),
        ("sw", "Jumla ni shilingi elfu 70.", [{"70000"}]),
        ("ha", "Naira dubu 70", [{"70000"}]),
        ("hi", "2 लाख 50 हज़ार रुपये", [{"250000"}]),
        ("bn", "৭০ হাজার টাকা", [{"70000"}]),
        ("te", "70 వేల రూపాయలు", [{"70000"}]),
        ("th", "7หมื่นบาท", [{"70000"}]),
        ("ru", "70 тыс. рублей и 2 млн", [{"70000"}, {"2000000"}]),
        ("de", "1,5 Millionen", [{"1500000"}]),
        ("en", "2 million 125 people", [{"2000000"}, {"125"}]),
        ("en", "70K, 5 m", [{"70", "70000"}, {"5"}]),
        ("am", "መልሱ ፪ሺ፻፳፭ ነው", [{"2125"}]),
        ("am", "፲፰ እና ፳፩፻፳፭", [{"18"}, {"2125"}]),
        ("es", "1'234.567,89", [{"1234567.89"}]),
        ("fy", "US$ 1,00-", [{"1", "-1"}]),
        ("en", "$5-$7, $5-10", [{"5"}, {"7"}, {"5"}, {"10"}]),
        ("en", "1½ or 1 ½ cups, ¾", [{"1.5"}, {"1.5"}, {"0.75"}]),
        (
            "de",
            r"1,5×10³, 1.5 \times 10^{3}, 2e3 und 10^2",
            [{"1500"}, {"1500"}, {"2000"}, {"100"}],
        ),
        ("en", "3 x 10 boards, 5 * 4", [{"3"}, {"10"}, {"5"}, {"4"}]),
        ("zh", "3 万 5000 元", [{"35000"}]),
        ("hi", "2 हज़ार 500 रुपये", [{"2500"}]),
        ("en", "5 thousand 3 times", [{"5000"}, {"3"}]),
        ("am", "5 ሺህ", [{"5000"}]),
        ("ta", "2 லட்சம்", [{"200000"}]),
        ("en", "18.", [{"18"}]),
        ("en", "none", []),
        ("zh", "二十", [{"20"}]),
        ("zh", "〇", [{"0"}]),
        ("zh", "两千三百", [{"2300"}]),
        ("zh", "3万五千", [{"35000"}]),
        ("zh", "二〇二五年", [{"2025"}]),
        ("zh", "一共3个，十分好，万一，三四百", [{"3"}]),  # words
        ("zh", "三亿五千万，一万亿", [{"350000000"}, {"1000000000000"}]),
        ("zh", "三点五", [{"3.5"}]),
        ("ja", "百五十円、千二百円、千万", [{"150"}, {"1200"}]),
        ("ja", "① りんご 5個", [{"5"}]),  # the line of a list
        ("en", "ⅩⅣ", [{"14"}]),
        ("hy", "1՚234", [{"1234"}]),
        ("fa", "۱۲۳/۵", [{"123.5"}]),
        ("fa", "۱۳۹۹/۱۲/۱", [{"1399"}, {"12"}, {"1"}]),
        ("en", "($5), (5), ($ 1,200.50)", [{"5", "-5"}, {"5"}, {"1200.50", "-1200.50"}]),
        ("bo", "སྟོང་ཕྲག་5", [{"5000"}]),
        ("bo", "སྟོང 5", [{"5000"}]),
        ("bn", "৫ সহস্র, সহস্র ৫", [{"5000"}, {"5000"}]),
        ("am", "ሺህ 5", [{"5000"}]),
        ("zh", "一百二，三千五，两万五，一亿三", [{"120"}, {"3500"}, {"25000"}, {"130000000"}]),
        ("zh", "一百零二，一千二百五，二十五", [{"102"}, {"1250"}, {"25"}]),
        ("yue", "二百五", [{"250"}]),
        ("ja", "百二、千二百五", [{"102"}, {"1205"}]),
        ("zh", "负5，負三十。答案是负五", [{"-5"}, {"-30"}, {"-5"}]),
        ("zh", "负责5个人，10减去负5", [{"5"}, {"10"}, {"-5"}]),
        ("en", "Negative 5. 10 minus 5 is: minus 5", [{"-5"}, {"10"}, {"5"}, {"-5"}]),
        ("en", "The answer is minus 5", [{"5", "-5"}]),
        ("fr", "= moins 5", [{"-5"}]),
        ("ja", "マイナス5度", [{"-5"}]),
        ("ko", "마이너스 5", [{"-5"}]),
        ("nl", "minstens 5, min 5", [{"5"}, {"5", "-5"}]),
        ("de", "(5 €), (5 Mio. €), (5)", [{"5", "-5"}, {"5000000", "-5000000"}, {"5"}]),
        ("en", "(EUR 5), (5 EUR), (see EUR 5 and)", [{"5", "-5"}, {"5", "-5"}, {"5"}]),
        ("zh", "（5 元）", [{"5"}]),
    ],
)
def test_numbers_by_hand(language, text, expected):
    found = [set(map(Decimal, each)) for each in expected]
    assert [set(values) for values in numbers_in(text, language)] == found


@pytest.mark.parametrize(
    ("language", "text", "right", "wrong"),
    [
        ("en", r"So she pays $9{,}500$. The answer is $9{,}500$.", 9500, 9),
        ("fr", r"La réponse est 2\,125 dollars.", 2125, 2),
        ("fr", "La re\u0301ponse est 2\u202f125, pas 3.", 2125, 3),  # accents written apart
        ("zh", "答案是 7 万。", 70000, 7),
        ("ja", "答えは7万円です。", 70000, 7),
        ("bn", "উত্তর হল ২,১২৫।", 2125, 2),
        ("te", "సమాధానం $70,000.", 70000, 70),
        ("de", "Die Antwort lautet 70.000.", 70000, 70),
        ("ru", "Ответ — 10,0.", 10, 100),
        ("sw", "Jibu ni elfu 70.", 70000, 70),
        ("fr", "La réponse est 2½.", 2.5, 2),
        ("te", "సమాధానం 2 వేల 500.", 2500, 500),
    ],
)
def test_an_answer_is_the_whole_number_and_not_its_first_piece(language, text, right, wrong):
    for value, score in ((right, 1.0), (wrong, 0.0)):
        doc = {"language": language, "answer_number": value}
        assert number(doc, [text]) == {"exact_match": score}


@given(st.integers(1, 9_999), st.integers(0, 9_999), st.booleans())
def test_han_numerals_are_the_number_written_in_digits(high, low, financial):
    def section(value):
        units = [f"{d}{u}" for d, u in zip(f"{value:04}", "千百十 ", strict=True)]
        zeros = "".join("零" if unit[0] == "0" else unit.strip() for unit in units).strip("零")
        while "零零" in zeros:
            zeros = zeros.replace("零零", "零")
        return zeros.translate({48 + i: c for i, c in enumerate("零一二三四五六七八九")})

    zero = "零" if 0 < low < 1000 else ""
    written = f"{section(high)}万{zero}{section(low)}"
    if financial:
        written = written.translate(
            str.maketrans("一二三四五六七八九十百千万", "壹贰叁肆伍陆柒捌玖拾佰仟萬")
        )
    value = Decimal(high * 10_000 + low)
    assert the_number(f"答案是{written}元。", "zh") == {value}
    assert the_number(f"答えは{written.replace('零', '')}です", "ja") == {value}


@given(st.integers(1, 20))
def test_circled_and_roman_numerals_are_the_number_written_in_digits(value):
    assert the_number(f"答えは{chr(0x245F + value)}") == {Decimal(value)}
    if value <= 12:
        assert the_number(f"The answer is {chr(0x215F + value)}.") == {Decimal(value)}


@given(st.text(), st.sampled_from(LANGUAGES))
@example("\U00016130", "bn")  # a digit since Unicode 16
@settings(deadline=None)
def test_any_text_has_numbers_or_none(text, language):
    for found in numbers_in(text, language):
        assert found


@pytest.mark.parametrize(
    "piece",
    [
        "一",
        "千二",
        "①",
        "Ⅻ",
        "($5)",
        "۱/۲",
        "1 ",
        "10 ",
        "100 ",
        "1, 100",
        "- ",
        "1,",
        "7万",
        "$ US ",
    ],
)
def test_a_model_that_loops_is_read_to_its_end(piece):
    numbers_in(piece * 3_000)


def test_the_committed_units_are_those_of_cldr():
    path = CHECKOUT / "experiments" / "suites" / "number_units.py"
    spec = importlib.util.spec_from_file_location("number_units", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert _UNITS_FILE.read_text(encoding="utf-8") == module.content()
