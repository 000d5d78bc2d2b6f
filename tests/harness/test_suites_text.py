"""What the suites compare answers by: folded text, tokens, chrF and ROUGE.

python -m pytest tests/harness/test_suites_text.py
"""

import importlib.util
import sys
import unicodedata
from pathlib import Path

import lm_eval.tasks
import pytest
import regex
import sacrebleu
from hypothesis import given, settings
from hypothesis import strategies as st

from lm_eval_specfair.harness.suites.answers import (
    corpus_chrf,
    corpus_chrf_plus_plus,
    extraction,
    summary,
    translation,
)
from lm_eval_specfair.harness.suites.text import fold, normal_form, tokens

from support import suite_rows


@pytest.fixture(scope="module")
def official():
    """MLQA's own rules, as lm-eval ships them."""
    path = Path(lm_eval.tasks.__path__[0]) / "mlqa" / "utils.py"
    spec = importlib.util.spec_from_file_location("mlqa_official", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    sys.modules.pop("mlqa_official", None)


@pytest.mark.parametrize(
    ("one", "other", "language"),
    [
        ("ＡＢＣ １２３", "abc 123", "en"),
        ("ﷲ ﻣﺤﻤﺪ", "الله محمد", "ar"),  # presentation forms
        ("مُحَمَّدٌ", "محمد", "ar"),
        ("العـــربية", "العربية", "ar"),  # elongated
        ("שָׁלוֹם", "שלום", "he"),
        ("IĞDIR", "ığdır", "tr"),
        ("İzmir", "izmir", "tr"),
        ("ΟΔΟΣ", "οδος", "el"),  # the final sigma
        ("१९४७", "1947", "hi"),
        ("১৯৭১", "1971", "bn"),
        ("๒๔๗๕", "2475", "th"),
        ("می\u200cشود", "میشود", "fa"),
        ("cafe\u0301", "café", "fr"),
        ("L’eau", "l'eau", "fr"),
    ],
)
def test_what_carries_no_meaning_is_folded(one, other, language):
    assert fold(one, language) == fold(other, language)


@pytest.mark.parametrize(
    ("one", "other", "language"),
    [
        ("kalın", "kalin", "tr"),  # thick; to stay (a noun stem): two letters, two words
        ("कल", "काल", "hi"),  # a vowel sign is a combining mark, and a letter
        ("มา", "ม้า", "th"),  # to come; horse
        ("ma", "mà", "vi"),
        ("أن", "ان", "ar"),  # the hamza on its carrier is spelling, not vocalisation
    ],
)
def test_what_carries_meaning_is_kept(one, other, language):
    assert fold(one, language) != fold(other, language)


@settings(deadline=None)
@given(st.text(), st.sampled_from(["en", "tr", "ar", "th", "zh", "am"]))
def test_folding_twice_is_folding_once_and_tokens_are_of_folded_text(text, language):
    once = fold(text, language)
    assert fold(once, language) == once
    assert tokens(once, language) == tokens(text, language)


MLQA_TEXTS = {
    "en": ["The Eiffel Tower, in Paris.", "a tower", "An ox-cart (old)", "Paris"],
    "de": ["Der alte Turm", "die Türme; eine Kirche!", "in Köln", "Turm"],
    "es": ["La casa de los padres", "un perro, el gato", "¿Dónde?", "casa"],
    "ar": ["البيت الكبير", "في المدرسة، اليوم", "بيت", "الكبير"],
    "hi": ["दिल्ली में, भारत।", "भारत की राजधानी", "१० वर्ष", "दिल्ली"],
    "vi": ["những con mèo của tôi", "cái bàn", "Hà Nội là thủ đô.", "mèo"],
    "zh": ["北京是中国的首都。", "中国的首都", "在2008年，北京", "北京"],
}


@pytest.mark.parametrize("language", MLQA_TEXTS)
def test_extraction_agrees_with_mlqas_own_script(official, language):
    texts = MLQA_TEXTS[language]
    for text in texts:
        for reference in texts:
            doc = {"language": language, "answers": {"text": [reference]}}
            ours = extraction(doc, [text])
            assert ours["f1"] == pytest.approx(official.f1_score(text, reference, language))
            exact = official.exact_match_score(text, reference, language)
            assert ours["exact_match"] == float(exact)


@pytest.mark.parametrize(
    ("language", "text", "reference", "f1"),
    [
        # Five of six characters are given, one is not in the reference: p = 5/6, r = 5/5.
        ("ja", "東京タワー前", "東京タワー", 10 / 11),
        ("th", "กรุงเทพ", "กรุงเทพ ", 1.0),
        ("th", "ปี", "กรุงเทพ", 0.0),
        ("am", "አዲስ፡አበባ", "አዲስ አበባ", 1.0),  # the sign between words is a space
        ("tr", "IĞDIR", "Iğdır", 1.0),
    ],
)
def test_extraction_in_languages_that_mlqa_lacks(language, text, reference, f1):
    doc = {"language": language, "answers": {"text": ["something else", reference]}}
    assert extraction(doc, [text])["f1"] == pytest.approx(f1)


def test_chrf_is_sacrebleus_over_the_corpus():
    texts = ["The cat sat.", "東京は大きい", "un chien"]
    references = ["The cat sits.", "東京は大きな都市", "un chien noir"]
    pairs = list(zip(references, texts, strict=True))

    assert corpus_chrf(pairs) == sacrebleu.corpus_chrf(texts, [references]).score
    plus = sacrebleu.corpus_chrf(texts, [references], word_order=2).score
    assert corpus_chrf_plus_plus(pairs) == plus


WRITTEN = sorted(path.stem for path in suite_rows.DEMO.glob("*.jsonl"))
SHOW_NOTHING = "\u200b\u200e\u200f\u2060\ufeff\u00ad\u034f\ufe0f\u061c"


def respelled(text: str, data) -> str:
    """A text that looks the same: taken apart, with characters that show nothing in it."""
    form = data.draw(st.sampled_from(["NFC", "NFD"]))
    graphemes = regex.findall(r"\X", text)
    for _ in range(data.draw(st.integers(0, 6))):
        place = data.draw(st.integers(0, len(graphemes)))
        graphemes.insert(place, data.draw(st.sampled_from(SHOW_NOTHING)))
    spaces = data.draw(st.sampled_from([" ", "\u00a0", "  ", "\u202f"]))
    return unicodedata.normalize(form, "".join(graphemes)).replace(" ", spaces)


@pytest.mark.parametrize("tag", WRITTEN)
@settings(deadline=None, max_examples=10)
@given(data=st.data())
def test_what_looks_the_same_scores_fully_in_every_language(tag, data):
    first, second = suite_rows.passages(tag)
    text = respelled(first, data)
    pair = translation({"language": tag, "target": first}, [text])
    assert corpus_chrf_plus_plus([pair["chrf++"]]) == pytest.approx(100)
    assert pair["chrf++_official"] == (first, text.strip())
    found = summary({"language": tag, "summary": first}, [text])
    assert corpus_chrf([found["chrf"]]) == pytest.approx(100)
    assert found["rouge_l"] == pytest.approx(1)
    # And what is different stays so, by as much as before.
    other = translation({"language": tag, "target": second}, [text])["chrf++"]
    raw = (normal_form(second, tag), normal_form(first, tag))
    assert corpus_chrf_plus_plus([other]) == corpus_chrf_plus_plus([raw]) < 90


@pytest.mark.parametrize(
    ("language", "one", "other"),
    [
        ("km", "ភាសា\u200bខ្មែរ", "ភាសាខ្មែរ"),
        ("fa", "می\u200cشود", "میشود"),
        ("fa", "كتاب علي", "کتاب علی"),  # Arabic keyboard
        ("vi", "Tie\u0302\u0301ng Vie\u0302\u0323t", "Tiếng Việt"),
        ("ko", "\u1112\u1161\u11ab\u1100\u116e\u11a8\u110b\u1165", "한국어"),
        ("ar", "ﻣﺤﻤﺪ", "محمد"),
        ("ar", "محـــمد", "محمد"),
        ("ja", "ｶﾞｲﾄﾞ１", "ガイド1"),
        ("th", "น\u0e4dา", "นำ"),
        ("ml", "അവന\u0d4d\u200d", "അവൻ"),
        ("ro", "şi ţară", "și țară"),
        ("de", "Wör\u00adter", "Wörter"),
        ("bo", "བོད\u0f0cཡིག", "བོད\u0f0bཡིག"),  # no line may end at the first
        ("en", "e\u2011mail e\u2010mail", "e-mail e-mail"),
    ],
)
def test_one_spelling_for_what_looks_the_same(language, one, other):
    assert normal_form(one, language) == normal_form(other, language)
    assert normal_form(normal_form(one, language), language) == normal_form(one, language)


def test_digits_that_python_does_not_know_stay():
    assert fold("\U00016130 ٣", "en") == "\U00016130 3"


def test_what_forbids_a_lines_end_is_what_allows_it():
    for character in map(chr, range(0x110000)):
        if unicodedata.decomposition(character).startswith("<noBreak>"):
            plain = unicodedata.normalize("NFKC", character)
            texts = (f"a{character}b", f"a{plain}b")
            assert len({normal_form(text, "en") for text in texts}) == 1, hex(ord(character))


@pytest.mark.parametrize(
    ("language", "one", "other"),
    [
        ("en", "m²", "m2"),
        ("en", "Yes", "yes"),
        ("ar", "كِتاب", "كتاب"),  # vocalised: it can be seen
        ("mr", "दर्\u200dया", "दर्या"),  # valleys; the sea
        ("bn", "র\u200d্যাব", "র্যাব"),
        ("ps", "ي", "ی"),  # two letters in Pashto
    ],
)
def test_what_can_be_seen_stays(language, one, other):
    assert normal_form(one, language) != normal_form(other, language)


def test_a_translation_ends_at_a_line_feed_only():
    found = translation({"language": "en", "target": "a b"}, ["\n a\u2028b\x0bc \nno"])
    assert found["chrf++_official"][1] == "a\u2028b\x0bc"


def longest_common(a: list[str], b: list[str]) -> int:
    if not a or not b:
        return 0
    if a[0] == b[0]:
        return 1 + longest_common(a[1:], b[1:])
    return max(longest_common(a[1:], b), longest_common(a, b[1:]))


@pytest.mark.parametrize(
    ("language", "reference", "text"),
    [
        ("en", "the cat sat down", "the dog sat down"),
        ("zh", "北京是首都", "首都是北京"),
        ("th", "แมวนอน", "แมวนั่ง"),
        ("sw", "paka amelala", "mbwa anakimbia"),
    ],
)
def test_rouge_l_is_the_longest_common_subsequence(language, reference, text):
    def cut(words: str) -> list[str]:
        return list(words) if language == "zh" else tokens(words, language, drop_articles=False)

    a, b = cut(reference), cut(text)
    common = longest_common(a, b)
    expected = 2 * common / (len(a) + len(b))  # the harmonic mean of common/len(a), common/len(b)
    score = summary({"language": language, "summary": reference}, [text])["rouge_l"]
    assert score == pytest.approx(expected)
