"""What the tokens of a tokenizer spell, in bytes: the common language of two vocabularies."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase
from transformers.convert_slow_tokenizer import bytes_to_unicode

from lm_eval_specfair.decoding.loading import PROBES
from lm_eval_specfair.errors import ConfigError

ROLES = ("eos", "bos", "pad", "unk")
"""A token with several of these roles has the first: one that ends texts and pads, ends texts."""

_BYTE_OF = {character: byte for byte, character in bytes_to_unicode().items()}
_BYTE_TOKEN = re.compile("<0x([0-9A-F]{2})>")
_LOWER_ONE_EIGHTH_BLOCK = "\u2581"  # SentencePiece's mark of a space


@dataclass(frozen=True, slots=True)
class Spelling:
    """The tokens of a tokenizer as bytes.

    Attributes:
        pieces: Bytes of each id; None for special tokens and for ids without a token.
        fallbacks: Ids that stand for one byte of characters without a token (`<0x41>`); where an
            ordinary token spells the same byte, texts hold that one.
        roles: Special tokens by what they do, of `ROLES`; absent where there is none.
        markers: Special tokens without such a role, by their text (`<|im_start|>`).
        adds_space: Whether a text is encoded as if a space stood before it.
    """

    pieces: Sequence[bytes | None]
    fallbacks: frozenset[int]
    roles: Mapping[str, int]
    markers: Mapping[str, int]
    adds_space: bool

    def piece(self, token: int) -> bytes | None:
        """Bytes of a token; None for ids beyond the last one, too, which pad a vocabulary."""
        return self.pieces[token] if token < len(self.pieces) else None

    def by_bytes(self, vocab_size: int) -> dict[bytes, int]:
        """The token that spells some bytes, of those with a score; ordinary ones before others."""
        found: dict[bytes, int] = {}
        for is_fallback in (False, True):
            for token, piece in enumerate(self.pieces[:vocab_size]):
                if piece and (token in self.fallbacks) == is_fallback:
                    found.setdefault(piece, token)
        return found


def _byte_level(token: str) -> bytes | None:
    """GPT-2's alphabet: a visible character for each byte."""
    try:
        return bytes(_BYTE_OF[character] for character in token)
    except KeyError:
        return None


def _metaspace(token: str) -> bytes | None:
    """SentencePiece: a block for each space, and tokens for single bytes."""
    if match := _BYTE_TOKEN.fullmatch(token):
        return bytes([int(match[1], 16)])
    return token.replace(_LOWER_ONE_EIGHTH_BLOCK, " ").encode()


def _literal(token: str) -> bytes | None:
    return token.encode()


_ALPHABETS: tuple[Callable[[str], bytes | None], ...] = (_byte_level, _metaspace, _literal)


def spelling(tokenizer: PreTrainedTokenizerBase, whose: str) -> Spelling:
    """Read a tokenizer; the alphabet of its tokens is the one in which they spell sample texts.

    Args:
        tokenizer: Of any kind.
        whose: Names it in messages, such as `drafter 'x'`.

    Raises:
        ConfigError: If its tokens do not spell texts (WordPiece drops spaces, for one).
    """
    vocabulary = tokenizer.get_vocab()
    special = {int(token) for token in tokenizer.all_special_ids}
    added: dict[int, str] = {}
    for token, one in tokenizer.added_tokens_decoder.items():
        added[token] = one.content
        if one.special:
            special.add(token)
    for alphabet in _ALPHABETS:
        pieces: list[bytes | None] = [None] * (max(vocabulary.values(), default=-1) + 1)
        for text, token in vocabulary.items():
            if token not in special:
                pieces[token] = added[token].encode() if token in added else alphabet(text)
        adds_space = _spells_samples(tokenizer, pieces)
        if adds_space is not None:
            break
    else:
        raise ConfigError(
            f"{whose}: its tokenizer's tokens do not spell texts byte for byte (WordPiece drops "
            "spaces, for one), so they cannot be matched with another tokenizer's. Pick a pair "
            "whose tokenizers are BPE or Unigram, or drafter=prompt_lookup, which needs none."
        )
    roles: dict[str, int] = {}
    for role in ROLES:
        token = getattr(tokenizer, f"{role}_token_id", None)
        if token is not None and token not in roles.values():
            roles[role] = int(token)
    names = {token: text for text, token in vocabulary.items()} | added
    return Spelling(
        pieces=pieces,
        fallbacks=frozenset(
            token
            for text, token in vocabulary.items()
            if alphabet is _metaspace and _BYTE_TOKEN.fullmatch(text)
        ),
        roles=roles,
        markers={names[token]: token for token in sorted(special - set(roles.values()))},
        adds_space=adds_space,
    )


def _spells_samples(
    tokenizer: PreTrainedTokenizerBase, pieces: Sequence[bytes | None]
) -> bool | None:
    """Whether a space is added before a text; None where no sample text is spelled by its tokens.

    A small vocabulary lacks whole scripts, so one sample is enough.
    """
    for text in ("a b", "the of and", *PROBES):
        tokens = tokenizer.encode(text, add_special_tokens=False)
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
