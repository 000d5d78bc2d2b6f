"""A key-value cache with a length per row.

Rows of one batch accept different numbers of tokens. Each row writes at its own length, and rolling
back is an assignment: entries past a row's length are never attended to (the mask of
`decoding.models` ends at the query's own position) and are overwritten by the next pass.
"""

import contextlib
import ctypes
import functools
import math
import mmap
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

GROWTH = 64  # entries are allocated in blocks of this many, so that growing is rare


class RaggedLayer(CacheLayerMixin):  # type: ignore[misc]
    """One layer's keys and values, shape (rows, heads, capacity, head_dim)."""

    is_sliding = False
    is_croppable = True

    def __init__(self, cache: "RaggedCache") -> None:
        super().__init__()
        self.cache = cache

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        # Without entries: `update` reserves what the pass needs.
        self.keys = key_states.new_empty(0, key_states.shape[1], 0, key_states.shape[-1])
        self.values = value_states.new_empty(0, value_states.shape[1], 0, value_states.shape[-1])
        self.is_initialized = True

    def _reserve(self, rows: int, entries: int) -> None:
        have_rows, _, have_entries, _ = self.keys.shape
        if rows <= have_rows and entries <= have_entries:
            return
        self.cache.has_grown = True
        rows = max(rows, have_rows)
        entries = max(-(-entries // GROWTH) * GROWTH, have_entries)
        for name in ("keys", "values"):
            old = getattr(self, name)
            fresh = _zeros(old, (rows, old.shape[1], entries, old.shape[3]))
            fresh[:have_rows, :, :have_entries] = old
            setattr(self, name, fresh)

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Write a pass's keys and values where the cache is aimed; return all up to there."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        cache, width = self.cache, key_states.shape[2]
        self._reserve(
            max(cache.room[0], max(cache.rows) + 1), max(cache.room[1], max(cache.starts) + width)
        )
        if cache.is_prompt:
            # Rows start empty, so a prompt attends to itself alone.
            self.keys[cache.rows, :, :width] = key_states
            self.values[cache.rows, :, :width] = value_states
            return key_states, value_states
        count, first = len(cache.rows), cache.starts[0]
        if cache.uniform:
            self.keys[:count, :, first : first + width] = key_states
            self.values[:count, :, first : first + width] = value_states
        else:
            index = (cache.row_index, slice(None), cache.positions)
            self.keys[index] = key_states.transpose(1, 2)
            self.values[index] = value_states.transpose(1, 2)
        extent = max(cache.starts) + width
        return self.keys[:count, :, :extent], self.values[:count, :, :extent]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return max(self.cache.starts) + query_length, 0

    def get_seq_length(self) -> int:
        """The longest row; only models' checks ask, positions are always passed explicitly."""
        return max(self.cache.lengths, default=0)

    def get_max_length(self) -> int:
        return -1  # no maximum


# Windows has no flags; elsewhere a forked process must not share what it writes.
_PRIVATE = (
    {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_ANONYMOUS") else {}
)


@functools.cache
def _malloc_trim() -> Callable[[int], object] | None:
    with contextlib.suppress(AttributeError, OSError, TypeError):  # another C library than glibc
        return ctypes.CDLL(None).malloc_trim
    return None


def _zeros(like: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Zeros, not garbage: a masked NaN would still poison its row (0 * NaN).

    On a CPU they are pages of their own: the heap hardly ever gives back what a cache has outgrown.
    """
    size = math.prod(shape) * like.element_size()
    if like.device.type != "cpu" or not size:
        return like.new_zeros(shape)
    pages = mmap.mmap(-1, size, **_PRIVATE)
    return torch.frombuffer(pages, dtype=like.dtype).view(shape)


class RaggedCache(Cache):  # type: ignore[misc]
    """Keys and values of all layers, with the number of valid entries of each row.

    Attributes:
        lengths: Valid entries of each row. Assign to roll back.
        room: Rows, and entries of each, that the next pass allocates at least.
        has_grown: Whether anything was allocated since `give_back`.
    """

    def __init__(self) -> None:
        super().__init__(layers=[])
        self.lengths: list[int] = []
        self.room = (0, 0)
        self.has_grown = False
        self.rows: list[int] = []
        self.starts: list[int] = []
        self.is_prompt = False
        self.uniform = True
        self.row_index = torch.empty(0)
        self.positions = torch.empty(0)

    def give_back(self) -> None:
        """On a CPU, return a large pass's freed memory to the system; glibc keeps up to 64 MB."""
        if self.positions.device.type == "cpu" and (trim := _malloc_trim()):
            trim(0)
        self.has_grown = False

    @property
    def bytes_per_entry(self) -> int:
        """Bytes of one token of one row in all layers seen so far."""
        return sum(
            tensor.shape[1] * tensor.shape[3] * tensor.element_size()
            for layer in self.layers
            for tensor in (layer.keys, layer.values)
        )

    def aim(self, rows: list[int], positions: Tensor, is_prompt: bool) -> None:
        """Set where the next pass writes.

        Args:
            rows: Rows of the batch; 0, 1, ... unless `is_prompt`.
            positions: Entry that each new key goes to, shape (rows, width).
            is_prompt: Whether all these rows start empty.
        """
        self.lengths += [0] * (max(rows) + 1 - len(self.lengths))
        self.rows, self.is_prompt = rows, is_prompt
        self.starts = [0] * len(rows) if is_prompt else [self.lengths[row] for row in rows]
        self.uniform = min(self.starts) == max(self.starts)
        self.positions = positions
        self.row_index = torch.arange(len(rows), device=positions.device)[:, None]

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        while len(self.layers) <= layer_idx:
            self.layers.append(RaggedLayer(self))
        keys, values = self.layers[layer_idx].update(key_states, value_states)
        return keys, values

    @torch.inference_mode()
    def move(self, source: int, destination: int) -> None:
        """Copy a row's entries over another row (to close a gap in the batch)."""
        length = self.lengths[source]
        for layer in self.layers:
            layer.keys[destination, :, :length] = layer.keys[source, :, :length]
            layer.values[destination, :, :length] = layer.values[source, :, :length]
        self.lengths[destination] = length
