"""A row's text in a drafter's own tokens, kept up to date as the target's tokens are kept.

The drafter reads the text as its own tokenizer splits it. What is older than some hundred bytes
keeps its tokens, so that a step costs the same wherever the text ends: the one approximation, at
the start of a word where there are words. No draft has to be right, so texts do not depend on it.
"""

import codecs
from collections.abc import Callable, Sequence

from transformers import PreTrainedTokenizerBase

from lm_eval_specfair.decoding.vocabularies.token_bytes import ROLES, Spelling
from lm_eval_specfair.records.texts.piece_alphabets import num_added_spaces

LONGEST_OPEN = 1024
"""Bytes that are encoded anew in each step, at most, where the text has words."""


def text_encoder(
    tokenizer: PreTrainedTokenizerBase,
) -> Callable[[str], list[int]]:
    """Text to ids, without special tokens around it."""

    def encode(text: str) -> list[int]:
        return [
            int(token) for token in tokenizer.encode(text, add_special_tokens=False, verbose=False)
        ]

    return encode


def opening(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Special tokens that a tokenizer puts before a text (its BOS, mostly)."""
    bare = tokenizer.encode("a", add_special_tokens=False)
    whole = [int(token) for token in tokenizer.encode("a")]
    for start in range(len(whole)):
        if bare and whole[start : start + len(bare)] == bare:
            return whole[:start]
    return []


def is_word_start(text: bytes | bytearray, place: int) -> bool:
    """Whether a word begins here after one space, which tokenizers keep together with it."""
    return (
        0 < place < len(text) - 1
        and text[place] == 0x20
        and not text[place - 1 : place].isspace()
        and not text[place + 1 : place + 2].isspace()
    )


class Translation:
    """How the target's kept tokens become the drafter's."""

    def __init__(
        self,
        target: Spelling,
        drafter: Spelling,
        encode: Callable[[str], list[int]],
        opening: Sequence[int] = (),
    ) -> None:
        """Translate between two spellings.

        Args:
            target: What the target's tokens spell.
            drafter: What the drafter's spell.
            encode: The drafter's tokenizer, without special tokens.
            opening: The drafter's special tokens before a text.
        """
        self.target, self.drafter, self.opening = target, drafter, list(opening)
        self._encode = encode
        by_bytes = drafter.by_bytes(len(drafter.pieces))
        self._byte_tokens = {key[0]: token for key, token in by_bytes.items() if len(key) == 1}
        # A marker that the drafter lacks is read as text; a BOS of the target's is left out, since
        # the drafter's own opens the text.
        self._specials: dict[int, int | bytes] = {
            token: drafter.markers.get(text, text.encode())
            for text, token in target.markers.items()
        }
        roles = target.roles, drafter.roles
        if all("eos" in each for each in roles):
            self._specials[target.roles["eos"]] = drafter.roles["eos"]
        # What is read where there is no text yet.
        self.start = next((drafter.roles[role] for role in ROLES if role in drafter.roles), 0)

    def special(self, token: int) -> int | bytes | None:
        """The drafter's token for a special one, or how it is written; None: it is left out."""
        return self._specials.get(token)

    def tokens(self, data: bytes | bytearray, *, is_inside: bool) -> list[int]:
        """The drafter's tokens of a text, which may end within a character.

        `is_inside` says that text stands before it.
        """
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        text = decoder.decode(bytes(data))
        if is_inside and self.drafter.adds_space:
            text = text.removeprefix(" ")
        cut_character = decoder.getstate()[0]
        ids = self._encode(text) if text else []
        return ids + [self._byte_tokens[b] for b in cut_character if b in self._byte_tokens]


class OwnContext:
    """One row's text in the drafter's tokens."""

    def __init__(self, translation: Translation, *, is_inside: bool = False) -> None:
        """Begin a text, or go on within one that is not at hand."""
        self._translation = translation
        self._num_seen = 0
        self._settled = [] if is_inside else list(translation.opening)
        self._open = bytearray()
        self._is_inside = is_inside  # whether settled text stands right before the open one
        self._is_stuck = False  # whether the open text cannot be cut

    def extended(self, history: Sequence[int]) -> list[int]:
        """The drafter's tokens of all of a row's kept tokens, at least one.

        Histories only grow; what comes out depends on the history alone, not on its growth.
        """
        for token in history[self._num_seen :]:
            piece = self._translation.target.piece(token)
            if piece is None:
                self._special(self._translation.special(token))
            else:
                begins = not self._open and not self._is_inside
                # The space that the target's tokenizer puts before a text is not the text's.
                adds_space = begins and self._translation.target.adds_space
                self._open += piece.removeprefix(b" ") if adds_space else piece
            while len(self._open) > LONGEST_OPEN and not self._is_stuck:
                self._settle()
        self._num_seen = len(history)
        tokens = self._settled + self._encoded(self._open)
        return tokens or [self._translation.start]

    def _encoded(self, data: bytes | bytearray) -> list[int]:
        return self._translation.tokens(data, is_inside=self._is_inside) if data else []

    def _special(self, own: int | bytes | None) -> None:
        if isinstance(own, bytes):
            self._open += own
        elif own is not None:
            self._settled += [*self._encoded(self._open), own]
            self._open, self._is_inside, self._is_stuck = bytearray(), False, False

    def _settle(self) -> None:
        """Keep the tokens of the open text's older half, up to the start of a word."""
        head = self._open[: 3 * LONGEST_OPEN // 4]
        while head and head[-1] & 0xC0 == 0x80:  # up to a whole character
            head.pop()
        head = head[:-1]
        tokens = self._encoded(head)
        drafter = self._translation.drafter
        pieces = [drafter.piece(token) or b"" for token in tokens]
        added = num_added_spaces(b"".join(pieces), bytes(head))
        place = -(added or 0)
        words, others = (0, 0), (0, 0)
        for number, piece in enumerate(pieces, start=1):
            place += len(piece)
            if place > LONGEST_OPEN // 2:
                break
            if is_word_start(head, place):
                words = place, number
            elif place > 0 and head[place] & 0xC0 != 0x80 and not drafter.adds_space:
                others = place, number
        cut, count = words if words[0] else others
        self._is_stuck = added is None or not cut
        if not self._is_stuck:
            self._settled += tokens[:count]
            del self._open[:cut]
            self._is_inside = True
