"""Values of `--model_args` that are read or refused one by one."""

from typing import Literal

import torch

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
