"""A prefix that many texts begin with, read once: its keys and values stand before each of them."""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedConfig
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

_LAYERS = (DynamicLayer, DynamicSlidingWindowLayer)


class PrefixReader:
    """Reads texts behind a prefix that it keeps, for models whose cache is keys and values.

    Whether that gives the scores of whole texts is tried on the longest texts that come; a model
    for which it does not is read whole ever after.
    """

    def __init__(self, forward: Callable[[Tensor, Any], Tensor], config: PreTrainedConfig) -> None:
        """Read by `forward`: tokens and a cache in, outputs at these tokens out."""
        self._forward, self._config = forward, config
        self._prefix: tuple[int, ...] = ()
        self._cache: DynamicCache | None = None
        self._longest_tried = 0
        self.works = True

    @torch.inference_mode()
    def read(self, rows: Sequence[Sequence[int]], num_shared: int, padded: Tensor) -> Tensor | None:
        """Outputs at all tokens behind the prefix, shape (rows, width - num_shared, ...).

        Args:
            rows: The texts' tokens.
            num_shared: Of the prefix.
            padded: The rows, shape (rows, width).

        Returns:
            None where the model's cache does not serve.
        """
        longest = max(range(len(rows)), key=lambda row: len(rows[row]))
        try:
            self._keep(padded[:1, :num_shared])
            if self.works and len(rows[longest]) > self._longest_tried:
                self._longest_tried = len(rows[longest])
                self._try(padded[longest : longest + 1, : len(rows[longest])], num_shared)
            return self._behind(padded[:, num_shared:]) if self.works else None
        except (
            AttributeError,
            IndexError,
            NotImplementedError,
            RuntimeError,
            TypeError,
            ValueError,
        ):
            self.works = False
            return None

    def _keep(self, prefix: Tensor) -> None:
        tokens = tuple(prefix[0].tolist())
        if tokens == self._prefix:
            return
        cache = DynamicCache(config=self._config)
        self._prefix, self._cache = (), None
        self._forward(prefix, cache)
        self.works = bool(cache.layers) and all(type(layer) in _LAYERS for layer in cache.layers)
        self._prefix, self._cache = tokens, cache

    def _behind(self, tokens: Tensor) -> Tensor:
        assert self._cache is not None
        cache = copy.copy(self._cache)
        cache.layers = [copy.copy(layer) for layer in self._cache.layers]
        for layer in cache.layers:  # grown by concatenation, so the kept ones stay as they are
            layer.keys = layer.keys.expand(len(tokens), -1, -1, -1)
            layer.values = layer.values.expand(len(tokens), -1, -1, -1)
        return self._forward(tokens, cache)

    def _try(self, text: Tensor, num_shared: int) -> None:
        whole = self._forward(text, None)[:, num_shared:]
        behind = self._behind(text[:, num_shared:])
        rounding = 1e-3 if whole.dtype in (torch.float32, torch.float64) else 0.1
        far = (whole.float() - behind.float()).abs().amax()
        self.works = self.works and bool(far <= rounding * whole.float().std())
