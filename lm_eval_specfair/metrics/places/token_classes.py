"""What kind of token an id is: how it spells, and in which script."""

import unicodedata
from collections.abc import Mapping

import regex

KINDS = (
    "word start", "inside a word", "digits", "punctuation and signs", "white space",
    "part of a character", "special token", "unknown",
)  # fmt: skip
_WORD = regex.compile(r"\s*[\p{L}\p{M}]")
_SCRIPTS = {
    code: regex.compile(rf"\p{{Script={code}}}")
    for code in (
        "Latn", "Cyrl", "Grek", "Arab", "Hebr", "Deva", "Beng", "Taml", "Telu", "Knda", "Mlym",
        "Gujr", "Guru", "Orya", "Sinh", "Thai", "Laoo", "Khmr", "Mymr", "Tibt", "Ethi", "Geor",
        "Armn", "Hira", "Kana", "Hani", "Hang", "Mong",
    )
}  # fmt: skip
NO_SCRIPT = ""
"""Of what has no letters; `Zzzz` is another script than those told apart."""


def kind_and_script(piece: bytes | None, *, is_special: bool = False) -> tuple[str, str]:
    """One of `KINDS`, and the script of a token's letters as ISO 15924 has it, or `NO_SCRIPT`.

    A word starts where a piece begins with a space, and in scripts that put none between words
    nowhere: there every piece of letters is inside one. Letters decide before digits and signs.

    Example:
        >>> kind_and_script(b" the"), kind_and_script(b"ing"), kind_and_script(b"12")
        (('word start', 'Latn'), ('inside a word', 'Latn'), ('digits', ''))
        >>> kind_and_script(bytes([0xE3, 0x81])), kind_and_script(b" ")
        (('part of a character', ''), ('white space', ''))
    """
    if is_special:
        return "special token", NO_SCRIPT
    if piece is None:
        return "unknown", NO_SCRIPT
    try:
        text = piece.decode()
    except UnicodeDecodeError:
        return "part of a character", NO_SCRIPT
    if not text.strip():
        return "white space", NO_SCRIPT
    letters = [each for each in text if unicodedata.category(each)[0] in "LM"]
    if letters:
        starts = text[0].isspace() and _WORD.match(text) is not None
        return "word start" if starts else "inside a word", _script(letters[0])
    is_digits = any(unicodedata.category(each)[0] == "N" for each in text)
    return "digits" if is_digits else "punctuation and signs", NO_SCRIPT


def _script(letter: str) -> str:
    return next((code for code, found in _SCRIPTS.items() if found.match(letter)), "Zzzz")


def classes_of(
    spelled: Mapping[int, bytes], special: Mapping[int, str]
) -> dict[int, tuple[str, str]]:
    """Kind and script of each token id."""
    found = {token: kind_and_script(piece) for token, piece in spelled.items()}
    return found | {token: kind_and_script(None, is_special=True) for token in special}
