"""The log of a training run: `training_log.jsonl`, trackers, the progress bar."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import Accelerator

from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.files import write_file
from lm_eval_specfair.metrics.arrays import Array
from lm_eval_specfair.training.artifacts.checkpoint import cannot_write
from lm_eval_specfair.training.group_sums import GroupSums

LOG_FILE = "training_log.jsonl"
MOST_SHOWN = 6


class TrainingLog:
    """One JSON object per step or probe, appended at once by the main process.

    Trackers get the same numbers.
    """

    def __init__(self, folder: Path, accelerator: Accelerator, names: tuple[str, ...]) -> None:
        self._path, self._accelerator, self._names = folder / LOG_FILE, accelerator, names

    def cut(self, step: int) -> None:
        """Drop what was logged after a step, as it is about to happen again."""
        if not self._accelerator.is_main_process or not self._path.exists():
            return
        # A kill may have cut the last line.
        whole = self._path.read_bytes().split(b"\n")[:-1]
        kept = [line + b"\n" for line in whole if json.loads(line)["step"] <= step]
        write_file(self._path, b"".join(kept))

    def step(self, step: int, loss: float, weights: Array, sums: GroupSums, seconds: float) -> None:
        """Log a step, numbered from 1: its loss, and of each group weight and sums, shape (m,)."""
        line = {"step": step, "loss": loss, "weights": _by_name(self._names, weights)}
        self._write(line | _misfit(self._names, sums) | {"seconds": round(seconds, 4)})

    def probe(self, step: int, sums: GroupSums, speedups: Array, *, kept: bool) -> None:
        """Log a probe: what it measured of each group, and whether this step is the best so far."""
        speeds = {"textbook_speedup": _by_name(self._names, speedups)}
        probe = _misfit(self._names, sums) | speeds
        self._write({"step": step, "probe": probe, "kept": kept})

    def _write(self, line: dict[str, Any]) -> None:
        self._accelerator.log(_flat(line), step=line["step"])
        if not self._accelerator.is_main_process:
            return
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        except OSError as error:
            raise cannot_write(self._path, error) from error


def start_trackers(accelerator: Accelerator, name: str | None, config: dict[str, Any]) -> None:
    """Begin to log to a tracker that accelerate knows.

    Raises:
        ConfigError: If its package is missing (accelerate would continue without it).
    """
    if name is None:
        return
    if not accelerator.log_with:
        raise ConfigError(
            f"--tracker {name} needs its package, which is not installed: pip install {name}, or "
            "leave the option out; training_log.jsonl is written in any case"
        )
    plain = {k: v if isinstance(v, (int, float, str)) else str(v) for k, v in config.items()}
    accelerator.init_trackers("specfair", config=plain)


def progress_text(names: tuple[str, ...], loss: float, sums: GroupSums) -> str:
    """The loss and the groups' overlap; of many groups, the ends and the mean."""
    overlaps = sums.per_token("overlap")
    measured = [(x, f"{n} {x:.2f}") for n, x in zip(names, overlaps, strict=True) if x == x]
    if not measured:
        return f"loss {loss:.3f}"
    shown = [text for _, text in measured]
    if len(shown) > MOST_SHOWN:
        ordered = [text for _, text in sorted(measured)]
        shown = [*ordered[:2], "..", *ordered[-2:], f"mean {np.nanmean(overlaps):.2f}"]
    return f"loss {loss:.3f} overlap {' '.join(shown)}"


def _by_name(names: tuple[str, ...], values: Array) -> dict[str, float | None]:
    """Not measured is null, never 0."""
    numbers = values.tolist()
    return {n: x if np.isfinite(x) else None for n, x in zip(names, numbers, strict=True)}


def _misfit(names: tuple[str, ...], sums: GroupSums) -> dict[str, dict[str, float | None]]:
    return {metric: _by_name(names, sums.per_token(metric)) for metric in ("overlap", "kl")}


def _flat(line: dict[str, Any], prefix: str = "") -> dict[str, float]:
    flat: dict[str, float] = {}
    for key, value in line.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}/")
        elif value is not None and key != "step":
            flat[f"{prefix}{key}"] = float(value)
    return flat
