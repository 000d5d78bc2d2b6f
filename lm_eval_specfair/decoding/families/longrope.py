"""Longrope row by row: short or long factors by a row's own length, not by the longest row's.

Such rope has one set of frequencies up to a length and another beyond it. transformers chooses by
the largest position of a pass, where other rows, drafts and padding count too. Here each row has a
phase. Where `generate` reads a text anew when it crosses the border (Phi 3, Phi MoE), so that all
its keys are of one phase, a row is read anew too; elsewhere a key keeps the phase it was read in.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationMixin, PreTrainedModel

from lm_eval_specfair.decoding.cache import RaggedCache


def longrope_border(config: Any) -> int | None:
    """Longest text with short factors; None for models without longrope."""
    rope = getattr(config, "rope_parameters", None)
    if not isinstance(rope, dict):
        return None
    kinds = [part for part in (rope, *rope.values()) if isinstance(part, dict)]
    for kind in kinds:
        if kind.get("rope_type") == "longrope":
            return int(kind["original_max_position_embeddings"])
    return None


class LongRopeCache(RaggedCache):
    """A ragged cache that knows its rows' tokens, and which factors their keys were made with."""

    def __init__(self, kinds: Sequence[str]) -> None:
        super().__init__(kinds)
        self.texts: list[list[int]] = []
        self.are_long: list[bool] = []

    def note(self, row: int, text: list[int], is_long: bool) -> None:
        """Take down what a row holds."""
        missing = row + 1 - len(self.texts)
        self.texts += [[] for _ in range(missing)]
        self.are_long += [False] * missing
        self.texts[row], self.are_long[row] = text, is_long

    def move(self, source: int, destination: int) -> None:
        super().move(source, destination)
        self.note(destination, self.texts[source], self.are_long[source])


class LongRope:
    """The phases of a model's rows."""

    def __init__(self, model: PreTrainedModel) -> None:
        """Of a model with longrope."""
        self._model = model
        own = type(model).prepare_inputs_for_generation
        # Classes that read a text anew have a method of their own for it, and ask for this name.
        self.reads_anew = own is not GenerationMixin.prepare_inputs_for_generation and hasattr(
            model.config.get_text_config(decoder=True), "original_max_position_embeddings"
        )
        self._rotaries = [
            module for module in model.modules() if _is_longrope(getattr(module, "rope_type", None))
        ]

    @property
    def border(self) -> int:
        """Longest text with short factors, as the configuration says now."""
        border = longrope_border(self._model.config.get_text_config(decoder=True))
        assert border is not None
        return border

    def _is_long(self, length: int) -> bool:
        """The phase in which the token after a text of this length is read."""
        return length + 1 > self.border

    def note(self, cache: RaggedCache, rows: list[int], prompts: list[list[int]]) -> None:
        """Take down what is read into rows; their phase is that of the token that follows."""
        assert isinstance(cache, LongRopeCache)
        for row, prompt in zip(rows, prompts, strict=True):
            cache.note(row, list(prompt), self._is_long(len(prompt)))

    def note_block(self, cache: RaggedCache, starts: list[int], tokens: Tensor) -> None:
        """Take down a block that follows the rows' first `starts` tokens."""
        assert isinstance(cache, LongRopeCache)
        if self.reads_anew:
            for row, (start, block) in enumerate(zip(starts, tokens.tolist(), strict=True)):
                cache.texts[row] = cache.texts[row][:start] + block

    def text(self, cache: RaggedCache, row: int, length: int) -> list[int]:
        """A row's first tokens."""
        assert isinstance(cache, LongRopeCache)
        return cache.texts[row][:length]

    def to_read_anew(self, cache: RaggedCache, starts: list[int]) -> list[int]:
        """Rows whose keys are of the wrong phase for what follows their first `starts` tokens."""
        assert isinstance(cache, LongRopeCache)
        if not self.reads_anew:
            return []
        return [
            row for row, start in enumerate(starts) if cache.are_long[row] != self._is_long(start)
        ]

    def past_the_border(self, cache: RaggedCache, starts: list[int], scores: Tensor) -> Tensor:
        """A block's scores, those past the border by a pass of their own where the row crosses it.

        One set of keys serves one phase, and such a block needs both.

        Args:
            cache: After the block was noted.
            starts: Tokens of each row before the block.
            scores: Of each token of the block, shape (rows, width, vocab).
        """
        assert isinstance(cache, LongRopeCache)
        width = scores.shape[1]
        for row, start in enumerate(starts):
            if self.reads_anew and start < self.border < start + width:
                text = torch.tensor([cache.texts[row]], device=scores.device)
                past = start + width - self.border
                scores[row, -past:] = self._model(input_ids=text, use_cache=False).logits[0, -past:]
        return scores

    @contextlib.contextmanager
    def phases(self, cache: RaggedCache, positions: Tensor) -> Iterator[None]:
        """Have rotary modules choose by token in a pass that the cache is aimed at."""
        assert isinstance(cache, LongRopeCache)
        of_rows = [cache.are_long[row] for row in cache.rows]
        is_long = torch.tensor(of_rows, device=positions.device)[:, None].expand_as(positions)
        if not self.reads_anew:
            is_long = is_long | (positions >= self.border)
        kept = [module.__dict__.get("forward") for module in self._rotaries]
        for module in self._rotaries:
            module.forward = self._by_token(module.forward, is_long)
        try:
            yield
        finally:
            for module, forward in zip(self._rotaries, kept, strict=True):
                del module.forward
                if forward is not None:  # of a hook
                    module.forward = forward

    def _by_token(self, forward: Callable[..., Any], is_long: Tensor) -> Callable[..., Any]:
        def chosen(x: Tensor, position_ids: Tensor, *given: Any, **named: Any) -> Any:
            # With one position past the border all are long, without any all are short. Short ones
            # past it are padding, or drafts that are scored otherwise.
            past = torch.full_like(position_ids[..., :1], self.border)
            long = forward(x, torch.cat([position_ids, past], -1), *given, **named)
            short = forward(x, position_ids.clamp(max=self.border - 1), *given, **named)
            width = position_ids.shape[-1]
            return tuple(
                torch.where(is_long[..., None], far[..., :width, :], near)
                for far, near in zip(long, short, strict=True)
            )

        return chosen


def _is_longrope(kind: Any) -> bool:
    return "longrope" in (kind.values() if isinstance(kind, dict) else [kind])
