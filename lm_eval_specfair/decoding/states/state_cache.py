"""A ragged cache of models whose layers keep recurrent states, alone or beside keys and values."""

import sys
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import (
    Cache,
    DynamicCache,
    LinearAttentionLayer,
)

from lm_eval_specfair.decoding.cache import LAYER_KINDS, DummyLayer, RaggedCache, RaggedLayer
from lm_eval_specfair.decoding.states.row_states import RowStates, States, map_tensors

# Attributes of a layer of transformers' that are its recurrent states, and flags that go with them.
_OF_LAYER = tuple(vars(LinearAttentionLayer()))
# Layers with a state, and keys and values as well; windows are masks over all entries.
_WITH_BOTH = (
    "LinearAttentionAndFullAttentionLayer",
    "LinearAttentionAndSlidingWindowAttentionLayer",
)
# Attributes of modules that keep their states themselves.
_OF_MODULE = ("conv1d_state", "recurrent_states")


class RaggedStateLayer(LinearAttentionLayer, RaggedLayer):  # type: ignore[misc]
    """A layer with both recurrent states and a ragged cache of keys and values."""

    is_compileable = False

    def __init__(self, cache: RaggedCache, number_of_states: int) -> None:
        RaggedLayer.__init__(self, cache)
        LinearAttentionLayer.__init__(self, number_of_states=number_of_states)

    def lazy_initialization(self, *args: Tensor, **kwargs: Any) -> None:
        # Keys and values come by position, states by name.
        kind = RaggedLayer if args else LinearAttentionLayer
        kind.lazy_initialization(self, *args, **kwargs)


class ArgumentState:
    """A state that a model takes and returns as an argument, not in a cache."""

    def __init__(self) -> None:
        self.state: Any = None


def module_states(model: PreTrainedModel) -> list[tuple[object, tuple[str, ...]]]:
    """Modules that keep a state themselves, each with the attribute that is None without one."""
    return [
        (module, (name,))
        for module in model.modules()
        for name in _OF_MODULE
        if name in vars(module)
    ]


def own_cache_class(model: PreTrainedModel) -> type[DynamicCache] | None:
    """The class of caches that a model's module defines for it, if it does."""
    for kind in vars(sys.modules[type(model).__module__]).values():
        if isinstance(kind, type) and issubclass(kind, DynamicCache) and kind is not DynamicCache:
            return kind
    return None


class StateCache(RaggedCache):
    """Keys and values, recurrent states of the pass that is going on, and those kept of each row.

    Attributes:
        row_states: States of each row at the positions that it may be rolled back to.
        texts: Tokens of each row that were read, or are to be read with its first block.
        argument: The state that the model takes as an argument.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        """Make the layers that a model's configuration names.

        Raises:
            TypeError: If one of them is of an unknown kind.
        """
        super().__init__()
        self.row_states = RowStates()
        self.texts: dict[int, list[int]] = {}
        self.argument = ArgumentState()
        layers = DynamicCache(config=model.config.get_text_config(decoder=True)).layers
        self.layers = [self._replaced(layer) for layer in layers]
        self.linear_cache: list[Tensor | None] = [None] * len(self.layers)
        self._holders: list[tuple[object, tuple[str, ...]]] = [
            (layer, _OF_LAYER) for layer in self.layers if isinstance(layer, LinearAttentionLayer)
        ]
        self._holders += [(self.argument, ("state",)), (self, ("linear_cache",))]
        of_modules = module_states(model)
        self._holders += of_modules
        self._empty = self.states
        for values in self._empty[-len(of_modules) :] if of_modules else ():
            values.update(dict.fromkeys(values))  # they may hold what another pass left

    def _replaced(self, layer: Any) -> Any:
        kind = type(layer).__name__
        if kind in LAYER_KINDS:
            return layer if isinstance(layer, DummyLayer) else LAYER_KINDS[kind](self)
        if kind in _WITH_BOTH:
            return RaggedStateLayer(self, layer.number_of_states)
        if type(layer) is LinearAttentionLayer:
            return layer
        raise TypeError(f"layers of kind {kind}")

    @property
    def states(self) -> States:
        """The states that the last pass left, not copied."""
        return [{name: getattr(holder, name) for name in names} for holder, names in self._holders]

    def settle(self) -> None:
        """Forget states that no roll-back goes to: no row gets shorter than it is."""
        for row, length in enumerate(self.lengths):
            self.row_states.roll_back(row, length)
            self.row_states.settle(row)

    # The names by which MiniMax asks its own class of caches.

    def get_linear_cache(self, layer_idx: int) -> Any:
        return self.linear_cache[layer_idx]

    def set_linear_cache(self, layer_idx: int, linear_cache: Tensor) -> None:
        self.linear_cache[layer_idx] = linear_cache

    def begin(self, states: States | None) -> None:
        """Let the next pass begin with these states, which it may change; None: with no states."""
        if states is None:
            states = map_tensors(torch.clone, self._empty)
        for (holder, _), values in zip(self._holders, states, strict=True):
            vars(holder).update(values)

    @torch.inference_mode()
    def move(self, source: int, destination: int) -> None:
        """Copy a row's entries over another row, and give it the row's states."""
        super().move(source, destination)
        self.row_states.move(source, destination)
        self.texts[destination] = self.texts.pop(source)


def state_cache(model: PreTrainedModel) -> StateCache:
    """A cache for a model, also of the class that it insists on."""
    own = own_cache_class(model)
    if not own:
        return StateCache(model)
    plain = type(own.__name__, (own,), {"__init__": Cache.__init__})
    kind: type[StateCache] = type(f"State{own.__name__}", (StateCache, plain), {})
    return kind(model)
