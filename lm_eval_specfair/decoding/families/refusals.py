"""Reasons not to take a model, as far as its configuration and its class tell.

Nothing here needs the weights. What the configuration does not tell, the trial at loading finds.
"""

import inspect
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from lm_eval_specfair.decoding.cache import LAYER_KINDS, cache_argument, layer_kinds
from lm_eval_specfair.decoding.loading import WeightsReader, read_configuration
from lm_eval_specfair.errors import ConfigError

INSTEAD = (
    "Ways out: `specfair replay` on finished texts, backend=vllm, or --model hf for plain scores."
)
# What the trial needs: a prompt, and a block of three tokens after it.
MIN_POSITIONS = 9
ATTENTIONS = ("sdpa", "eager")


def longest_text(config: Any) -> int:
    """Positions that a model was made for; a huge number where its configuration names none."""
    text = config.get_text_config(decoder=True)
    names = ("max_position_embeddings", "max_seq_len")  # the latter is MPT's
    named = (getattr(text, name, None) for name in names)
    return next((n for n in named if n and n > 0), 1 << 30)  # XLNet says -1: it has no limit


def position_limit(model: PreTrainedModel) -> int | None:
    """Longest text that can be decoded exactly; None where no length is too long.

    Tables of positions end. Some models compute another text's scores beyond a length.
    """
    config = model.config.get_text_config(decoder=True)
    named = longest_text(config)
    if (window := getattr(config, "keep_window_size", None)) is not None:
        # Doge: beyond, scores of a text's beginning depend on what follows it.
        return min(named, int(window))
    if "dynamic" in str(getattr(config, "rope_parameters", None)):
        # Beyond, frequencies follow the longest text that the model has met: no two runs agree.
        return named
    if config.model_type == "mpt":  # a table of biases is as long
        return named
    words = model.get_input_embeddings()
    for module in model.modules():
        # OPT leaves two entries unused.
        is_table = isinstance(module, nn.Embedding) and module is not words
        if is_table and named <= module.num_embeddings <= named + 2:
            return named
    if any(buffer.ndim > 1 and named in buffer.shape for buffer in model.buffers()):
        return named
    return None


def has_alibi(config: Any) -> bool:
    """Whether a bias by the key's index tells positions, so that `position_ids` are not needed."""
    return getattr(config, "model_type", "") in ("bloom", "mpt") or bool(
        getattr(config, "alibi", False)
    )


def examine(name: str, role: str, **arguments: Any) -> WeightsReader:
    """What reads a model's weights, once its configuration is found to be in order.

    Args:
        name: Folder or hub id.
        role: "target" or "drafter".
        arguments: With which it is found.

    Raises:
        ConfigError: If there is no configuration, or it tells that the model cannot be decoded.
    """
    config = read_configuration(name, role, **arguments)
    reader = WeightsReader(config, role)
    kind = reader.model_class
    if getattr(config, "is_encoder_decoder", False):
        raise ConfigError(f"{role} {name} is an encoder-decoder. {INSTEAD}")
    if kind is None:
        raise ConfigError(
            f"{role} {name}: transformers has no causal LM for model_type "
            f"{config.model_type!r}. {INSTEAD}"
        )
    if not getattr(kind, "_is_stateful", False):  # others are tried
        refuse_by_configuration(config, kind, role=role, name=name)
    return reader


def refuse_by_configuration(config: Any, model_class: type, *, role: str, name: str) -> None:
    """Raise where a model cannot be decoded row by row.

    Args:
        config: The model's, not only its text part's.
        model_class: What is, or would be, loaded.
        role: "target" or "drafter".
        name: As the user gave it.

    Raises:
        ConfigError: With the reason and the way out.
    """
    if reason := _reason(config, model_class):
        raise ConfigError(f"{role} {name} {reason}. {INSTEAD}")
    quantised = getattr(config, "quantization_config", None)
    if _setting(quantised, "load_in_8bit") and _setting(quantised, "llm_int8_threshold") != 0:
        raise ConfigError(
            f"{role} {name} is quantised by LLM.int8, which takes its outlier columns from all "
            "tokens of a pass together: a token's scores change with the others. Quantise it with "
            "llm_int8_threshold=0, or in 4 bits (load_in_4bit=True)."
        )
    attention = getattr(config.get_text_config(decoder=True), "_attn_implementation", None)
    if attention is not None and attention not in ATTENTIONS:
        raise ConfigError(
            f"{role} {name}: attention {attention!r} cannot take a mask per row; load it with "
            "attn_implementation=sdpa (or eager)."
        )


def _setting(settings: Any, name: str) -> Any:
    """One of a quantisation's settings: an object in a loaded model, a dict in its file."""
    return settings.get(name) if isinstance(settings, dict) else getattr(settings, name, None)


def _reason(config: Any, model_class: type) -> str | None:
    text = config.get_text_config(decoder=True)
    if getattr(config, "is_encoder_decoder", False):
        return "is an encoder-decoder"
    if (positions := longest_text(config)) < MIN_POSITIONS:
        return f"has {positions} positions, of which {MIN_POSITIONS} are needed"
    forward = model_class.forward  # type: ignore[attr-defined]
    parameters = inspect.signature(forward).parameters
    if "position_ids" not in parameters and not has_alibi(text):
        return "takes no position_ids, so rows cannot have lengths of their own"
    argument = parameters.get(cache_argument(forward))
    if argument is None or "dict[" in str(argument.annotation):  # XLM has one of its own
        return "takes no cache of keys and values, so each step would read the whole text"
    return _layers(text)


def _layers(text: Any) -> str | None:
    try:
        kinds = set(layer_kinds(text))
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        named = set(getattr(text, "layer_types", None) or ())
        if "sliding_attention" in named and getattr(text, "sliding_window", None) is None:
            return (
                "names sliding layers (layer_types) and sliding_window null: windows cannot be "
                "switched off like this, and need not be; restore its config.json"
            )
        what = f"{type(error).__name__}: {error!s:.80}"
        return f"has a configuration that no cache can be made of ({what})"
    if any("LinearAttention" in kind for kind in kinds):
        return None  # `decoding.states` tries it
    if others := ", ".join(sorted(kinds - set(LAYER_KINDS))):
        return f"has layers whose cache cannot be rolled back ({others})"
    rope = getattr(text, "rope_parameters", None)
    layers = set(getattr(text, "layer_types", None) or ())
    if isinstance(rope, dict) and layers and "sliding_attention" in set(rope) - layers:
        return (
            "has rope_parameters for sliding_attention, which no layer is of (layer_types): with "
            "windows switched off by hand it is another model; restore its config.json, windows "
            "are decoded"
        )
    return None
