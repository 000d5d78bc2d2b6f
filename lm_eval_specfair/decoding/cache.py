"""A key-value cache with a length per row.

Rows of one batch accept different numbers of tokens. Each row writes at its own length, and rolling
back is an assignment: entries past a row's length are never attended to (the mask of
`decoding.models` ends at the query's own position) and are overwritten by the next pass.
"""

import contextlib
import ctypes
import functools
import inspect
import math
import mmap
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers import cache_utils
from transformers.cache_utils import Cache, CacheLayerMixin, DynamicCache

# transformers 5.19 has neither the class nor layers that would need it.
DummyLayer: type = getattr(cache_utils, "DummyLayer", type("DummyLayer", (), {}))
GROWTH = 64  # entries are allocated in blocks of this many, so that growing is rare


class RaggedLayer(CacheLayerMixin):  # type: ignore[misc]
    """One layer's keys and values, shape (rows, heads, capacity, head_dim).

    Layers that look back a window or a chunk keep all entries too: the mask hides them.
    """

    is_sliding = False
    is_croppable = True
    stores: ClassVar[tuple[str, ...]] = ("keys", "values")

    def __init__(self, cache: "RaggedCache") -> None:
        super().__init__()
        self.cache = cache

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        # Without entries: `update` reserves what the pass needs.
        self.keys = key_states.new_empty(0, key_states.shape[1], 0, key_states.shape[-1])
        self.values = value_states.new_empty(0, value_states.shape[1], 0, value_states.shape[-1])
        self.is_initialized = True

    def _reserve(self, rows: int, entries: int, stores: Sequence[str] = ("keys", "values")) -> None:
        have_rows, _, have_entries, _ = getattr(self, stores[0]).shape
        if rows <= have_rows and entries <= have_entries:
            return
        self.cache.has_grown = True
        rows = max(rows, have_rows)
        entries = max(-(-entries // GROWTH) * GROWTH, have_entries)
        for name in stores:
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
        keys, values = self._write({"keys": key_states, "values": value_states})
        return keys, values

    def _write(self, states: dict[str, Tensor]) -> list[Tensor]:
        cache, stores = self.cache, list(states)
        width = states[stores[0]].shape[2]
        self._reserve(
            max(cache.room[0], max(cache.rows) + 1), max(cache.room[1], max(cache.starts) + width),
            stores,
        )  # fmt: skip
        kept = [getattr(self, name) for name in stores]
        if cache.is_prompt:
            # Rows start empty, so a prompt attends to itself alone.
            for store, new in zip(kept, states.values(), strict=True):
                store[cache.rows, :, :width] = new
            return list(states.values())
        count, first = len(cache.rows), cache.starts[0]
        if cache.uniform:
            for store, new in zip(kept, states.values(), strict=True):
                store[:count, :, first : first + width] = new
        else:
            index = (cache.row_index, slice(None), cache.positions)
            for store, new in zip(kept, states.values(), strict=True):
                store[index] = new.transpose(1, 2)
        extent = max(cache.starts) + width
        return [store[:count, :, :extent] for store in kept]

    def entries(self) -> list[Tensor]:
        """Whatever it keeps of tokens, each of shape (rows, heads, capacity, size)."""
        return [getattr(self, name) for name in self.stores if getattr(self, name) is not None]

    def move(self, source: int, destination: int, length: int) -> None:
        """Copy a row's first `length` entries over another row's."""
        for kept in self.entries():
            kept[destination, :, :length] = kept[source, :, :length]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return max(self.cache.starts, default=0) + query_length, 0

    def get_seq_length(self) -> int:
        """Entries of the longest row before this pass; no row's own position may rest on it."""
        return max(self.cache.starts, default=0)

    def get_max_length(self) -> int:
        return -1  # no maximum


class RaggedIndexedLayer(RaggedLayer):
    """A layer that also keeps the keys by which a sparse indexer chooses what is attended to."""

    stores: ClassVar[tuple[str, ...]] = ("keys", "values", "indexer_keys")

    def __init__(self, cache: "RaggedCache") -> None:
        super().__init__(cache)
        self.indexer_keys: Tensor | None = None

    def update_indexer(self, indexer_key_states: Tensor) -> Tensor:
        """Write a pass's keys, shape (rows, width, size); return all up to there."""
        return self.update_index(indexer_key_states[:, None])[:, 0]

    def update_index(self, idx_k: Tensor) -> Tensor:
        """The same for keys with an axis of heads, as MiniMax M3 has them."""
        if self.indexer_keys is None:
            self.indexer_keys = idx_k.new_empty(0, idx_k.shape[1], 0, idx_k.shape[-1])
        (keys,) = self._write({"indexer_keys": idx_k})
        return keys


# transformers' layers by what replaces them here; windows and chunks are masks over all entries.
LAYER_KINDS: dict[str, type] = {
    "DynamicLayer": RaggedLayer,
    "DynamicSlidingWindowLayer": RaggedLayer,
    "DynamicIndexedLayer": RaggedIndexedLayer,
    "MiniMaxM3VLSparseCacheLayer": RaggedIndexedLayer,
    "DummyLayer": DummyLayer,  # keeps nothing: it reads another layer's entries, or has none
}


# What models call the argument for what they keep between passes; all but `state` take a `Cache`.
_CACHE_ARGUMENTS = ("cache", "past_key_values", "cache_params", "state")


def cache_argument(forward: Callable[..., object]) -> str:
    """The name of a model's argument for its cache: `cache` since transformers 5.24."""
    names = inspect.signature(forward).parameters
    return next((name for name in _CACHE_ARGUMENTS if name in names), "past_key_values")


def layer_kinds(config: Any) -> list[str]:
    """The kind of each layer's cache (transformers' name of its class) by a configuration."""
    return [type(layer).__name__ for layer in DynamicCache(config=config).layers]


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

    def __init__(self, kinds: Sequence[str] = ()) -> None:
        """An empty cache; layers are of these `LAYER_KINDS`, those after them `RaggedLayer`s."""
        super().__init__(layers=[])
        self._kinds = kinds
        self.lengths: list[int] = []
        self.room = (0, 0)
        self.has_grown = False
        self.rows: list[int] = []
        self.starts: list[int] = []
        self.is_prompt = False
        self.uniform = True
        self.row_index = torch.empty(0)
        self.positions = torch.empty(0)
        if kinds:
            self._layer(len(kinds) - 1)  # some models ask layers themselves

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
            for layer in self._ragged_layers()
            for tensor in layer.entries()
        )

    def _ragged_layers(self) -> list[RaggedLayer]:
        return [layer for layer in self.layers if isinstance(layer, RaggedLayer)]

    def _layer(self, number: int) -> Any:
        while len(self.layers) <= number:
            place = len(self.layers)
            kind = LAYER_KINDS[self._kinds[place]] if place < len(self._kinds) else RaggedLayer
            self.layers.append(DummyLayer() if kind is DummyLayer else kind(self))
        return self.layers[number]

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
        keys, values = self._layer(layer_idx).update(key_states, value_states)
        return keys, values

    def update_indexer(self, indexer_key_states: Tensor, layer_idx: int) -> Tensor:
        keys: Tensor = self._layer(layer_idx).update_indexer(indexer_key_states)
        return keys

    def get_mask_sizes(self, query_length: int, layer_idx: int = 0) -> tuple[int, int]:
        """Keys that a pass attends to, and where they begin; the same in all layers."""
        return max(self.starts, default=0) + query_length, 0

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Entries of the longest row before this pass; no row's own position may rest on it."""
        return max(self.starts, default=0)

    def settle(self) -> None:
        """Take note that from now on no row is rolled back behind its present length."""

    @torch.inference_mode()
    def move(self, source: int, destination: int) -> None:
        """Copy a row's entries over another row (to close a gap in the batch)."""
        length = self.lengths[source]
        # A row that has no entry may lie behind all rows that there is room for yet.
        for layer in self._ragged_layers() if length else ():
            layer.move(source, destination, length)
        self.lengths[destination] = length
