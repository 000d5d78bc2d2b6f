"""Drafters: they see each row's kept tokens (prompt and output) and propose the next ones."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from lm_eval_specfair.config import DecodeConfig
from lm_eval_specfair.decoding.acceptance import draw, most_likely, tempered, truncated
from lm_eval_specfair.decoding.models import CausalModel


@dataclass(frozen=True, slots=True)
class Draft:
    """One step's proposals for a batch.

    Attributes:
        tokens: Shape (rows, width); padding after a row's `num_drafted`.
        num_drafted: Tokens that each row drafted.
        scores: What the tokens were chosen by, shape (rows, width, vocab): `log q` when sampling,
            unnormalised in greedy decoding; None for a drafter without distributions.
        raw_scores: The drafter's scores at its temperature, before top-k and top-p, (rows, vocab)
            for each position; kept only where top-k or top-p changes them.
    """

    tokens: Tensor
    num_drafted: list[int]
    scores: Tensor | None
    raw_scores: Sequence[Tensor] | None = None


class Drafter(Protocol):
    """Proposes tokens for the rows 0, 1, ... of a batch; one without state inherits the rest."""

    max_length: int
    """Longest row (in tokens) that it can continue."""
    states: str | None = None
    """How its recurrent states are kept, if it has any: see `CausalModel.states`."""
    feature_layers: tuple[int, ...] = ()
    """Layers of the target whose hidden states it reads: see `CausalModel.watch`."""

    def assign(self, rows: list[int], names: Sequence[str | None]) -> None:
        """Be told, before they are admitted, which drafter rows name; of interest to several."""
        return

    def admit(self, rows: list[int], prompts: list[list[int]]) -> None:
        """Start rows with these kept tokens (at least one each)."""
        return

    def read_features(self, rows: list[int], features: Sequence[Tensor]) -> None:
        """Take the target's hidden states of kept tokens, where it has `feature_layers`.

        Each row's have the shape (tokens, layers * hidden). After `admit`, of the prompts but their
        last tokens; after each step, in all rows, of the pending token and the accepted drafts.
        """
        return

    def longest(self, row: int) -> int:
        """Longest text (in tokens) of a row that can be continued."""
        return self.max_length

    def propose(
        self,
        histories: Sequence[list[int]],
        lengths: list[int],
        config: DecodeConfig,
        uniforms: Tensor | None,
    ) -> Draft:
        """Draft tokens for each row.

        Args:
            histories: Kept tokens of each row.
            lengths: Most tokens to draft for each row. After a length of 0 a row never drafts
                again: it is at the end of its length or of the drafter's.
            config: Temperatures, top-k and top-p.
            uniforms: Uniform numbers, shape (rows, at least max(lengths)); None in greedy decoding.
        """

    def rolled_back(self, num_accepted: list[int]) -> None:
        """Take note of how many of the last proposal's tokens each row kept."""
        return

    def move(self, source: int, destination: int) -> None:
        """Move a row to another row's place."""
        return

    def remove(self, row: int, last: int) -> None:
        """Forget a row; the last one takes its place."""
        if row < last:
            self.move(last, row)

    def reset(self) -> None:
        """Forget all rows."""
        return


def fit_vocabulary(scores: Tensor, vocab_size: int) -> Tensor:
    """Cut or fill the last axis to the target's vocabulary; what q lacks gets `-inf`, never 0.

    Models of one tokenizer pad their vocabularies differently; padded ids are never drafted.
    """
    missing = vocab_size - scores.shape[-1]
    if missing <= 0:
        return scores[..., :vocab_size]
    return torch.nn.functional.pad(scores, (0, missing), value=-torch.inf)


def no_draft(rows: int, device: torch.device) -> Draft:
    """A step in which no row drafts."""
    return Draft(torch.zeros((rows, 0), dtype=torch.long, device=device), [0] * rows, None)


class Chain:
    """Tokens that are drafted one after the other, each drawn from (or the best of) q."""

    def __init__(self, config: DecodeConfig, uniforms: Tensor | None) -> None:
        """With the arguments of `Drafter.propose`."""
        self._config, self._uniforms = config, uniforms
        self._tokens, self._scores, self._raw = list[Tensor](), list[Tensor](), list[Tensor]()

    def add(self, scores: Tensor) -> Tensor:
        """The next token of each row, shape (rows,), by scores over the target's vocabulary."""
        if self._uniforms is None:
            token = most_likely(scores)
        else:
            scores = tempered(scores, self._config)
            if self._config.truncates:
                self._raw.append(scores)
            scores = truncated(scores, self._config)
            token = draw(scores.exp(), self._uniforms[:, len(self._tokens)])
        self._tokens.append(token)
        self._scores.append(scores)
        return token

    def draft(self, num_drafted: list[int]) -> Draft:
        """The proposals: all of a row's tokens, or as many as it is said to have drafted."""
        tokens, scores = (torch.stack(each, 1) for each in (self._tokens, self._scores))
        return Draft(tokens, num_drafted, scores, self._raw or None)


def looked_up(drafts: Sequence[list[int]], device: torch.device) -> Draft:
    """A draft of given tokens for each row, without distributions."""
    width = max(len(tokens) for tokens in drafts)
    padded = [tokens + [0] * (width - len(tokens)) for tokens in drafts]
    block = torch.tensor(padded, dtype=torch.long, device=device)
    return Draft(block.reshape(len(drafts), width), [len(tokens) for tokens in drafts], None)


class ModelDrafter(Drafter):
    """A small causal LM with a ragged cache of its own."""

    def __init__(self, model: CausalModel, *, vocab_size: int) -> None:
        """Draft for a target whose scores have `vocab_size` entries."""
        self._model, self._vocab_size = model, vocab_size
        # Kept tokens may be ids that only the target has, without an embedding here.
        self._last_id = model.vocab_size - 1
        self._kept: list[int] = []
        self.max_length, self.states = model.max_length, model.states

    def admit(self, rows: list[int], prompts: list[list[int]]) -> None:
        """Read all prompts but their last tokens, which the next step's first pass reads."""
        texts = [prompt[:-1] if len(prompt) <= self.max_length else [] for prompt in prompts]
        self._model.read_prompts(rows, [[min(t, self._last_id) for t in text] for text in texts])

    def propose(
        self,
        histories: Sequence[list[int]],
        lengths: list[int],
        config: DecodeConfig,
        uniforms: Tensor | None,
    ) -> Draft:
        """Draft one token after the other, each drawn from (or the best of) q."""
        read_lengths = self._model.cache.lengths
        self._kept = [len(history) for history in histories]
        if max(lengths) == 0:
            return no_draft(len(lengths), self._model.device)
        # Of a row that never drafts again only the last token is read, to fill the block.
        unread = [
            history[read_lengths[row] :] if lengths[row] else history[-1:]
            for row, history in enumerate(histories)
        ]
        return self._continue(unread, lengths, config, uniforms)

    def _continue(
        self,
        unread: Sequence[list[int]],
        lengths: list[int],
        config: DecodeConfig,
        uniforms: Tensor | None,
    ) -> Draft:
        """Read the drafter's tokens that are new in each row, then draft; lengths not all 0."""
        device, read_lengths = self._model.device, self._model.cache.lengths
        width, block = max(lengths), max(len(tokens) for tokens in unread)
        padded = [tokens + [0] * (block - len(tokens)) for tokens in unread]
        last = torch.tensor([len(tokens) - 1 for tokens in unread], device=device)
        block_tokens = torch.tensor(padded, device=device).clamp(max=self._last_id)
        scores = self._model.score(block_tokens, at=last)
        for row, tokens in enumerate(unread):
            read_lengths[row] += len(tokens)

        chain = Chain(config, uniforms)
        for number in range(width):
            token = chain.add(self._to_target(scores))
            if number + 1 < width:
                scores = self._model.score(self._to_own(token)[:, None], torch.zeros_like(last))
                for row in range(len(unread)):
                    read_lengths[row] += 1
        return chain.draft(list(lengths))

    def _to_target(self, scores: Tensor) -> Tensor:
        """The drafter's scores as the target's vocabulary has them."""
        return fit_vocabulary(scores, self._vocab_size)

    def _to_own(self, tokens: Tensor) -> Tensor:
        """Drafted tokens as the drafter reads them."""
        return tokens

    def rolled_back(self, num_accepted: list[int]) -> None:
        """Keep the cache entries of kept tokens; the last drafted one was never read."""
        lengths = self._model.cache.lengths
        for row, accepted in enumerate(num_accepted):
            lengths[row] = min(lengths[row], self._kept[row] + accepted)
        self._model.cache.settle()

    def move(self, source: int, destination: int) -> None:
        self._model.cache.move(source, destination)

    def reset(self) -> None:
        self._model.reset()


class PromptLookup(Drafter):
    """Proposes what followed the latest earlier occurrence of the row's last tokens.

    Only kept tokens are indexed. Source: Saxena 2023, "Prompt Lookup Decoding".
    """

    LONGEST_NGRAM = 3
    max_length = 1 << 30

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._places: dict[int, dict[tuple[int, ...], int]] = {}
        self._indexed: dict[int, int] = {}

    def admit(self, rows: list[int], prompts: list[list[int]]) -> None:
        for row in rows:  # nothing is indexed yet: `propose` does
            self._places[row], self._indexed[row] = {}, 0

    def propose(
        self,
        histories: Sequence[list[int]],
        lengths: list[int],
        config: DecodeConfig,
        uniforms: Tensor | None,
    ) -> Draft:
        drafts = [
            self.continuation(row, tokens)[: lengths[row]] for row, tokens in enumerate(histories)
        ]
        return looked_up(drafts, self._device)

    def continuation(self, row: int, tokens: list[int]) -> list[int]:
        """What followed the longest match of a row's last tokens, the latest of several."""
        places = self._places[row]
        for end in range(self._indexed[row], len(tokens)):  # n-grams that something follows
            for size in range(1, min(self.LONGEST_NGRAM, end) + 1):
                places[tuple(tokens[end - size : end])] = end
        self._indexed[row] = len(tokens)
        for size in range(min(self.LONGEST_NGRAM, len(tokens)), 0, -1):
            match = places.get(tuple(tokens[-size:]))
            if match is not None:
                return tokens[match:]
        return []

    def move(self, source: int, destination: int) -> None:
        self._places[destination] = self._places[source]
        self._indexed[destination] = self._indexed[source]

    def reset(self) -> None:
        self._places, self._indexed = {}, {}


class NoDrafter(Drafter):
    """Drafts nothing: decoding without a drafter by the same engine, the baseline."""

    max_length = 0

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def propose(
        self,
        histories: Sequence[list[int]],
        lengths: list[int],
        config: DecodeConfig,
        uniforms: Tensor | None,
    ) -> Draft:
        return no_draft(len(histories), self._device)
