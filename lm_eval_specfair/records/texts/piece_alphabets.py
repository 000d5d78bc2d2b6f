"""The alphabets in which tokenizers write their tokens, and what each token spells in bytes."""

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

# Texts whose tokens differ as soon as merges, normalisation or pre-tokenisation do.
PROBES = (
    "The quick brown fox, 12345 times!\n\n\tdef f(x): return x",
    "Größe élève año İstanbul Việt",
    "Привет мир — це українська мова",
    "مرحبا بالعالم שלום नमस्ते বাংলা தமிழ்",
    "你好，世界。こんにちは 안녕하세요 ภาษาไทย ქართული 🙂",
)
_SAMPLES = ("a b", "the of and", *PROBES)
"""A small vocabulary lacks whole scripts, so one that is spelled is enough."""

_VISIBLE = [*range(33, 127), *range(161, 173), *range(174, 256)]
_HIDDEN = [byte for byte in range(256) if byte not in _VISIBLE]
_BYTE_OF = {chr(byte): byte for byte in _VISIBLE} | {
    chr(256 + number): byte for number, byte in enumerate(_HIDDEN)
}
_BYTE_TOKEN = re.compile("<0x([0-9A-F]{2})>")
_LOWER_ONE_EIGHTH_BLOCK = "\u2581"  # SentencePiece's mark of a space


@dataclass(frozen=True, kw_only=True, slots=True)
class SpelledTokens:
    """The tokens of a tokenizer as bytes.

    Attributes:
        pieces: Bytes of each id; None for special tokens and for ids without a token.
        fallbacks: Ids that stand for one byte of characters without a token (`<0x41>`).
        adds_space: Whether a text is encoded as if a space stood before it.
    """

    pieces: Sequence[bytes | None]
    fallbacks: frozenset[int]
    adds_space: bool


def byte_level(token: str) -> bytes | None:
    r"""GPT-2's alphabet: a visible character for each byte; None for a token with others.

    Example:
        >>> byte_level("Ġthe"), byte_level("à¸")
        (b' the', b'\xe0\xb8')
    """
    try:
        return bytes(_BYTE_OF[character] for character in token)
    except KeyError:
        return None


def metaspace(token: str) -> bytes | None:
    """SentencePiece: a block for each space, and tokens for single bytes."""
    if match := _BYTE_TOKEN.fullmatch(token):
        return bytes([int(match[1], 16)])
    return token.replace(_LOWER_ONE_EIGHTH_BLOCK, " ").encode()


def literal(token: str) -> bytes | None:
    """Tokens that are what they are written as."""
    return token.encode()


_ALPHABETS: tuple[Callable[[str], bytes | None], ...] = (byte_level, metaspace, literal)


def spelled_tokens(
    vocabulary: Mapping[str, int],
    *,
    added: Mapping[int, str],
    special: Collection[int],
    encode: Callable[[str], Sequence[int]],
) -> SpelledTokens | None:
    """What a vocabulary's tokens spell, in the alphabet in which they spell sample texts.

    Args:
        vocabulary: Ids by token, as the tokenizer writes them.
        added: Texts of tokens that were added to it, by id.
        special: Ids that spell nothing.
        encode: Text to ids, without special tokens around it.

    Returns:
        None where the tokens spell texts in no alphabet (WordPiece drops spaces, for one).
    """
    for alphabet in _ALPHABETS:
        pieces: list[bytes | None] = [None] * (max(vocabulary.values(), default=-1) + 1)
        for text, token in vocabulary.items():
            if token not in special:
                pieces[token] = added[token].encode() if token in added else alphabet(text)
        adds_space = _spells_samples(encode, pieces)
        if adds_space is not None:
            fallbacks = {
                token
                for text, token in vocabulary.items()
                if alphabet is metaspace and _BYTE_TOKEN.fullmatch(text)
            }
            return SpelledTokens(
                pieces=pieces, fallbacks=frozenset(fallbacks), adds_space=adds_space
            )
    return None


def _spells_samples(
    encode: Callable[[str], Sequence[int]], pieces: Sequence[bytes | None]
) -> bool | None:
    """Whether a space is added before a text; None where no sample is spelled by its tokens."""
    for text in _SAMPLES:
        tokens = encode(text)
        spelled = [pieces[token] for token in tokens]
        if tokens and None not in spelled:
            joined = b"".join(piece for piece in spelled if piece is not None)
            added = num_added_spaces(joined, text.encode())
            if added is not None:
                return added > 0
    return None


def num_added_spaces(spelled: bytes, text: bytes) -> int | None:
    """Spaces (0 or 1) that a tokenizer added before a text; None where it spells another text."""
    added = len(spelled) - len(text)
    return added if spelled in (text, b" " + text) else None
