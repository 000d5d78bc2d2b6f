"""Drafters with a tokenizer of their own: through the shared tokens, or through text.

Both read the kept text in their own tokens (`OwnContext`). After each step the drafter's cache is
rolled back to where these differ from what it has read: its drafts may have been rejected, and kept
ones may be split otherwise once more text follows.

Source:
    Timor et al. 2025, "Accelerating LLM inference with lossless speculative decoding algorithms for
    heterogeneous vocabularies" (arXiv:2502.05202): token-level intersection (algorithm 4), and
    string matching as in transformers' universal assisted generation.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from lm_eval_specfair.config import DecodeConfig
from lm_eval_specfair.decoding.drafters import Draft, ModelDrafter, no_draft
from lm_eval_specfair.decoding.models import CausalModel
from lm_eval_specfair.decoding.vocabularies.own_context import OwnContext, Translation
from lm_eval_specfair.decoding.vocabularies.vocabulary_map import VocabularyMap
from lm_eval_specfair.records.texts.piece_alphabets import num_added_spaces

_MOST_OWN_TOKENS = 4
"""Own tokens read for one of the target's, at most, when drafting through text."""
_TAIL = 8
"""Kept tokens that a drafted text is encoded after, so that it is split as the target would."""
_GREEDY = DecodeConfig()


def _num_equal(one: Sequence[int], other: Sequence[int]) -> int:
    """Length of the common beginning."""
    pairs = zip(one, other, strict=False)
    return next((n for n, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))


class ForeignDrafter(ModelDrafter):
    """What drafters with another tokenizer share: rows read in the drafter's own tokens."""

    def __init__(self, model: CausalModel, *, vocab_size: int, translation: Translation) -> None:
        super().__init__(model, vocab_size=vocab_size)
        self._own_length = model.max_length
        # Rows have other lengths here than in the target's tokens: each one's end is seen to here.
        self.max_length = 1 << 30
        self._translation = translation
        self._contexts: dict[int, OwnContext] = {}
        self._read: dict[int, list[int]] = {}  # what the cache has of each row

    def admit(self, rows: list[int], prompts: list[list[int]]) -> None:
        for row, prompt in zip(rows, prompts, strict=True):
            self._contexts[row] = OwnContext(self._translation)
            tokens = self._contexts[row].extended(prompt)
            self._read[row] = tokens[:-1] if len(tokens) <= self._own_length else []
        self._model.read_prompts(rows, [self._read[row] for row in rows])

    def _draft_own(
        self,
        texts: Sequence[list[int]],
        lengths: list[int],
        config: DecodeConfig,
        uniforms: Tensor | None,
    ) -> Draft:
        """Draft after these tokens of the drafter's, from what the cache has of them already."""
        read_lengths = self._model.cache.lengths
        if max(lengths) == 0:
            return no_draft(len(lengths), self._model.device)
        unread = []
        for row, tokens in enumerate(texts):
            # The last token is read again where all are known: its scores are needed.
            known = min(_num_equal(self._read[row], tokens), len(tokens) - 1)
            self._read[row] = tokens[:known]
            read_lengths[row] = known
            unread.append(tokens[known:] if lengths[row] else tokens[-1:])
        # Recurrent states are kept here; where a text is split otherwise further back, a row of
        # theirs is read again.
        self._model.cache.settle()
        draft = self._continue(unread, lengths, config, uniforms)
        last = max(lengths) - 1  # the last drafted token was not read
        own = self._to_own(draft.tokens[:, :last]).tolist()
        for row, tokens in enumerate(texts):
            if lengths[row]:
                self._read[row] = tokens + own[row]
            read_lengths[row] = len(self._read[row])
        return draft

    def _room(self, tokens: list[int]) -> int:
        """Tokens that can be drafted after these."""
        return max(0, self._own_length - len(tokens))

    def rolled_back(self, num_accepted: list[int]) -> None:
        """Nothing yet: the next proposal compares what was read with what was kept."""

    def move(self, source: int, destination: int) -> None:
        super().move(source, destination)
        self._contexts[destination] = self._contexts[source]
        self._read[destination] = self._read[source]

    def reset(self) -> None:
        super().reset()
        self._contexts, self._read = {}, {}


class IntersectionDrafter(ForeignDrafter):
    """Drafts tokens that both vocabularies have; q is the drafter's, renormalised on them."""

    def __init__(
        self, model: CausalModel, *, vocabulary: VocabularyMap, translation: Translation
    ) -> None:
        super().__init__(model, vocab_size=vocabulary.target_size, translation=translation)
        self._map = vocabulary.to(model.device)

    def propose(
        self,
        histories: Sequence[list[int]],
        lengths: list[int],
        config: DecodeConfig,
        uniforms: Tensor | None,
    ) -> Draft:
        """Draft one token after the other, each drawn from (or the best of) q."""
        texts = [self._contexts[row].extended(tokens) for row, tokens in enumerate(histories)]
        wanted = [min(n, self._room(tokens)) for n, tokens in zip(lengths, texts, strict=True)]
        return self._draft_own(texts, wanted, config, uniforms)

    def _to_target(self, scores: Tensor) -> Tensor:
        return self._map.to_target(scores)

    def _to_own(self, tokens: Tensor) -> Tensor:
        return self._map.to_drafter(tokens)


class TextDrafter(ForeignDrafter):
    """Continues the text greedily in its own tokens, and drafts that text's tokens.

    There is no distribution over the target's tokens, so all of q is on the drafted token, as for
    prompt lookup; the text has the target's law whatever is drafted.
    """

    def __init__(
        self,
        model: CausalModel,
        *,
        vocab_size: int,
        translation: Translation,
        encode: Callable[[str], list[int]],
    ) -> None:
        """Draft through text; `encode` is the target's tokenizer, without special tokens."""
        super().__init__(model, vocab_size=vocab_size, translation=translation)
        self._encode = encode
        drafter = translation.drafter
        self._eos = drafter.roles.get("eos", -1)
        can_be_said = [
            bool(drafter.piece(token)) or token == self._eos for token in range(model.vocab_size)
        ]
        self._cannot_be_said = ~torch.tensor(can_be_said, device=model.device)

    def propose(
        self,
        histories: Sequence[list[int]],
        lengths: list[int],
        config: DecodeConfig,
        uniforms: Tensor | None,
    ) -> Draft:
        """Draft the tokens of the text that the drafter continues with."""
        texts = [self._contexts[row].extended(tokens) for row, tokens in enumerate(histories)]
        own = [
            min(self._room(text), math.ceil(wanted * self._own_per_token(text, history)))
            for text, history, wanted in zip(texts, histories, lengths, strict=True)
        ]
        said = self._draft_own(texts, own, _GREEDY, None).tokens.tolist()
        drafts = [
            self._in_target_tokens(history, said[row][: own[row]])[:wanted]
            for row, (history, wanted) in enumerate(zip(histories, lengths, strict=True))
        ]
        width = max(len(tokens) for tokens in drafts)
        padded = [tokens + [0] * (width - len(tokens)) for tokens in drafts]
        block = torch.tensor(padded, dtype=torch.long, device=self._model.device)
        return Draft(block.reshape(len(drafts), width), [len(tokens) for tokens in drafts], None)

    @staticmethod
    def _own_per_token(own: list[int], history: list[int]) -> float:
        return min(_MOST_OWN_TOKENS, len(own) / len(history))

    def _to_target(self, scores: Tensor) -> Tensor:
        """The drafter's own scores: what they choose is turned into text afterwards."""
        own = scores[..., : len(self._cannot_be_said)]
        return own.masked_fill(self._cannot_be_said[: own.shape[-1]], -torch.inf)

    def _in_target_tokens(self, history: list[int], own: list[int]) -> list[int]:
        """A continuation in the target's tokens, as these split it after the kept text."""
        drafter, target = self._translation.drafter, self._translation.target
        ends = self._eos in own
        pieces = [drafter.piece(token) or b"" for token in own]
        said = b"".join(pieces[: own.index(self._eos)] if ends else pieces)
        tokens = self._after(history, said)
        # What the target lacks would have to be drafted as something else.
        spelled = [target.piece(token) for token in tokens]
        if None in spelled or not said.startswith(b"".join(piece or b"" for piece in spelled)):
            return []
        if ends and "eos" in target.roles:
            tokens.append(target.roles["eos"])
        return tokens

    def _after(self, history: list[int], said: bytes) -> list[int]:
        """The target's tokens of what was said, as its tokenizer splits them in this place."""
        target = self._translation.target
        tail = b""
        for token in reversed(history[-_TAIL:]):
            piece = target.piece(token)
            if piece is None:
                break
            tail = piece + tail
        # A text begins and ends with whole characters.
        whole = next((n for n, byte in enumerate(tail) if byte & 0xC0 != 0x80), len(tail))
        tail = tail[whole:]
        text = (tail + said).decode("utf-8", errors="ignore")
        tokens = self._encode(text) if text else []
        pieces = [target.piece(token) or b"" for token in tokens]
        added = num_added_spaces(b"".join(pieces), text.encode())
        if added is not None:
            place = -added
            for number, piece in enumerate(pieces):
                if place == len(tail):
                    return tokens[number:]
                place += len(piece)
        # The last kept token would be another, had all been encoded together.
        text = said.decode("utf-8", errors="ignore")
        if target.adds_space:
            if not text.startswith(" "):
                return []
            text = text[1:]
        return self._encode(text) if text else []
