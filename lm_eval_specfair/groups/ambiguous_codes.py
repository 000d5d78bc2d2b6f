"""Families of words that are codes of languages and of something else at once."""

import functools

import langcodes

from lm_eval_specfair.groups.language_tags import language_code, language_tag
from lm_eval_specfair.groups.languages import read_table

# Short English words, such as pronouns and exclamations; states of the US.
_OTHERS = [frozenset(row["codes"].split()) for row in read_table("ambiguous_codes.tsv")]


def are_ambiguous(words: frozenset[str]) -> bool:
    """Whether all of these codes of languages are English words, states of the US or countries too.

    Countries only where one of them speaks another language than its code says, as the United
    Kingdom does (`uk`, Ukrainian): `fr` and `de` mean French and German either way.

    Example:
        >>> families = ({"uk", "fr", "de"}, {"he", "hi", "ho"}, {"fr", "de"}, {"uk", "fr", "en"})
        >>> [are_ambiguous(frozenset(words)) for words in families]
        [True, True, False, False]
    """
    words = frozenset(word.lower() for word in words)
    if any(words <= codes for codes in _OTHERS):
        return True
    spoken = {word: _spoken_in(word) for word in words}
    return all(spoken.values()) and any(
        language_code(language_tag(word) or word) != language for word, language in spoken.items()
    )


@functools.cache
def _spoken_in(word: str) -> str | None:
    """The usual language of the country that a word is the code of; None where it is none's."""
    code = "GB" if word == "uk" else word.upper()
    if len(code) != 2 or not langcodes.tag_is_valid(f"und-{code}"):
        return None
    return langcodes.Language.make(territory=code).maximize().language
