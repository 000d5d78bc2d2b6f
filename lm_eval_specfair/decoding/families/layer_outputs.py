"""Hidden states between a model's layers, kept during a pass for drafters that read them.

Layer i's is what enters the layer i, counted from 0; behind the last layer come its output, and
then that after the final norm. Hooks live as long as a pass: the model itself is unchanged.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from lm_eval_specfair.errors import ConfigError


def decoder_layers(model: PreTrainedModel) -> tuple[nn.Module, nn.ModuleList] | None:
    """A causal LM's decoder and the plain list of its layers; None where it has no such list."""
    size = int(model.config.get_text_config(decoder=True).num_hidden_layers)
    decoder = model.get_decoder()
    lists = [
        each
        for each in decoder.children()
        if isinstance(each, nn.ModuleList) and len(each) == size
        # Some keep norms or embeddings in lists as long.
        if all(any(True for _ in layer.children()) for layer in each)
    ]
    return (decoder, lists[0]) if len(lists) == 1 else None


class LayerOutputs:
    """Keeps a model's hidden states at some layers, pass by pass."""

    def __init__(self, model: PreTrainedModel, layers: Sequence[int], *, name: str) -> None:
        """Of a model, which messages call by its name.

        Raises:
            ConfigError: If it lacks one of the layers, or hooks cannot reach them.
        """
        found = decoder_layers(model)
        if found is None:
            raise ConfigError(
                f"target {name} has no plain list of layers whose hidden states could be read, as "
                "a head needs; use a drafting model, or drafter=prompt_lookup"
            )
        self._decoder, self._modules = found
        self._layers, self._name = tuple(layers), name
        self._size = int(model.config.get_text_config(decoder=True).hidden_size)
        last = len(self._modules) + 1
        if wrong := [layer for layer in layers if not 0 <= layer <= last]:
            raise ConfigError(
                f"the head reads layer {wrong[0]} of a target with {last - 1} layers: it is "
                "another target's"
            )
        self._seen: dict[int, Tensor] = {}

    @property
    def layers(self) -> tuple[int, ...]:
        return self._layers

    def note(self, layer: int, hidden: Tensor) -> None:
        """Keep what enters a layer, if it is to be kept."""
        if layer in self._layers:
            self._seen[layer] = hidden

    def note_last(self, hidden: Tensor, norm: Callable[[Tensor], Tensor]) -> None:
        """Keep what leaves the last layer, and that after the final norm, if they are to be."""
        last = len(self._modules)
        self.note(last, hidden)
        if last + 1 in self._layers:
            self.note(last + 1, norm(hidden))

    @contextlib.contextmanager
    def hooked(self) -> Iterator[None]:
        """Keep them during a pass of the model's own."""
        last = len(self._modules)
        handles = []
        for layer in self._layers:
            if layer == 0:
                hook = self._modules[0].register_forward_pre_hook(self._entering, with_kwargs=True)
            elif layer <= last:
                hook = self._modules[layer - 1].register_forward_hook(self._leaving(layer))
            else:
                hook = self._decoder.register_forward_hook(self._leaving(layer))
            handles.append(hook)
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _entering(self, _module: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> None:
        self.note(0, given[0] if given else named["hidden_states"])

    def _leaving(self, layer: int) -> Callable[[nn.Module, Any, Any], None]:
        def keep(_module: nn.Module, _given: Any, output: Any) -> None:
            self.note(layer, output if isinstance(output, Tensor) else output[0])

        return keep

    def empty(self, device: torch.device, dtype: torch.dtype) -> Tensor:
        """What there is of a text without tokens."""
        return torch.empty(0, len(self._layers) * self._size, device=device, dtype=dtype)

    def taken(self, device: torch.device) -> Tensor:
        """What the last pass left, side by side: (rows, width, layers * hidden); forgotten here.

        Raises:
            ConfigError: If a layer's output is no hidden state of one vector a token.
        """
        kept = [self._seen.get(layer) for layer in self._layers]
        self._seen = {}
        parts = [each.to(device) for each in kept if each is not None]
        is_plain = all(each.ndim == 3 and each.shape[-1] == self._size for each in parts)
        if len(parts) != len(self._layers) or not is_plain:
            raise ConfigError(
                f"target {self._name}: its layers hand on something else than one hidden state of "
                "a token, so no head can read them; use a drafting model"
            )
        return torch.cat(parts, -1)
