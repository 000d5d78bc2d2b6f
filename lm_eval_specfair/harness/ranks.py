"""Processes that share a run, started by `accelerate launch` or `torchrun`."""

import os
from typing import Any

import torch


def let_cpus_share(device: str | None) -> None:
    """Tell accelerate that processes on CPUs share a run, as it takes them for unrelated ones.

    Args:
        device: `--device`, None if it was not given.
    """
    started_together = int(os.environ.get("WORLD_SIZE", "1")) > 1 and "LOCAL_RANK" in os.environ
    if started_together and (device == "cpu" or not torch.accelerator.is_available()):
        os.environ.setdefault("ACCELERATE_USE_CPU", "true")


def own_place(accelerator: Any) -> tuple[int, int]:
    """Rank of this process and number of processes.

    lm-eval 0.4.13 lets each process on a CPU evaluate everything, and numbers those on GPUs within
    their machine, so that the processes of two machines would collide.

    Args:
        accelerator: accelerate's, or None where there is one process.
    """
    if accelerator is None:
        return 0, 1
    return accelerator.process_index, accelerator.num_processes


def own_share(number: int, rank: int, num_processes: int) -> int:
    """How many of so many things this process does; over all processes these add up to them."""
    return (number + num_processes - 1 - rank) // num_processes
