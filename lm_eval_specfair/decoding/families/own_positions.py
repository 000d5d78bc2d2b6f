"""Modules that measure a text by its cache, told each row's own positions during a pass.

They take the number of keys for the text's length. In a ragged batch that is the longest row's.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

Telling = Callable[[Tensor], AbstractContextManager[None]]
"""Given positions of shape (rows, width), has some modules use them while it is active."""


def tellings(model: PreTrainedModel) -> list[Telling]:
    """What a model needs to be told in each pass; nothing for most."""
    found: list[Telling] = []
    modules = list(model.modules())
    if neo := _neo_attentions(model):
        found.append(functools.partial(_windows_in_buffers, neo))
    scaled = [m for m in modules if getattr(m, "attn_temperature_tuning", False)]
    if scaled := [m for m in scaled if not m.use_rope]:
        found.append(functools.partial(_scaled_queries, scaled))
    config = model.config.get_text_config(decoder=True)
    if config.model_type == "mpt":
        found.append(functools.partial(_longer_table, config))
    return found


@contextlib.contextmanager
def _longer_table(config: Any, positions: Tensor) -> Iterator[None]:
    """MPT: a table of biases, counted from its end, has no room for a block's padding."""
    kept = config.max_seq_len
    config.max_seq_len = max(kept, int(positions.max()) + 1)
    try:
        yield
    finally:
        config.max_seq_len = kept


def _neo_attentions(model: PreTrainedModel) -> list[Any]:
    return [m for m in model.modules() if hasattr(m, "attention_type") and hasattr(m, "bias")]


@contextlib.contextmanager
def narrowed_buffers(model: PreTrainedModel, window: int) -> Iterator[None]:
    """Have windows that were built into buffers be of another size while active (GPT-Neo)."""
    local = [m for m in _neo_attentions(model) if m.attention_type == "local"]
    kept = [attention.bias for attention in local]
    for attention in local:
        causal = torch.ones_like(attention.bias).tril()
        attention.bias = causal ^ causal.tril(-window)
    try:
        yield
    finally:
        for attention, bias in zip(local, kept, strict=True):
            attention.bias = bias


@contextlib.contextmanager
def _windows_in_buffers(attentions: list[Any], positions: Tensor) -> Iterator[None]:
    """GPT-Neo: a mask is cut from a buffer by the number of keys, so it is given in the pass's."""
    window = int(attentions[0].config.window_size)
    kept = [attention.bias for attention in attentions]
    whole = torch.ones((1, 1, 1, 1), dtype=torch.bool, device=positions.device)
    whole = whole.expand(1, 1, 1 << 30, 1 << 30)  # of which any part may be cut

    def look_back(module: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> Any:
        mask = named["attention_mask"]
        keys = torch.arange(mask.shape[-1], device=mask.device)
        too_far = keys <= positions[:, None, :, None] - window
        named["attention_mask"] = mask.masked_fill(too_far, torch.finfo(mask.dtype).min)
        return given, named

    hooks = [
        attention.register_forward_pre_hook(look_back, with_kwargs=True)
        for attention in attentions
        if attention.attention_type == "local"
    ]
    for attention in attentions:
        attention.bias = whole
    try:
        yield
    finally:
        for attention, bias in zip(attentions, kept, strict=True):
            attention.bias = bias
        for hook in hooks:
            hook.remove()


@contextlib.contextmanager
def _scaled_queries(attentions: list[Any], positions: Tensor) -> Iterator[None]:
    """Llama 4: layers without rope scale queries by a position counted from the cache's length."""

    def scale(attention: Any, _: nn.Module, __: Any, queries: Tensor) -> Tensor:
        steps = torch.floor((positions.float() + 1.0) / attention.floor_scale)
        factor = torch.log1p(steps) * attention.attn_scale + 1.0
        scaled: Tensor = (queries * factor[..., None]).to(queries.dtype)
        return scaled

    hooks = []
    for attention in attentions:
        attention.attn_temperature_tuning = False
        hooks.append(attention.q_proj.register_forward_hook(functools.partial(scale, attention)))
    try:
        yield
    finally:
        for attention in attentions:
            attention.attn_temperature_tuning = True
        for hook in hooks:
            hook.remove()
