"""Attention masks of ragged rows: the model's own rules, at each row's own positions.

Models ask transformers for a mask of each kind of layer (full, sliding, chunked, ...) and hand it a
rule over the indices of queries and keys. Rows are left-aligned in the ragged cache, so a key's
index is its position; a query's is its row's. What this gives is right for every rule made of
indices, whether a model takes masks by kind, one for all layers, or none at all.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

Rule = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]  # of row, head, query and key indices


def additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """A mask of what may be attended to, as numbers that are added to scores."""
    added = torch.zeros(mask.shape, dtype=dtype, device=mask.device)
    return added.masked_fill(~mask, torch.finfo(dtype).min)


def at_positions(rule: Rule, positions: Tensor, num_keys: int) -> Tensor:
    """What queries at these positions may attend to by a rule, shape (rows, 1, width, keys)."""
    rows, width = positions.shape
    row, head, key = (torch.arange(size, device=positions.device) for size in (rows, 1, num_keys))
    query = positions[:, None, :, None]
    mask = rule(row[:, None, None, None], head[None, :, None, None], query, key[None, None, None])
    return mask.expand(rows, -1, width, num_keys)


@contextlib.contextmanager
def row_masks(positions: Tensor) -> Iterator[None]:
    """While active, masks that a model makes are those of queries at these positions.

    Args:
        positions: Of each token of the pass in its row's text, shape (rows, width).
    """

    def boolean(*, kv_length: int, mask_function: Rule, **_: Any) -> Tensor:
        return at_positions(mask_function, positions, kv_length)

    def numbers(*, dtype: torch.dtype = torch.float32, **given: Any) -> Tensor:
        return additive(boolean(**given), dtype)

    made = ALL_MASK_ATTENTION_FUNCTIONS
    made["sdpa"], made["eager"] = boolean, numbers
    try:
        yield
    finally:
        del made["sdpa"], made["eager"]
