"""A model decoded as `generate` does it, one row and one token at a time, with copies to return to.

The way of last resort: whatever a model keeps between passes is copied as a whole.
"""

from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from lm_eval_specfair.decoding.cache import RaggedCache
from lm_eval_specfair.decoding.states.state_forward import NativePasses


class SingleRowCache(RaggedCache):
    """What a model keeps of each row, at each position that the row may be rolled back to."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: dict[int, list[int]] = {}
        self.kept: dict[int, dict[int, Any]] = {}

    def roll_back(self, row: int) -> None:
        """Forget what lies behind a row's length."""
        length = self.lengths[row]
        self.texts[row] = self.texts[row][:length]
        self.kept[row] = {n: kept for n, kept in self.kept[row].items() if n <= length}

    def settle(self) -> None:
        """Forget what no roll-back goes to: no row gets shorter than it is."""
        for row in self.kept:
            self.roll_back(row)
            self.kept[row] = dict(sorted(self.kept[row].items())[-1:])

    def move(self, source: int, destination: int) -> None:
        """Give a row to another place."""
        self.lengths[destination] = self.lengths[source]
        self.texts[destination] = self.texts.pop(source)
        self.kept[destination] = self.kept.pop(source)


class SingleRowModel:
    """Rows of a model, each read by itself."""

    mode: str = "row"

    def __init__(self, model: PreTrainedModel, *, reads_late: bool = False) -> None:
        self._passes = NativePasses(model)
        self.reads_late = reads_late

    def new_cache(self) -> SingleRowCache:
        return SingleRowCache()

    def read_prompts(
        self, cache: SingleRowCache, rows: list[int], prompts: list[list[int]]
    ) -> None:
        cache.lengths += [0] * (max(rows) + 1 - len(cache.lengths))
        for row, prompt in zip(rows, prompts, strict=True):
            cache.lengths[row], cache.texts[row], cache.kept[row] = len(prompt), list(prompt), {}
            if prompt and not self.reads_late:
                _, cache.kept[row][len(prompt)] = self._passes.read(prompt, 0, None)

    def score(self, cache: SingleRowCache, tokens: Tensor, at: Tensor | None) -> Tensor:
        blocks = tokens.tolist()
        if at is None:
            cache.settle()
            return torch.stack([self._row(cache, row, block) for row, block in enumerate(blocks)])
        return torch.stack(
            [
                self._row(cache, row, block[: end + 1])[-1]
                for row, (block, end) in enumerate(zip(blocks, at.tolist(), strict=True))
            ]
        )

    def _row(self, cache: SingleRowCache, row: int, block: list[int]) -> Tensor:
        cache.roll_back(row)
        kept, text = cache.kept[row], [*cache.texts[row], *block]
        start = max(kept, default=0)
        # Without anything kept, the prompt and the token after it are read in one pass.
        ends = range(start + 1 if start else len(cache.texts[row]) + 1, len(text) + 1)
        scores = []
        for end in ends:
            after, kept[end] = self._passes.read(text[start:end], start, kept.get(start))
            scores.append(after)
            start = end
        cache.texts[row] = text
        return torch.stack(scores[-len(block) :])
