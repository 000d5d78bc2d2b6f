"""The forward pass of Llama-like models in fewer and larger operations than their modules use.

With small models, or few rows, the number of operations bounds a pass, not their size. Here query,
key and value are one product, gate and up another, and the queries that share a key-value head are
rows of one product: keys and values are never copied. The modules keep their weights as slices.
On processors bf16 weights are packed besides (`packed_linear`).

The results are those of transformers' modules, in the same types and order of rounding;
`CausalModel` compares the two whenever it wraps a model. Models that are not exactly of this shape
(other layers, hooks, adapters, quantized weights) keep their own pass.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from lm_eval_specfair.decoding.cache import RaggedCache
from lm_eval_specfair.decoding.fused.packed_linear import Linear, can_pack, state_of

# Their layers differ only in biases and in norms of query and key.
CLASSES = ("LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM")


@dataclass(frozen=True, slots=True)
class _Layer:
    """Products and norms of one layer; `qkv` and `gate_up` are several of its modules in one."""

    first_norm: nn.Module
    qkv: Linear
    q_norm: nn.Module | None
    k_norm: nn.Module | None
    out: Linear
    second_norm: nn.Module
    gate_up: Linear
    down: Linear


class FusedForward:
    """The forward pass of a model that `fits`, with a ragged cache."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        attention = model.model.layers[0].self_attn
        self._head_dim = int(attention.head_dim)
        self._num_groups = int(attention.num_key_value_groups)
        self._num_kv_heads = int(model.config.num_key_value_heads)
        self._num_heads = self._num_kv_heads * self._num_groups
        self._scaling = float(attention.scaling)
        self._activation = model.model.layers[0].mlp.act_fn
        self._layers: list[_Layer] = []
        self._head: Callable[[Tensor], Tensor] = model.lm_head
        self._state: tuple[tuple[int, int], ...] = ()
        self.refresh()

    @staticmethod
    def fits(model: PreTrainedModel) -> bool:
        """Whether this pass computes what the model does, as it is loaded."""
        if type(model).__name__ not in CLASSES:
            return False
        modules = list(model.modules())
        if any(m._forward_hooks or m._forward_pre_hooks or hasattr(m, "_hf_hook") for m in modules):
            return False
        weights = [*model.parameters()]
        if any(type(weight) is not nn.Parameter for weight in weights):
            return False  # torchao's quantized ones are in ordinary layers; so are shards
        if len({(weight.device, weight.dtype) for weight in weights}) != 1:
            return False
        linear = [
            getattr(part, f"{name}_proj", None)
            for layer in model.model.layers
            for part, names in ((layer.self_attn, "qkvo"), (layer.mlp, ("gate", "up", "down")))
            for name in names
        ]
        # Subclasses (adapters, quantized layers) compute something else.
        is_plain = all(type(module) is nn.Linear for module in linear)
        is_cut = hasattr(model.lm_head, "draft_ids")  # `families.cut_head`
        return is_plain and (is_cut or type(model.lm_head) is nn.Linear)

    def refresh(self) -> None:
        """Join and pack the weights again if they were exchanged, moved or written to."""
        if self._layers and state_of(self._model.parameters()) == self._state:
            return
        # Copies that are no longer true make room first.
        self._layers, head = [], self._model.lm_head
        layers, is_cut = self._model.model.layers, type(head) is not nn.Linear
        linear = [part.weight for part in layers.modules() if type(part) is nn.Linear]
        packs = can_pack([*linear, *([] if is_cut else [head.weight])], type(self._model).__name__)
        self._layers = [_with_joined_weights(layer, packs=packs) for layer in layers]
        self._head = head if is_cut else _product([head], packs=packs)
        self._state = state_of(self._model.parameters())

    def __call__(
        self,
        tokens: Tensor,
        positions: Tensor,
        mask: Tensor | None,
        cache: RaggedCache,
        note: Callable[[int, Tensor], None] | None = None,
    ) -> Tensor:
        """The last layer's output, shape (rows, width, hidden), of a block that joins the cache.

        Args:
            tokens: Token ids, shape (rows, width).
            positions: Of each token in its text, same shape.
            mask: Whether a token may attend to an entry, shape (rows, 1, width, entries); None for
                prompts in empty rows.
            cache: Aimed at where this pass writes.
            note: Is told what enters each layer, by its number.
        """
        body = self._model.model
        hidden = body.embed_tokens(tokens)
        cos, sin = (part[:, :, None] for part in body.rotary_emb(hidden, positions))
        half = self._head_dim // 2
        # rotate_half(x) * sin, with the sign moved to the sine: one copy of x less.
        sin = torch.cat((-sin[..., :half], sin[..., half:]), -1)
        added = None
        if mask is not None:
            added = torch.zeros(mask.shape, dtype=hidden.dtype, device=mask.device)
            added = added.masked_fill_(~mask, -torch.inf).repeat(1, 1, self._num_groups, 1)
        for number, layer in enumerate(self._layers):
            if note is not None:
                note(number, hidden)
            hidden = hidden + self._attention(number, layer, hidden, cos, sin, added, cache)
            hidden = hidden + self._mlp(layer, hidden)
        return cast(Tensor, hidden)

    def scores(self, hidden: Tensor) -> Tensor:
        """Unnormalised log-probabilities, shape (..., vocab), from the last layer's output."""
        scores: Tensor = self._head(self.normed(hidden))
        return scores

    def normed(self, hidden: Tensor) -> Tensor:
        """The last layer's output after the final norm."""
        return _normed(self._model.model.norm, hidden)

    # Two functions, so that one half's activations are freed before the next half begins.

    def _attention(
        self,
        number: int,
        layer: _Layer,
        hidden: Tensor,
        cos: Tensor,
        sin: Tensor,
        added: Tensor | None,
        cache: RaggedCache,
    ) -> Tensor:
        rows, width, _ = hidden.shape
        qkv = layer.qkv(_normed(layer.first_norm, hidden)).view(rows, width, -1, self._head_dim)
        first_value = self._num_heads + self._num_kv_heads
        rotated = qkv[:, :, :first_value]
        if layer.q_norm is not None and layer.k_norm is not None:
            query, key = rotated[:, :, : self._num_heads], rotated[:, :, self._num_heads :]
            rotated = torch.cat((layer.q_norm(query), layer.k_norm(key)), 2)
        rotated = rotated * cos + rotated.roll(self._head_dim // 2, -1) * sin
        keys, values = cache.update(
            rotated[:, :, self._num_heads :].transpose(1, 2),
            qkv[:, :, first_value:].transpose(1, 2),
            number,
        )
        query = rotated[:, :, : self._num_heads].transpose(1, 2)
        attended = self._attended(query, keys, values, added)
        return layer.out(attended.transpose(1, 2).reshape(rows, width, -1))

    def _mlp(self, layer: _Layer, hidden: Tensor) -> Tensor:
        gate, up = layer.gate_up(_normed(layer.second_norm, hidden)).chunk(2, -1)
        return layer.down(self._activation(gate) * up)

    def _attended(
        self, query: Tensor, keys: Tensor, values: Tensor, added: Tensor | None
    ) -> Tensor:
        """Scaled dot-product attention, shape (rows, heads, width, head_dim)."""
        groups = self._num_groups
        if added is None:
            keys, values = (x.repeat_interleave(groups, 1) for x in (keys, values))
        elif groups > 1:
            # Heads of one group are consecutive, so they become further queries.
            query = query.reshape(query.shape[0], self._num_kv_heads, -1, self._head_dim)
        attended = functional.scaled_dot_product_attention(
            query, keys, values, attn_mask=added, is_causal=added is None, scale=self._scaling
        )
        return attended.reshape(attended.shape[0], self._num_heads, -1, self._head_dim)


def _normed(norm: Any, hidden: Tensor) -> Tensor:
    if hidden.dtype != torch.float32:  # the module rounds to fp32, and back before it multiplies
        return norm(hidden)  # type: ignore[no-any-return]
    return functional.rms_norm(hidden, norm.weight.shape, norm.weight, norm.variance_epsilon)


def _with_joined_weights(layer: Any, *, packs: bool) -> _Layer:
    attention, mlp = layer.self_attn, layer.mlp
    qkv = [attention.q_proj, attention.k_proj, attention.v_proj]
    return _Layer(
        first_norm=layer.input_layernorm,
        qkv=_product(qkv, packs=packs),
        q_norm=getattr(attention, "q_norm", None),
        k_norm=getattr(attention, "k_norm", None),
        out=_product([attention.o_proj], packs=packs),
        second_norm=layer.post_attention_layernorm,
        gate_up=_product([mlp.gate_proj, mlp.up_proj], packs=packs),
        down=_product([mlp.down_proj], packs=packs),
    )


def _product(parts: list[nn.Linear], *, packs: bool) -> Linear:
    """Of layers with the same input, one product."""
    biases = [part.bias for part in parts if part.bias is not None]
    return Linear(
        _joined([part.weight for part in parts]), _joined(biases) if biases else None, packs=packs
    )


def _joined(weights: Sequence[Tensor]) -> Tensor:
    """One tensor, of which the weights become slices: no value is held twice."""
    first = weights[0]
    ends = [weight.data_ptr() + weight.nbytes for weight in weights]
    are_adjacent = ends[:-1] == [weight.data_ptr() for weight in weights[1:]]
    if are_adjacent and len({weight.untyped_storage().data_ptr() for weight in weights}) == 1:
        shape = (sum(len(weight) for weight in weights), *first.shape[1:])
        return first.detach().as_strided(shape, first.stride(), first.storage_offset())
    joined = torch.cat([weight.detach() for weight in weights])
    for weight, part in zip(weights, torch.split(joined, [len(w) for w in weights]), strict=True):
        weight.data = part
    return joined
