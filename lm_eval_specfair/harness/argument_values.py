"""Values of `--model_args` that are read or refused one by one."""

import logging
from collections.abc import Mapping
from typing import Any, Literal

import torch
from transformers import BitsAndBytesConfig
from transformers.quantizers import AutoQuantizationConfig

from lm_eval_specfair.config import DecodeConfig
from lm_eval_specfair.decoding.composed.named_drafters import DrafterName
from lm_eval_specfair.errors import ConfigError


def read_flag(name: str, value: object) -> bool:
    """True or false, as the command line writes them; a `ConfigError` for anything else."""
    words = {"true": True, "false": False, "1": True, "0": False}
    read = words.get(str(value).lower())
    if read is None:
        raise ConfigError(f"{name} must be true or false, got {value!r}")
    return read


def read_count(name: str, value: object) -> int:
    """A whole number of at least 0; a `ConfigError` for anything else."""
    if isinstance(value, str) and value.strip().isdecimal():
        return int(value)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ConfigError(f"{name} must be a whole number of at least 0, got {value!r}")
    return value


def read_count_or_all(name: str, value: object) -> int | Literal["all"]:
    """A whole number of at least 0, or `all`."""
    return "all" if value == "all" else read_count(name, value)


_BY_DEFAULT = (None, "cuda", "cuda:0")  # lm-eval's, which mean the CPU where there is no GPU


def check_device(device: object) -> None:
    """Refuse a device that torch does not find."""
    # lm-eval silently replaces a name that it does not know.
    if str(device) in _BY_DEFAULT and not torch.cuda.is_available():
        return
    problem = ""
    try:
        torch.empty(0, device=device)  # type: ignore[call-overload]  # it may be anything
    except (RuntimeError, AssertionError, TypeError, NotImplementedError) as error:
        problem = next(iter(str(error).splitlines()), "")
    if problem:
        raise ConfigError(
            f"device must be one that torch finds here, such as cpu or cuda:0, got {device!r} "
            f"({problem:.80})"
        )


def default_device(given: object) -> dict[str, str]:
    """The device where none was named and there is no CUDA: lm-eval's default ends in an error."""
    if given not in _BY_DEFAULT:
        return {"device": str(given)}
    if torch.cuda.is_available():
        return {} if given is None else {"device": str(given)}
    other = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return {"device": "cpu" if other is None else str(other)}


def check_batch_size(value: object) -> None:
    """Refuse what is no number of rows."""
    try:
        number = int(value)  # type: ignore[call-overload]
    except (TypeError, ValueError):  # none, auto, auto:4
        number = 1 if value is None or str(value).partition(":")[0] == "auto" else 0
    if number < 1:
        raise ConfigError(f"batch_size must be auto or a number of at least 1, got {value!r}")


def check_max_length(value: object) -> None:
    """Refuse a longest text that leaves no room; None is no limit of one's own."""
    # lm-eval takes 0 for no limit at all, and fails late over what is no number.
    if value is None:
        return
    if read_count("max_length", value) < 2:
        raise ConfigError(
            f"max_length must be at least 2 tokens, prompt and text together, got {value!r}"
        )


def check_dtype(value: object) -> None:
    """Refuse what names no type of torch's."""
    named = getattr(torch, value, None) if isinstance(value, str) else value
    if value not in (None, "auto") and not isinstance(named, torch.dtype):
        raise ConfigError(f"dtype must be auto or a type such as bfloat16, got {value!r}")


def read_drafter(drafter: object, *, on_vllm: bool) -> DrafterName | None:
    """A drafter's name in its parts; None of a loaded model or a policy's file.

    Raises:
        ConfigError: If it is none, or not one of another engine's.
    """
    if not isinstance(drafter, str) or drafter.endswith(".json"):
        return None
    named = DrafterName.read(drafter)
    if on_vllm and (named.lookup is not None or named.fitted):
        raise ConfigError(
            f"drafter={drafter} is drafted by this package's engine (backend=hf); vLLM takes a "
            "model, prompt_lookup or none"
        )
    return named


def read_judging(
    given: Mapping[str, Any], named: DrafterName | None, *, on_vllm: bool
) -> dict[str, Any]:
    """How sampled drafts are drawn and judged: `drafter_temperature` and `verification`.

    Raises:
        ConfigError: If one is wrong, is not for this engine, or the drafter draws nothing.
    """
    own = given.get("drafter_temperature")
    config = DecodeConfig(verification=given.get("verification", "token"), drafter_temperature=own)
    if config.verification != "token" and on_vllm:
        raise ConfigError("verification=block is for backend=hf; vLLM judges token by token")
    if own is not None and on_vllm:
        raise ConfigError(
            "drafter_temperature is for backend=hf; vLLM's drafters have the requests' temperature"
        )
    if own is not None and named is not None and not named.draws:
        raise ConfigError(
            f"drafter_temperature={own} is for drafters that draw their tokens, which "
            f"{named.shown:.100} does not; leave it out"
        )
    return {"verification": config.verification, "drafter_temperature": own}


BITSANDBYTES = (
    "load_in_8bit", "load_in_4bit", "llm_int8_threshold", "llm_int8_skip_modules",
    "bnb_4bit_compute_dtype", "bnb_4bit_quant_type", "bnb_4bit_quant_storage",
    "bnb_4bit_use_double_quant",
)  # fmt: skip
"""Arguments that make a `BitsAndBytesConfig`; from_pretrained took them until transformers 5."""


def read_quantization(given: Mapping[str, Any]) -> Any:
    """How a target is quantised as it is loaded: a settings object of transformers', or None.

    Raises:
        ConfigError: If the settings are wrong, or both ways to name them are used.
    """
    # A threshold of 0 says something, although it equals False.
    named = {n: given[n] for n in BITSANDBYTES if not any(given.get(n) is x for x in (None, False))}
    whole = given.get("quantization_config")
    if named and whole is not None:
        raise ConfigError(
            f"{next(iter(named))} does not go with quantization_config, which holds it; leave one "
            "of them out"
        )
    if named and not {"load_in_8bit", "load_in_4bit"} & set(named):
        raise ConfigError(
            f"{next(iter(named))} is for weights quantised by bitsandbytes: add load_in_4bit=True "
            "or load_in_8bit=True"
        )
    if named:  # it warns of a cast once for each product
        logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
    try:
        if named:
            return BitsAndBytesConfig(**named)
        return AutoQuantizationConfig.from_dict(whole) if isinstance(whole, dict) else whole
    except (ValueError, TypeError, ImportError, AttributeError) as error:
        what = next(iter(named)) if named else "quantization_config"
        raise ConfigError(
            f"{what} must be what transformers' quantization settings take "
            f"({str(error).splitlines()[0]:.120})"
        ) from error
