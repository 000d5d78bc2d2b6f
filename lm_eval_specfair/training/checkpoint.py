"""A run's state on disk: safetensors and JSON, switched in by a rename.

So a kill or a full disk leaves the last good one.

The state of model and optimizers is gathered by torch.distributed's own functions, which give the
same names and shapes for one process, DDP and FSDP.
"""

import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_state_dict,
    set_model_state_dict,
    set_state_dict,
)

from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.training.data.rows import Row

STATE_FILE, NUMBERS_FILE = "state.safetensors", "state.json"
_OPTIONS = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=True)
_NAMES = StateDictOptions(full_state_dict=True, ignore_frozen_params=True)
_LOADING = StateDictOptions(full_state_dict=True, strict=False)


def model_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Trained weights by name, on the CPU; a collective call."""
    return cast(dict[str, Tensor], get_model_state_dict(model, options=_OPTIONS))


def set_model_tensors(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Put weights back."""
    set_model_state_dict(model, dict(tensors), options=_LOADING)


def all_tensors(model: nn.Module, optimizers: list[torch.optim.Optimizer]) -> dict[str, Tensor]:
    """Weights and optimizer state by name, on the CPU; a collective call."""
    weights, optim = get_state_dict(model, optimizers, options=_OPTIONS)
    tensors = {f"model/{name}": cast(Tensor, value) for name, value in weights.items()}
    # Only the main process is given the full state, which it writes.
    for name, state in cast(dict[str, dict[str, Any]], optim.get("state", {})).items():
        tensors |= {f"optim/{name}/{key}": torch.as_tensor(x) for key, x in state.items()}
    return tensors


def set_all_tensors(
    model: nn.Module, optimizers: list[torch.optim.Optimizer], tensors: Mapping[str, Tensor]
) -> None:
    """Put weights and optimizer state back; rates and the like are the configuration's."""
    weights: dict[str, Any] = {}
    state: dict[str, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        kind, _, rest = name.partition("/")
        if kind == "model":
            weights[rest] = value
        elif kind == "optim":
            parameter, _, key = rest.rpartition("/")
            state.setdefault(parameter, {})[key] = value
    _, optim = get_state_dict(model, optimizers, options=_NAMES)
    set_state_dict(
        model,
        optimizers,
        model_state_dict=weights,
        optim_state_dict=cast(Any, {**optim, "state": state}),
        options=_LOADING,
    )


def rows_as_tensors(rows: Sequence[Row]) -> dict[str, Tensor]:
    """Rows that can't be made again, as tensors."""
    return {
        "rows/tokens": torch.from_numpy(np.concatenate([row.tokens for row in rows])),
        "rows/lengths": torch.tensor([len(row.tokens) for row in rows]),
        "rows/first": torch.tensor([row.first for row in rows]),
        "rows/num_bytes": torch.tensor([row.num_bytes for row in rows], dtype=torch.float64),
        "rows/membership": torch.from_numpy(np.stack([row.membership for row in rows])),
    }


def rows_from_tensors(tensors: Mapping[str, Tensor]) -> list[Row]:
    """Undo `rows_as_tensors`; nothing where there are none."""
    if "rows/tokens" not in tensors:
        return []
    ends = np.cumsum(tensors["rows/lengths"].numpy())
    tokens = np.split(tensors["rows/tokens"].numpy(), ends[:-1])
    return [
        Row(
            tokens=tokens[n],
            first=int(tensors["rows/first"][n]),
            num_bytes=float(tensors["rows/num_bytes"][n]),
            membership=tensors["rows/membership"][n].numpy(),
            item="",
        )
        for n in range(len(ends))
    ]


def write(folder: Path, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]) -> None:
    """Write a checkpoint in place of the last one.

    Args:
        folder: The checkpoint's folder.
        tensors: All of it that is tensors.
        numbers: The rest, as JSON.

    Raises:
        ConfigError: If the disk is full or cannot be written to; the last checkpoint is kept.
    """
    fresh, old = folder.with_suffix(".writing"), folder.with_suffix(".old")
    try:
        _remove((fresh, old))
        fresh.mkdir(parents=True)
        # Tied weights are one storage with two names, which the format refuses.
        save_file({name: x.detach().clone() for name, x in tensors.items()}, fresh / STATE_FILE)
        (fresh / NUMBERS_FILE).write_text(json.dumps(numbers), encoding="utf-8")
        if folder.exists():
            folder.rename(old)
        fresh.rename(folder)
        _remove((old,))
    except (OSError, SafetensorError) as error:
        _remove((fresh,))
        raise cannot_write(folder, error) from error


def read(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Tensors and numbers of the last checkpoint; None if there is none.

    Raises:
        ConfigError: If it is damaged.
    """
    old = folder.with_suffix(".old")
    if not folder.exists() and old.exists():
        old.rename(folder)  # killed between the two renames
    if not folder.exists():
        return None
    try:
        numbers = json.loads((folder / NUMBERS_FILE).read_text(encoding="utf-8"))
        return load_file(folder / STATE_FILE), numbers
    except (OSError, ValueError, RecursionError, SafetensorError) as error:
        raise ConfigError(
            f"the checkpoint in {folder} cannot be read ({error}); remove it to start anew"
        ) from error


def cannot_write(path: Path, error: Exception) -> ConfigError:
    """One line for a disk that is full."""
    return ConfigError(
        f"cannot write {path}: {error}. Make room and start again with --resume; the last good "
        "checkpoint is kept"
    )


def _remove(folders: Iterable[Path]) -> None:
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
