"""Lengths that a configuration names, made short for a trial, so that a few tokens reach them.

A window of 4,096 tokens matters from its 4,097th on, which no trial at loading can afford. But
masks and scales read the number anew in each pass. So the trial sets it to a few tokens, in the
configuration and in the modules that took it over, and puts it back: the same model, the same code.
"""

import contextlib
import re
from collections.abc import Iterator
from typing import Any

from transformers import PreTrainedModel

from lm_eval_specfair.decoding.families.longrope import longrope_border
from lm_eval_specfair.decoding.families.own_positions import narrowed_buffers

SHORT = 4  # tokens
_WINDOWS = re.compile(
    r"(?!.*(pattern|layers|dropout|feed_forward|keep_))(.*window|.*chunk|local_at)"
)
# Whatever is chosen by rank under the mask (top-k keys) depends on no length; states have a trial
# of their own; the chunks of state spaces are how a scan is computed, not what.
_OTHERS = {"floor_scale", "log_scaling_n_floor"}
_NOT_LENGTHS = {"chunk_size", "mamba_chunk_size", "max_inference_chunksize"}
_BORDER = "original_max_position_embeddings"


def named_lengths(config: Any) -> dict[str, int]:
    """Numbers of a text configuration at which attention changes, by name.

    Windows that no layer looks through are left out.
    """
    layers = getattr(config, "layer_types", None)
    unused = set()
    if layers and not any("sliding" in kind for kind in layers):
        unused.add("sliding_window")
    if layers and not any("chunk" in kind for kind in layers):
        unused.add("attention_chunk_size")
    if "local" not in (getattr(config, "attention_layers", None) or ("local",)):
        unused.add("window_size")  # GPT-Neo
    found = {}
    for name, value in vars(config).items():
        is_length = name in _OTHERS or (_WINDOWS.match(name) and name not in _NOT_LENGTHS | unused)
        if is_length and type(value) is int and value > SHORT:
            found[name] = value
    if (border := longrope_border(config)) is not None:
        found[_BORDER] = border
    return found


def windows_among(names: dict[str, int]) -> dict[str, int]:
    """Those that must change what a text longer than they are scores."""
    return {name: value for name, value in names.items() if _WINDOWS.match(name)}


@contextlib.contextmanager
def shortened(model: PreTrainedModel, names: dict[str, int]) -> Iterator[None]:
    """Set these lengths to `SHORT` tokens while active."""
    changed: list[tuple[dict[str, Any], str, Any]] = []

    def shorten(values: dict[str, Any], name: str) -> None:
        changed.append((values, name, values[name]))
        values[name] = SHORT

    configs = {id(c): c for m in model.modules() if (c := getattr(m, "config", None)) is not None}
    text = model.config.get_text_config(decoder=True)
    for values in [vars(c) for c in (configs | {id(text): text}).values()]:
        _shorten_in(values, names, shorten)
        rope = values.get("rope_parameters")
        if isinstance(rope, dict) and _BORDER in names:
            for part in [rope, *rope.values()]:
                if isinstance(part, dict):
                    _shorten_in(part, {_BORDER: names[_BORDER]}, shorten)
    for module in model.modules():
        _shorten_in(vars(module), names, shorten)
    with narrowed_buffers(model, SHORT):
        try:
            yield
        finally:
            for values, name, value in changed:
                values[name] = value


def _shorten_in(values: dict[str, Any], names: dict[str, int], shorten: Any) -> None:
    for name, value in names.items():
        if type(values.get(name)) is int and values[name] == value:
            shorten(values, name)
