"""The option, A to D, that an answer names, in any language. No scoring."""

import functools
import itertools
import unicodedata
from dataclasses import dataclass

import regex

from lm_eval_specfair.harness.suites.words import (
    ANSWER_PHRASES,
    LABELS,
    OPTION_WORDS,
    WORDS_AFTER_OPTION_A,
)

# Full-width, bold and other mathematical letters; circled, squared and bracketed ones.
_STYLED = regex.compile(r"[Ａ-Ｄａ-ｄ（）．：\U0001d400-\U0001d6a3]")
_CIRCLED = regex.compile("[Ⓐ-Ⓓⓐ-ⓓ⒜-⒟🄐-🄓🄰-🄳🅐-🅓🅰-🅳]")
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
_REASONS = "|".join(" ".join(WORDS_AFTER_OPTION_A.values()).split())
_LABEL = regex.compile(
    rf"\s*[)*\]]*:[\W_]*([{_ANY_LETTER}])(?!\.\p{{L}}\.)(?=\W*(?:$|\n)|\s*[.,;)\]*–—]|\s+(?:{_REASONS})\b)"
)
# After "The answer is" a small letter counts too, where the sentence ends with it.
_STATED = regex.compile(
    rf"{_ALONE.pattern}|{_LOOK_ALIKE.pattern}"
    r"|[abcd](?=[)\]*_\"”»]*(?:\s*(?:$|\n)|\.[)\]*_\"”»]*(?:\s*(?:$|\n)|\s+\p{Lu})))"
)
_GAP = r"[\s*_(\[\"“«„:–—-]*"
_UNSPACED = regex.compile(
    r"[\p{Han}\p{Hira}\p{Kana}\p{Hangul}\p{Thai}\p{Lao}\p{Khmr}\p{Mymr}\p{Tibt}、]"
)
_NEAR = 60  # characters before a letter that may speak of it

# A capital A is the word only where a sentence begins and another word follows.
_BEFORE_A_SENTENCE = regex.compile(r"(?:^|[.!?…:;。！？।۔؟\n][\s*_]*|[\"“«„‘(][*_]*)[\s*_]*$")
_NEXT_WORD = regex.compile(r"[\s\"“«„‘*_]+(\p{Latin}[\p{Latin}\p{M}'’]*)")
_IN_CAPITALS = regex.compile(r"\p{Lu}{2,}\s+$")
_ENGLISH = regex.compile(r"\b(?:the|of|that|which)\b", regex.IGNORECASE)


def letter_in(text: str, language: str) -> str | None:
    """The option that a text names: at its start, after "The answer is", by "correct", else alone.

    Capitals have to stand alone. A capital A that begins a sentence and is a word of the language
    there ("A resposta é C", "A careful reading ...") names nothing, nor does a denied letter ("Not
    A", "A is wrong"), nor two that are left of several ("Not A: B or C"). Letters of other
    alphabets that look the same count only before punctuation: in Russian "В" begins many a
    sentence. `language` is a BCP-47 tag.

    Example:
        >>> letter_in("A careful reading shows C", "en"), letter_in("A because", "en")
        ('C', 'A')
        >>> letter_in("A: C", "en"), letter_in("Neither A nor B: C", "en")
        ('C', 'C')
    """
    text = _STYLED.sub(lambda match: unicodedata.normalize("NFKC", match[0]), text)
    text = _CIRCLED.sub(lambda match: f"({_letter_of(match[0])})", text).replace("’", "'")
    words = _words_around(language.split("-")[0])
    start = _START.match(text)
    if start is not None and (label := _LABEL.match(text, start.end())):
        option = _letter(label[1])
        if option != _letter(start[1]):  # "A: C" is short for "Answer: C"; "B: C" is either
            return option if start[1] in "Aa" else None
    if start is not None and not words.denied_after.match(text, start.end(1)):
        return _letter(start[1])
    text = text.split("\n\n")[0]
    named = _named(text, language.split("-")[0])
    denied = _denied(text, named, words)
    left = [place for place in named if place not in denied]
    stated = [
        match
        for phrase in _before_answers(language.split("-")[0]).finditer(text)
        if (match := _STATED.match(text, phrase.end())) and match.start() not in denied
    ]
    if stated:  # whatever "Vitamin C" stands before it
        return _letter(stated[-1][0])
    if right := [place for place in left if _is_right(text, place, words)]:
        return _letter(text[right[-1]])
    options = [_letter(text[place]) for place in left]
    if len(set(options)) > 1 and (denied or _joined(text, left[0], left[1], words)):
        return None
    return options[0] if options else None


def _letter(shown: str) -> str:
    return shown.translate(_LOOK_ALIKES).upper()


def _letter_of(circled: str) -> str:
    return unicodedata.name(circled)[-1]


def _named(text: str, language: str) -> list[int]:
    """Where options' capitals stand alone, or else where letters that look like them do."""
    alone = [match.start() for match in _ALONE.finditer(text)]
    words = _words_around(language)
    named = []
    for at, following in itertools.zip_longest(alone, alone[1:]):
        beside = following is not None and words.beside.fullmatch(text, at + 1, following)
        if text[at] != "A" or beside or not _is_word(text, at, language):
            named.append(at)
    return named or [match.start() for match in _LOOK_ALIKE.finditer(text)]


# ------------------------------------------------------------------ what is said of a letter


@dataclass(frozen=True, kw_only=True, slots=True)
class _WordsAround:
    """Patterns of what stands around a letter; those before it end at the letter."""

    denied_before: "regex.Pattern[str]"
    denied_after: "regex.Pattern[str]"
    right_before: "regex.Pattern[str]"
    right_after: "regex.Pattern[str]"
    joins: "regex.Pattern[str]"
    beside: "regex.Pattern[str]"


@functools.cache
def _words_around(language: str) -> _WordsAround:
    def any_of(kind: str) -> str:
        tables = [
            OPTION_WORDS[tag] for tag in dict.fromkeys((language, "en")) if tag in OPTION_WORDS
        ]
        found = {word for table in tables for word in table.get(kind, "").split("|") if word}
        return "|".join(map(_as_word, sorted(found, key=lambda word: (-len(word), word))))

    def between_letters(words: str) -> "regex.Pattern[str]":
        marks = r"[)\]*_\"”»」]*\s*", r"[\s(\[*_\"“«]*"
        return regex.compile(rf"{marks[0]}(?:{words}){marks[1]}", regex.IGNORECASE)

    between = rf"(?:(?:{any_of('between')}){_GAP}){{0,5}}"
    some_between = between.replace("{0,5}", "{1,5}")
    near = rf"{_GAP}(?:(?![ABCD]\b)[\p{{L}}\p{{M}}']++{_GAP}){{0,3}}"
    deny, right = any_of("not_before"), any_of("correct")
    return _WordsAround(
        denied_before=regex.compile(rf"(?:{deny}){_GAP}{between}$", regex.IGNORECASE),
        # "B) False" and "B: Not so" are options with their text, "B is false" is none.
        denied_after=regex.compile(
            rf"(?:[*_\"”»」]*[^\S\n]*{between}|[)\]*_\"”»」]+[^\S\n]*(?=\p{{L}}){some_between})"
            rf"(?-i:(?!\p{{Lu}}))(?:{any_of('not_after')})(?!\s*[(*\"]*[ABCD]\b)",
            regex.IGNORECASE,
        ),
        right_before=regex.compile(
            rf"(?<!(?:{deny}|{any_of('not_after')}){_GAP})(?:{right})(?:{_GAP}|:){near}$",
            regex.IGNORECASE,
        ),
        right_after=regex.compile(rf"[)\]*_\"”»」]*{_GAP}{between}(?:{right})", regex.IGNORECASE),
        joins=between_letters(f"{any_of('or')}|/|&"),
        beside=between_letters(f"{any_of('or')}|{deny}|/|&"),
    )


def _as_word(word: str) -> str:
    """A word's pattern; scripts that write no spaces have no ends of words."""
    escaped = regex.escape(word)
    if _UNSPACED.search(word):
        return escaped
    return rf"(?<![\p{{L}}\p{{M}}'])(?:{escaped})(?![\p{{L}}\p{{M}}])"


def _denied(text: str, named: list[int], words: _WordsAround) -> set[int]:
    """The places of letters that a text denies, with those that an "or" joins to them."""
    denied = {
        at
        for at in named
        if words.denied_before.search(text[max(0, at - _NEAR) : at])
        or words.denied_after.match(text, at + 1)
    }
    pairs = [pair for pair in itertools.pairwise(named) if _joined(text, *pair, words)]
    for one, other in [*pairs, *((b, a) for a, b in reversed(pairs))]:
        if one in denied:
            denied.add(other)
    return denied


def _joined(text: str, one: int, other: int, words: _WordsAround) -> bool:
    return words.joins.fullmatch(text, one + 1, other) is not None


def _is_right(text: str, place: int, words: _WordsAround) -> bool:
    before = text[max(0, place - _NEAR) : place]
    return bool(words.right_before.search(before) or words.right_after.match(text, place + 1))


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
