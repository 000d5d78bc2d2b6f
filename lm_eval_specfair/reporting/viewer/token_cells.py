"""The cells of a text: runs of whole characters that the same tokens are behind.

A character of several bytes, a letter with its vowel signs, or a conjunct may be made of several
tokens, and a token may end inside the next character. Bytes are joined before anything is marked,
and what a reader sees as one character is never cut: its cell names all tokens that have a part in
it, and shows the fates of all of them.
"""

import bisect
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import regex

from lm_eval_specfair.records.texts.token_pieces import TokenPieces

_CLUSTER = regex.compile(r"\X")
_LINKS = 9  # the combining class of signs that join two letters (virama, coeng)


@dataclass(frozen=True, slots=True)
class TokenCell:
    r"""A part of a text.

    Attributes:
        text: Whole characters; bytes of no character as `\xe2`, special tokens by name.
        first: The first token that has a part in it, by its place in the text.
        last: The last one.
        is_text: Whether it is text, not a special token, stray bytes or an unknown id.
    """

    text: str
    first: int
    last: int
    is_text: bool = True


def cells_of(tokens: Sequence[int], pieces: TokenPieces) -> list[TokenCell]:
    """The cells of some tokens that follow one another; each token is in one at least."""
    cells: list[TokenCell] = []
    run: list[bytes] = []
    for place, token in enumerate(tokens):
        piece = pieces.spelled.get(token)
        if piece is not None:
            run.append(piece)
            continue
        cells += _cells_of_text(run, place - len(run))
        run = []
        cells.append(TokenCell(pieces.special.get(token, f"#{token}"), place, place, is_text=False))
    return cells + list(_cells_of_text(run, len(tokens) - len(run)))


def _cells_of_text(pieces: Sequence[bytes], begin: int) -> Iterator[TokenCell]:
    """Cut wherever other tokens have a part in the next cluster."""
    if not pieces:
        return
    ends, place = [], 0
    for piece in pieces:
        place += len(piece)
        ends.append(place)
    text, is_text, first, last, start, covered = "", True, 0, -1, 0, -1
    for end, part, is_whole in _clusters(b"".join(pieces)):
        # The tokens that end after its first byte, up to the one that has its last.
        own = bisect.bisect_right(ends, start), bisect.bisect_left(ends, end)
        if text and (own, is_whole) != ((first, last), is_text):
            yield TokenCell(text, begin + min(first, covered + 1), begin + last, is_text)
            covered, text = last, ""
        first, last, is_text, start = *own, is_whole, end
        text += part
    # Tokens of no bytes at the end belong to what is before them.
    yield TokenCell(text, begin + min(first, covered + 1), begin + len(pieces) - 1, is_text)


def _clusters(data: bytes) -> Iterator[tuple[int, str, bool]]:
    """Where each cluster ends, in bytes, its text, and whether its bytes are characters."""
    place = 0
    for text, size in _decoded(data):
        if size:  # bytes of no character
            place += size
            yield place, text, False
            continue
        for cluster in _linked(_CLUSTER.findall(text)):
            place += len(cluster.encode())
            yield place, cluster, True


def _linked(clusters: Iterable[str]) -> Iterator[str]:
    """With the letter that a virama or coeng joins to the one before it."""
    held = ""
    for cluster in clusters:
        joins = held and unicodedata.combining(held[-1]) == _LINKS and cluster[0].isalpha()
        if held and not joins:
            yield held
            held = ""
        held += cluster
    if held:
        yield held


def _decoded(data: bytes) -> Iterator[tuple[str, int]]:
    """Text with 0, and bytes of no character with their number."""
    while data:
        try:
            yield data.decode(), 0
            return
        except UnicodeDecodeError as error:
            if error.start:
                yield data[: error.start].decode(), 0
            for byte in data[error.start : error.end]:
                yield f"\\x{byte:02x}", 1
            data = data[error.end :]
