"""A model with recurrent states behind the calls of `CausalModel`: prompts in, blocks scored."""

from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import PreTrainedModel

from lm_eval_specfair.decoding.cache import RaggedCache
from lm_eval_specfair.decoding.states.recurrent_passes import Mode, RecurrentPasses
from lm_eval_specfair.decoding.states.state_cache import StateCache, state_cache
from lm_eval_specfair.decoding.states.state_forward import StateForward


class Stateful(Protocol):
    """A way of decoding a model with recurrent states; its caches are those that it makes."""

    mode: str
    reads_late: bool

    def new_cache(self) -> RaggedCache:
        """A cache without rows."""

    def read_prompts(self, cache: Any, rows: list[int], prompts: list[list[int]]) -> None:
        """Fill empty rows with prompts; see `CausalModel`."""

    def score(self, cache: Any, tokens: Tensor, at: Tensor | None) -> Tensor:
        """Scores after each of a block's tokens, or after one of each row's; see `CausalModel`."""


class StatefulModel:
    """Rows of a model whose states are kept by position, read in blocks or token by token."""

    def __init__(self, model: PreTrainedModel, *, mode: Mode, reads_late: bool = False) -> None:
        """See `RecurrentPasses` for both ways.

        Raises:
            TypeError: If some layers keep something else between passes.
        """
        self._model = model
        self._passes = RecurrentPasses(
            StateForward(model),
            device=torch.device(model.device),
            mode=mode,
            reads_late=reads_late,
        )
        self.mode: str = mode
        self.reads_late = reads_late

    def new_cache(self) -> StateCache:
        """A cache without rows."""
        return state_cache(self._model)

    def read_prompts(self, cache: StateCache, rows: list[int], prompts: list[list[int]]) -> None:
        cache.room = (max(rows) + 1, max(map(len, prompts)))
        self._passes.read(cache, rows, prompts)

    def score(self, cache: StateCache, tokens: Tensor, at: Tensor | None) -> Tensor:
        blocks = tokens.tolist()
        if at is None:
            return torch.stack(self._passes.score(cache, blocks, is_verified=True))
        ends = at.tolist()
        blocks = [block[: end + 1] for block, end in zip(blocks, ends, strict=True)]
        scores = self._passes.score(cache, blocks, is_verified=False)
        return torch.stack([row[-1] for row in scores])
