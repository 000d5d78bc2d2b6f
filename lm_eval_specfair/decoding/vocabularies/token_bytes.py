"""What the tokens of a tokenizer spell, in bytes: the common language of two vocabularies."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.records.texts.piece_alphabets import spelled_tokens
from lm_eval_specfair.records.texts.token_pieces import TokenPieces, pieces_of_vocabulary

ROLES = ("eos", "bos", "pad", "unk")
"""A token with several of these roles has the first: one that ends texts and pads, ends texts."""


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

    def as_pieces(self) -> TokenPieces:
        """The same for a run's folder, special tokens by their names or roles."""
        special = {token: f"<{role}>" for role, token in self.roles.items()}
        special |= {token: text for text, token in self.markers.items()}
        known = {token: piece for token, piece in enumerate(self.pieces) if piece is not None}
        return TokenPieces(spelled=known, special=special)

    def by_bytes(self, vocab_size: int) -> dict[bytes, int]:
        """The token that spells some bytes, of those with a score; ordinary ones before others."""
        found: dict[bytes, int] = {}
        for is_fallback in (False, True):
            for token, piece in enumerate(self.pieces[:vocab_size]):
                if piece and (token in self.fallbacks) == is_fallback:
                    found.setdefault(piece, token)
        return found


def pieces_of(tokenizer: PreTrainedTokenizerBase) -> TokenPieces:
    """What all tokens of a tokenizer spell, for a run's folder."""
    added, special = _added(tokenizer)
    return pieces_of_vocabulary(
        tokenizer.get_vocab(),
        added=added,
        special=special,
        encode=lambda text: tokenizer.encode(text, add_special_tokens=False),
    )


def _added(tokenizer: PreTrainedTokenizerBase) -> tuple[dict[int, str], set[int]]:
    """Texts of the tokens that were added to a vocabulary, and the ids of special ones."""
    special = {int(token) for token in tokenizer.all_special_ids}
    added: dict[int, str] = {}
    for token, one in tokenizer.added_tokens_decoder.items():
        added[token] = one.content
        if one.special:
            special.add(token)
    return added, special


def spelling(tokenizer: PreTrainedTokenizerBase, whose: str) -> Spelling:
    """Read a tokenizer; the alphabet of its tokens is the one in which they spell sample texts.

    Args:
        tokenizer: Of any kind.
        whose: Names it in messages, such as `drafter 'x'`.

    Raises:
        ConfigError: If its tokens do not spell texts (WordPiece drops spaces, for one).
    """
    vocabulary = tokenizer.get_vocab()
    added, special = _added(tokenizer)
    spelled = spelled_tokens(
        vocabulary,
        added=added,
        special=special,
        encode=lambda text: tokenizer.encode(text, add_special_tokens=False),
    )
    if spelled is None:
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
        pieces=spelled.pieces,
        fallbacks=spelled.fallbacks,
        roles=roles,
        markers={names[token]: token for token in sorted(special - set(roles.values()))},
        adds_space=spelled.adds_space,
    )
