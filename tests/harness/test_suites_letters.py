"""The option that an answer names, in every language of the suites that ask for a letter.

python -m pytest tests/harness/test_suites_letters.py
"""

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lm_eval_specfair.harness.suites.option_letters import letter_in
from lm_eval_specfair.harness.suites.words import OPTION_WORDS, WORDS_AFTER_OPTION_A

from support import suite_rows

TAGS = sorted(
    {
        task["metadata"]["language"]
        for name, task in suite_rows.task_files().items()
        if "belebele" in name or "global_mmlu" in name
    }
)
LATIN = [tag for tag in TAGS if suite_rows.passages(tag)[0][0].isascii()]
letters = st.sampled_from("ABCD")
WRITTEN = [
    *("{}", "{}.", "({})", "{})", "**{}**", " {}\n", "{}: {text}", "{}, {text}", "({}) {text}"),
    *(
        "{}. {text} A B C D",
        "**{}** {text}",
        "[{}] {text}",
        "{} - {text}",
        "{} — {text}",
        "{}\n{text}",
    ),
    '"{}"',
]


@settings(deadline=None)
@given(st.sampled_from(TAGS), letters, st.sampled_from(WRITTEN))
def test_a_letter_at_the_start_is_the_answer_in_every_language(tag, letter, written):
    text = suite_rows.passages(tag)[0]
    shown = written.replace("{}", letter).replace("{text}", text)
    assert letter_in(shown, tag) == letter
    full_width = shown.replace(letter, chr(ord(letter) + 0xFEE0), 1)
    assert letter_in(full_width, tag) == letter


@settings(deadline=None)
@given(st.sampled_from(sorted(OPTION_WORDS)), st.permutations("ABCD"), st.data())
def test_a_denied_letter_is_no_answer(language, order, data):
    denied, other, third, _ = order

    def word(kind):
        return data.draw(st.sampled_from(OPTION_WORDS[language][kind].split("|")))

    written = [f"Zuvim {denied} {word('not_after')}"]
    if OPTION_WORDS[language].get("not_before"):
        written.append(f"Zuvim {word('not_before')} {denied}")
        written.append(f"Zuvim {word('not_before')} {denied} {word('or')} {denied}")
    shown = data.draw(st.sampled_from(written))
    assert letter_in(f"{shown}.", language) is None
    assert letter_in(f"{shown}, {other}.", language) == other
    assert letter_in(f"Zuvim {other}, {shown[6:]}.", language) == other
    assert letter_in(f"{shown}, {other}, {third}.", language) is None  # two are left
    assert letter_in(f"{shown}, {third}, {word('correct')}: {other}.", language) == other


@given(letters, st.sampled_from("ＡⒶⓐ⒜🄐🄰🅐🅰𝐀𝗔"), st.sampled_from(["{}", "{} zuvim", "{}. B"]))
def test_styled_letters_are_options(letter, styled, written):
    shown = chr(ord(styled) + ord(letter) - ord("A"))
    assert letter_in(f"The answer is {shown}.", "en") == letter
    if not unicodedata.normalize("NFKC", styled).isalpha() or written != "{} zuvim":
        assert letter_in(written.replace("{}", shown), "ja") == letter


@settings(deadline=None)
@given(st.sampled_from(sorted({*WORDS_AFTER_OPTION_A, "en", "pt"})), letters, st.data())
def test_a_word_that_is_a_letter_is_not_an_answer(language, letter, data):
    # Words that are in none of the tables of what follows an option.
    word = data.draw(st.sampled_from(["zuvim", "lerrito", "kapel"]))
    quote = data.draw(st.sampled_from(["", "“", "**"]))
    begin = data.draw(st.sampled_from(["", "Zim. ", "Zim: ", "Zim!\n"]))
    sentence = f"{begin}{quote}A {word} zuvim lem"
    assert letter_in(f"{sentence} {letter}.", language) == letter
    assert letter_in(f"{sentence}: {letter}", language) == letter
    assert letter_in(f"{sentence}.", language) is None


@pytest.mark.parametrize(
    "language", [tag for tag in LATIN if tag.split("-")[0] not in WORDS_AFTER_OPTION_A]
)
def test_where_a_is_no_word_it_is_an_option_wherever_it_stands_alone(language):
    assert letter_in("A zuvim lem, B lem.", language) == "A"


@pytest.mark.parametrize(
    ("language", "text", "letter"),
    [
        ("en", "A careful reading shows that the answer is C.", "C"),
        ("ro", "A fost spus în text că răspunsul este C.", "C"),
        ("cs", "A proto je správná odpověď B.", "B"),
        ("sk", "A tak je správna odpoveď D.", "D"),
        ("pl", "A więc poprawna odpowiedź to C.", "C"),
        ("hr", "A točan odgovor je B.", "B"),
        ("sq", "A është e saktë? Përgjigjja është D.", "D"),
        ("hu", "A helyes válasz: D", "D"),
        ("fr", "A mon avis, la réponse est C.", "C"),
        ("yo", "A rí i pé ìdáhùn náà ni B.", "B"),
        ("ha", "A cikin rubutun, amsar ita ce D.", "D"),
        ("tn", "A go na le karabo? Ke C.", "C"),
        ("pt", "A resposta é C", "C"),
        ("en", "A because the text says so", "A"),
        ("en", "A is correct, B is not.", "A"),
        ("cs", "A protože to říká text.", "A"),
        ("fr", "A car le texte le dit.", "A"),
        ("en", "The answer is A because the text says so.", "A"),
        ("en", "Option A fits a careful reading.", "A"),
        ("en", "THIS IS A TEST, THE ANSWER IS D", "D"),
        ("sw", "A careful reading of the text shows B.", "B"),  # answered in English
        ("sw", "A kwa sababu maandishi yanasema hivyo.", "A"),
        ("ar", "A careful reading of the text shows B.", "B"),
        ("de", "A ist richtig, B nicht.", "A"),
        ("fr", "C’est D.", "D"),
        ("en", "Vitamin C is good. The answer is (B).", "B"),
        ("en", "Plan B was used, answer: D", "D"),
        ("es", "El plan B no sirve. La respuesta es D.", "D"),
        ("de", "Vitamin C hilft. Antwort: **A**", "A"),
        ("en", "The U.S. text on A-levels says D.", "D"),
        ("de", "Wegen C-Vitamin ist es B.", "B"),
        ("ru", "Правильный ответ — С.", "C"),
        ("ru", "Ответ: В", "B"),
        ("ru", "В тексте это сказано.", None),
        ("ru", "А в тексте сказано: D", "D"),
        ("en", "A careful reading supports none of them.", None),
        ("en", "A: C", "C"),
        ("en", "A: C because it says so", "C"),
        ("en", "B: C", None),
        ("en", "A: A careful reading", "A"),
        ("en", "Neither A nor B: C", "C"),
        ("en", "Not A. C", "C"),
        ("es", "La respuesta A es incorrecta; la correcta es D", "D"),
        ("es", "No es la opción A, sino C", "C"),
        ("de", "Weder A noch B, sondern C", "C"),
        ("fr", "A n’est pas correcte ; la bonne réponse est D", "D"),
        ("zh", "A是错误的，正确的是D", "D"),
        ("ja", "Aではなく、Cです", "C"),
        ("ko", "A가 아니라 C", "C"),
        ("hi", "A गलत है, C सही है", "C"),
        ("ru", "Ответ: не А, а С.", "C"),
        ("en", "A and C are wrong, B", "B"),
        ("en", "The answer is not A. It is C.", "C"),
        ("en", "The correct answer cannot be B; D", "D"),
        ("en", "A or C", None),
        ("en", "A not B", "A"),
        ("en", "No. A is right", "A"),
        ("en", "Not sure, but A", "A"),
        ("en", "B: Not enough evidence", "B"),  # the option's own text
        ("en", "B) False", "B"),
        ("es", "D - No es posible", "D"),
        ("zh", "B. 错误", "B"),
        ("en", "The answer is a.", "A"),
        ("en", "The answer is (b)", "B"),
        ("en", "The answer is a good one.", None),
        ("de", "Die Antwort ist d. h. nichts", None),
    ],
)
def test_letters_in_sentences(language, text, letter):
    assert letter_in(text, language) == letter


@pytest.mark.parametrize("piece", ["A ", "A is ", "not A or ", "correct ", "B: ", "不是A"])
def test_a_model_that_loops_is_read_to_its_end(piece):
    letter_in(piece * 3_000, "zh")
