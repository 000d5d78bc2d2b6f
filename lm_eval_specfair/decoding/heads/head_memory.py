"""What a head's entries attend to: a ragged cache in drafting, all unrolled steps in training."""

from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from lm_eval_specfair.decoding.cache import RaggedCache


class Memory(Protocol):
    """Keys and values of the entries before a pass, and how its own attend to them."""

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Take a pass's keys and values in; return what its queries see.

        Queries have the shape (rows, heads, width, head_dim), keys and values fewer heads.
        """


class CachedMemory:
    """A ragged cache, aimed at where a pass writes."""

    def __init__(self, cache: RaggedCache, mask: Tensor | None) -> None:
        """Of a cache; the mask has the shape (rows, 1, width, entries), None for a prompt."""
        self._cache, self._mask = cache, mask

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        keys, values = self._cache.update(key, value, layer)
        return functional.scaled_dot_product_attention(
            query, keys, values, attn_mask=self._mask, is_causal=self._mask is None,
            enable_gqa=query.shape[1] != keys.shape[1],
        )  # fmt: skip


class UnrolledMemory:
    """Entries of all steps of a training pass, which gradients flow through.

    A later step sees the first step's entries up to its own index and, of each step in between and
    of its own, the one entry of that index. So its scores are a triangle and a few columns beside
    it, and nothing as large as (steps * length) squared is made.
    """

    def __init__(self) -> None:
        self._step = 0
        self._first: dict[int, tuple[Tensor, Tensor]] = {}
        self._later: dict[int, list[tuple[Tensor, Tensor]]] = {}

    def next_step(self) -> None:
        self._step += 1

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        if not self._step:
            self._first[layer] = key, value
            return functional.scaled_dot_product_attention(
                query, key, value, is_causal=True, enable_gqa=query.shape[1] != key.shape[1]
            )
        later = self._later.setdefault(layer, [])
        later.append((key, value))
        size = query.shape[2]
        groups = query.shape[1] // key.shape[1]
        # Heads of one group share keys: (rows, key heads, group, width, head_dim).
        rows, _, _, head_dim = query.shape
        query = query.view(rows, -1, groups, size, head_dim) * head_dim**-0.5
        keys, values = (part[:, :, None, :size] for part in self._first[layer])
        scores = query @ keys.transpose(-1, -2)
        hidden_ones = torch.ones(size, size, dtype=torch.bool, device=query.device).triu(1)
        scores = scores.masked_fill(hidden_ones, -torch.inf)
        own = [(query * k[:, :, None, :size]).sum(-1, keepdim=True) for k, _ in later]
        wide = torch.promote_types(query.dtype, torch.float32)
        weights = torch.cat([scores, *own], -1).softmax(-1, dtype=wide).to(query.dtype)
        attended = weights[..., :size] @ values
        for number, (_, own_values) in enumerate(later):
            weight = weights[..., size + number, None]
            attended = attended + weight * own_values[:, :, None, :size]
        return attended.flatten(1, 2)
