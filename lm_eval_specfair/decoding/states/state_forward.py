"""The forward passes of a model with recurrent states: through a `StateCache`, or by itself."""

import copy
import inspect
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from lm_eval_specfair.decoding.cache import cache_argument
from lm_eval_specfair.decoding.families.masks import row_masks
from lm_eval_specfair.decoding.families.refusals import longest_text
from lm_eval_specfair.decoding.states.state_cache import (
    StateCache,
    module_states,
)


class StateForward:
    """Passes of a model for the rows that a cache is aimed at."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        self._argument = cache_argument(model.forward)
        parameters = inspect.signature(model.forward).parameters
        self._takes_positions = "position_ids" in parameters
        self._last_position = longest_text(model.config) - 1
        self._keep = {"logits_to_keep": 1} if "logits_to_keep" in parameters else {}

    def read(self, tokens: Tensor, cache: StateCache) -> Tensor:
        """Scores, shape (rows, 1, vocab), after prompts of one length."""
        return self._pass(tokens, cache, self._keep)[:, -1:]

    def score(self, tokens: Tensor, cache: StateCache) -> Tensor:
        """Scores, shape (rows, width, vocab), of tokens that follow the rows' own."""
        return self._pass(tokens, cache, {})

    def _pass(self, tokens: Tensor, cache: StateCache, arguments: dict[str, Any]) -> Tensor:
        arguments = arguments | {"input_ids": tokens, "use_cache": True}
        if self._takes_positions:
            # Tokens that pad a block may be past the last position; their scores are not used.
            arguments["position_ids"] = cache.positions.clamp(max=self._last_position)
        is_state = self._argument == "state"
        arguments[self._argument] = cache.argument.state if is_state else cache
        with row_masks(cache.positions):
            output = self._model(**arguments)
        if is_state:
            cache.argument.state = output.state
        scores: Tensor = output.logits
        return scores


class NativePasses:
    """Passes over one text through what a model keeps itself, as `generate` makes them."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        self._argument = cache_argument(model.forward)
        parameters = inspect.signature(model.forward).parameters
        self._takes_positions = "position_ids" in parameters
        self._holders = module_states(model)
        self._gets_cache = False

    @torch.inference_mode()
    def read(self, tokens: list[int], start: int, kept: Any) -> tuple[Tensor, Any]:
        """Scores after the last of some tokens, shape (vocab,), and what is kept for the next.

        Args:
            tokens: Token ids.
            start: How many tokens were read before.
            kept: What the pass before returned, which stays as it is; None for the first.
        """
        empty = (None, [None] * len(self._holders))
        cache, of_modules = copy.deepcopy(empty if kept is None else kept)
        after, cache = self._pass(tokens, start, cache, of_modules)
        return after, (cache, [getattr(module, name) for module, (name,) in self._holders])

    def _pass(
        self, tokens: list[int], start: int, cache: Any, of_modules: list[Any]
    ) -> tuple[Tensor, Any]:
        model, device = self._model, self._model.device
        for (module, (name,)), value in zip(self._holders, of_modules, strict=True):
            setattr(module, name, value)
        if cache is None and self._gets_cache:
            cache = DynamicCache(config=model.config.get_text_config(decoder=True))
        arguments: dict[str, Any] = {self._argument: cache, "use_cache": True}
        if self._takes_positions:
            positions = torch.arange(start, start + len(tokens), device=device)
            arguments["position_ids"] = positions[None]
        output = model(input_ids=torch.tensor([tokens], device=device), **arguments)
        if cache is None or self._argument == "state":
            cache = getattr(output, self._argument, None)
        if cache is None:  # RecurrentGemma returns none, and `generate` gives it one
            self._gets_cache = True
            return self._pass(tokens, start, None, of_modules)
        return output.logits[0, -1], cache


def native_scores(model: PreTrainedModel, text: list[int], num_prompt: int) -> Tensor:
    """Scores after a prompt and after each further token, as `generate` computes them.

    Returns:
        Shape (tokens after the prompt + 1, vocab).
    """
    passes = NativePasses(model)
    after, kept = passes.read(text[:num_prompt], 0, None)
    scores = [after]
    for place in range(num_prompt, len(text)):
        after, kept = passes.read(text[place : place + 1], place, kept)
        scores.append(after)
    return torch.stack(scores)
