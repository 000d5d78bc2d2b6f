"""Drafters: what proposes tokens. All share one small protocol, and none changes the draft length.

A drafter sees each row's kept tokens (prompt and output) and proposes what may come next. It is
told afterwards how many of its tokens were kept.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from lm_eval_specfair.config import DecodeConfig
from lm_eval_specfair.decoding.acceptance import draw, likeliest, log_distribution
from lm_eval_specfair.decoding.models import CausalModel


@dataclass(frozen=True, slots=True)
class Draft:
    """One step's proposals for a batch.

    Attributes:
        tokens: Shape (rows, width); behind a row's `num_drafted` lies padding.
        num_drafted: Tokens that each row really drafted.
        scores: What the tokens were chosen by, shape (rows, width, vocab): `log q` when sampling,
            unnormalised in greedy decoding; None for a drafter without distributions.
    """

    tokens: Tensor
    num_drafted: list[int]
    scores: Tensor | None


class Drafter(Protocol):
    """Proposes tokens for the rows of a batch; rows are 0, 1, ... without gaps."""

    max_length: int
    """Longest row (in tokens) that it can continue."""

    def admit(self, rows: list[int], prompts: list[list[int]]) -> None:
        """Start rows with these kept tokens (at least one each)."""

    def propose(
        self,
        histories: Sequence[list[int]],
        wanted: list[int],
        config: DecodeConfig,
        uniforms: Tensor | None,
    ) -> Draft:
        """Draft up to `wanted` tokens a row.

        Args:
            histories: Kept tokens of each row.
            wanted: Most tokens to draft, a row each. A row that once wanted none never drafts
                again: it is at the end of its length or of the drafter's.
            config: Temperature, top-k and top-p.
            uniforms: Uniform numbers, shape (rows, at least max(wanted)); None in greedy decoding.
        """

    def rolled_back(self, num_accepted: list[int]) -> None:
        """Hear how many of the last proposal's tokens each row kept."""

    def move(self, source: int, destination: int) -> None:
        """Let a row take another row's place."""

    def reset(self) -> None:
        """Forget all rows."""


def fit_vocabulary(scores: Tensor, vocab_size: int) -> Tensor:
    """Cut or fill the last axis to the target's vocabulary; what q lacks gets `-inf`, never 0.

    Models of one tokenizer pad their vocabularies differently (151,936 and 152,064, say); a padded
    id is never drafted.
    """
    missing = vocab_size - scores.shape[-1]
    if missing <= 0:
        return scores[..., :vocab_size]
    return torch.nn.functional.pad(scores, (0, missing), value=-torch.inf)


class ModelDrafter:
    """A small causal LM with a ragged cache of its own."""

    def __init__(self, model: CausalModel, *, vocab_size: int) -> None:
        """Draft with a model for a target whose scores have `vocab_size` entries."""
        self._model = model
        self._vocab_size = vocab_size
        # Kept tokens may be ids that only the target has; no embedding may be looked up for them.
        self._last_id = model.vocab_size - 1
        self._drafted: list[int] = []
        self._kept: list[int] = []
        self.max_length = model.max_length

    def admit(self, rows: list[int], prompts: list[list[int]]) -> None:
        """Read all prompts but their last tokens, which the next step's first pass reads."""
        read = [prompt[:-1] if len(prompt) <= self.max_length else [] for prompt in prompts]
        self._model.read_prompts(rows, [[min(t, self._last_id) for t in text] for text in read])

    def propose(
        self,
        histories: Sequence[list[int]],
        wanted: list[int],
        config: DecodeConfig,
        uniforms: Tensor | None,
    ) -> Draft:
        """Draft one token after the other, each drawn from (or the best of) q."""
        device, lengths = self._model.device, self._model.cache.lengths
        width = max(wanted)
        self._kept = [len(history) for history in histories]
        self._drafted = wanted
        if width == 0:
            empty = torch.zeros((len(wanted), 0), dtype=torch.long, device=device)
            return Draft(empty, list(wanted), None)
        # A row that drafts nothing any more is read on from its last token, not from its start.
        unread = [
            history[lengths[row] :] if wanted[row] else history[-1:]
            for row, history in enumerate(histories)
        ]
        block = max(len(tokens) for tokens in unread)
        padded = [tokens + [0] * (block - len(tokens)) for tokens in unread]
        last = torch.tensor([len(tokens) - 1 for tokens in unread], device=device)
        read = torch.tensor(padded, device=device).clamp(max=self._last_id)
        scores = self._model.score(read, at=last)
        for row, tokens in enumerate(unread):
            lengths[row] += len(tokens)

        drafted, distributions = [], []
        only = torch.zeros_like(last)  # of blocks of one token
        for number in range(width):
            scores = fit_vocabulary(scores, self._vocab_size)
            if uniforms is None:
                token = likeliest(scores)
            else:
                scores = log_distribution(scores, config)
                token = draw(scores.exp(), uniforms[:, number])
            drafted.append(token)
            distributions.append(scores)
            if number + 1 < width:
                scores = self._model.score(token[:, None], at=only)
                for row in range(len(unread)):
                    lengths[row] += 1
        return Draft(torch.stack(drafted, 1), list(wanted), torch.stack(distributions, 1))

    def rolled_back(self, num_accepted: list[int]) -> None:
        """Keep the cache entries of kept tokens; the last drafted one was never read."""
        lengths = self._model.cache.lengths
        for row, accepted in enumerate(num_accepted):
            lengths[row] = min(lengths[row], self._kept[row] + accepted)

    def move(self, source: int, destination: int) -> None:
        """Copy the row's cache entries."""
        self._model.cache.move(source, destination)

    def reset(self) -> None:
        """Forget all rows."""
        self._model.reset()


class PromptLookup:
    """Proposes what followed the latest earlier occurrence of the row's last tokens.

    Source:
        Saxena 2023, "Prompt Lookup Decoding".
    """

    LONGEST_NGRAM = 3

    def __init__(self, device: torch.device) -> None:
        """Draft from the rows' own tokens."""
        self._device = device
        self._places: list[dict[tuple[int, ...], int]] = []
        self._indexed: list[int] = []
        self.max_length = 1 << 30

    def admit(self, rows: list[int], prompts: list[list[int]]) -> None:
        """Start with nothing indexed; `propose` indexes what is new."""
        for row in rows:
            while len(self._places) <= row:
                self._places.append({})
                self._indexed.append(0)
            self._places[row], self._indexed[row] = {}, 0

    def propose(
        self,
        histories: Sequence[list[int]],
        wanted: list[int],
        config: DecodeConfig,
        uniforms: Tensor | None,
    ) -> Draft:
        """Copy up to `wanted` tokens from behind the longest match, the latest of several."""
        found = [
            self.continuation(row, tokens)[: wanted[row]] for row, tokens in enumerate(histories)
        ]
        width = max(len(tokens) for tokens in found)
        padded = [tokens + [0] * (width - len(tokens)) for tokens in found]
        block = torch.tensor(padded, dtype=torch.long, device=self._device)
        block = block.reshape(len(found), width)
        return Draft(block, [len(tokens) for tokens in found], None)

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

    def rolled_back(self, num_accepted: list[int]) -> None:
        """Nothing to do: only kept tokens are indexed."""

    def move(self, source: int, destination: int) -> None:
        """Take the index along."""
        self._places[destination] = self._places[source]
        self._indexed[destination] = self._indexed[source]

    def reset(self) -> None:
        """Forget all rows."""
        self._places, self._indexed = [], []


class NoDrafter:
    """Drafts nothing: plain decoding by the same engine, the baseline."""

    max_length = 0

    def __init__(self, device: torch.device) -> None:
        """Draft nothing on this device."""
        self._device = device

    def admit(self, rows: list[int], prompts: list[list[int]]) -> None:
        """Nothing to do."""

    def propose(
        self,
        histories: Sequence[list[int]],
        wanted: list[int],
        config: DecodeConfig,
        uniforms: Tensor | None,
    ) -> Draft:
        """No tokens."""
        empty = torch.zeros((len(histories), 0), dtype=torch.long, device=self._device)
        return Draft(empty, [0] * len(histories), None)

    def rolled_back(self, num_accepted: list[int]) -> None:
        """Nothing to do."""

    def move(self, source: int, destination: int) -> None:
        """Nothing to do."""

    def reset(self) -> None:
        """Nothing to do."""
