"""The option, A to D, that an answer names, in any language. No scoring."""

import functools

import regex

from lm_eval_specfair.harness.suites.words import ANSWER_PHRASES, LABELS, WORDS_AFTER_OPTION_A

_FULL_WIDTH = regex.compile(r"[Ａ-Ｄａ-ｄ（）．：]")
_ANY_LETTER = "ABCDabcdАВСΑΒ"
_LOOK_ALIKES = str.maketrans("АВСΑΒ", "ABCAB")  # Cyrillic and Greek keyboards
# At the start, before punctuation or the line's end; U.S. and A-levels are no options.
_START = regex.compile(
    rf"[\W_]*([{_ANY_LETTER}])(?!\.\p{{L}}\.)(?=\W*(?:$|\n)|\s*(?:[.,:;)\]*–—]|-(?!\p{{L}})))"
)
_ALONE = regex.compile(
    r"(?<![\p{Latin}\p{M}\p{Nd}'’]|\p{Latin}-)[ABCD](?![\p{Latin}\p{M}\p{Nd}'’]|-\p{Latin}|\.\p{Lu}\.)"
)
_LOOK_ALIKE = regex.compile(r"(?<![\p{L}\p{M}\p{N}])[АВСΑΒ](?=\s*(?:[.,;:)\]*!?»\"”]|$|\n))")

# A capital A is the word only where a sentence begins and another word follows.
_BEFORE_A_SENTENCE = regex.compile(r"(?:^|[.!?…:;。！？।۔؟\n][\s*_]*|[\"“«„‘(][*_]*)[\s*_]*$")
_NEXT_WORD = regex.compile(r"[\s\"“«„‘*_]+(\p{Latin}[\p{Latin}\p{M}'’]*)")
_IN_CAPITALS = regex.compile(r"\p{Lu}{2,}\s+$")
_ENGLISH = regex.compile(r"\b(?:the|of|that|which)\b", regex.IGNORECASE)


def letter_in(text: str, language: str) -> str | None:
    """The option that a text names: at its start, after "The answer is", else the first capital.

    Capitals have to stand alone. A capital A that begins a sentence and is a word of the language
    there ("A resposta é C", "A careful reading ...") names nothing. Letters of other alphabets that
    look the same count only before punctuation: in Russian "В" begins many a sentence. `language`
    is a BCP-47 tag.

    Example:
        >>> letter_in("A careful reading shows C", "en"), letter_in("A because", "en")
        ('C', 'A')
    """
    text = _FULL_WIDTH.sub(lambda match: chr(ord(match[0]) - 0xFEE0), text)
    start = _START.match(text)
    if start is not None:
        return str(start[1].translate(_LOOK_ALIKES).upper())
    text = text.split("\n\n")[0]
    for stated in _before_answers(language.split("-")[0]).finditer(text):
        if match := _ALONE.match(text, stated.end()):  # whatever "Vitamin C" stands before it
            return str(match[0])
    for match in _ALONE.finditer(text):
        if match[0] != "A" or not _is_word(text, match.start(), language.split("-")[0]):
            return str(match[0])
    look_alike = _LOOK_ALIKE.search(text)
    return None if look_alike is None else str(look_alike[0].translate(_LOOK_ALIKES))


@functools.cache
def _before_answers(language: str) -> "regex.Pattern[str]":
    """What stands before an answer, in a language and in English: "The answer is", "Answer:"."""
    phrases = [*ANSWER_PHRASES.get(language, ()), *ANSWER_PHRASES["en"], "answer:"]
    if language in LABELS:
        phrases.append(f"{LABELS[language].answer}:")
    words = "|".join(regex.escape(phrase.strip()) for phrase in phrases)
    return regex.compile(rf"(?:{words})[\s:*_(\[\"“«„]*", regex.IGNORECASE)


def _is_word(text: str, place: int, language: str) -> bool:
    """Whether the capital A at a place is a word of the text's language, or of English."""
    follows = _NEXT_WORD.match(text, place + 1)
    if follows is None or (language not in WORDS_AFTER_OPTION_A and not _ENGLISH.search(text)):
        return False
    word, before = follows[1], text[max(0, place - 40) : place]
    if _IN_CAPITALS.search(before) and len(word) > 1 and word.isupper():
        return True
    of_option = " ".join(WORDS_AFTER_OPTION_A.get(tag, "") for tag in ("en", language)).split()
    return bool(_BEFORE_A_SENTENCE.search(before)) and word.casefold() not in of_option
