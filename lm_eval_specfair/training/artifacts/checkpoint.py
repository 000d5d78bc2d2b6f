"""A run's state on disk: safetensors and JSON; a kill or a full disk leaves the last good one."""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lm_eval_specfair import files
from lm_eval_specfair.errors import ConfigError

SCHEMA_VERSION = 2
LARGEST_SHARE = 0.05
"""Of a run's time that may go into writing checkpoints between probes."""
STATE_FILE, NUMBERS_FILE = "state.safetensors", "state.json"


class CheckpointCadence:
    """When a checkpoint is due: by the time since the last one, and by what that one cost.

    Hundreds of megabytes may take as long to write as a step to compute; by time alone they would
    be written after every step that takes longer than the interval.
    """

    def __init__(self, seconds: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Let `seconds` pass between checkpoints at least; 0 makes one due after every step."""
        self._seconds, self._clock = seconds, clock
        self._saved, self._cost = clock(), 0.0

    def is_due(self) -> bool:
        """Whether it is time."""
        if not self._seconds:
            return True
        wait = max(self._seconds, self._cost / LARGEST_SHARE)
        return self._clock() - self._saved > wait

    def saving(self, save: Callable[[], object]) -> None:
        """Save, and note what it cost."""
        began = self._clock()
        save()
        self._saved = self._clock()
        self._cost = self._saved - began


def trained_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Parameters that learn, by name; a tied one has one name."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def model_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Trained weights by name."""
    return {f"model/{name}": p.detach() for name, p in trained_parameters(model).items()}


def optimizer_tensors(
    model: nn.Module, optimizers: Sequence[torch.optim.Optimizer]
) -> dict[str, Tensor]:
    """What optimizers remember of each parameter, by its name."""
    return {
        f"optim/{name}/{key}": torch.as_tensor(value)
        for name, parameter in trained_parameters(model).items()
        for optimizer in optimizers
        for key, value in optimizer.state.get(parameter, {}).items()
    }


@torch.no_grad()
def restore(
    model: nn.Module,
    tensors: Mapping[str, Tensor],
    optimizers: Sequence[torch.optim.Optimizer] = (),
) -> None:
    """Put weights, and what optimizers remember, back; rates are the configuration's."""
    parameters = trained_parameters(model)
    owners = {id(p): o for o in optimizers for group in o.param_groups for p in group["params"]}
    for name, tensor in tensors.items():
        kind, _, rest = name.partition("/")
        if kind == "model":
            parameters[rest].copy_(tensor)
        elif kind == "optim" and optimizers:
            parameter, _, key = rest.rpartition("/")
            state = owners[id(parameters[parameter])].state[parameters[parameter]]
            # Counts of steps stay on the CPU, where torch keeps them.
            state[key] = tensor if key == "step" else tensor.to(parameters[parameter].device)


def write(folder: Path, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]) -> None:
    """Write a checkpoint, tensors and what is JSON, in place of the last one.

    Raises:
        ConfigError: If the disk is full or cannot be written to; the last checkpoint is kept.
    """
    try:
        with files.replacing_folder(folder) as fresh:
            save_file({name: x.cpu().clone() for name, x in tensors.items()}, fresh / STATE_FILE)
            versioned = {"schema_version": SCHEMA_VERSION, **numbers}
            (fresh / NUMBERS_FILE).write_text(json.dumps(versioned), encoding="utf-8")
    except (OSError, SafetensorError) as error:
        raise cannot_write(folder, error) from error


def read(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Tensors and numbers of the last checkpoint; None if there is none.

    Raises:
        ConfigError: If it is damaged, or of another version.
    """
    files.restore_folder(folder)
    if not folder.exists():
        return None
    try:
        numbers = json.loads((folder / NUMBERS_FILE).read_text(encoding="utf-8"))
        version = numbers.pop("schema_version", 1)
        tensors = load_file(folder / STATE_FILE)
    except (OSError, ValueError, AttributeError, RecursionError, SafetensorError) as error:
        raise ConfigError(
            f"the checkpoint in {folder} cannot be read ({error}); remove it to start anew"
        ) from error
    if version != SCHEMA_VERSION:
        raise ConfigError(
            f"the checkpoint in {folder} has schema version {version}, but this is version "
            f"{SCHEMA_VERSION}: finish it with the build that began it, or remove it to start anew"
        )
    return tensors, numbers


def cannot_write(path: Path, error: Exception) -> ConfigError:
    """One line for a disk that is full."""
    advice = "make room and start again with --resume; the last good checkpoint is kept"
    return files.cannot_write(path, error, advice)
