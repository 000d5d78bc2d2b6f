"""Processes that share a run (`torchrun`, `accelerate launch`): ranks, shares, joint decisions."""

import os
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from accelerate.utils import broadcast_object_list

from lm_eval_specfair.errors import ConfigError

T = TypeVar("T")


def agreed(decide: Callable[[], T], rank: int, num_processes: int) -> T:
    """Rank 0's decision, in every process; all call this together.

    Raises:
        ConfigError: In every process, if `decide` raised it in rank 0: none is left waiting.
    """
    if num_processes == 1:
        return decide()
    message: list[Any] = [None, None]
    if rank == 0:
        try:
            message[0] = decide()
        except ConfigError as error:
            message[1] = error
    broadcast_object_list(message)
    decided, refusal = message
    if refusal is not None:
        raise refusal
    return decided  # type: ignore[no-any-return]


def let_cpus_share(device: str | None) -> None:
    """Tell accelerate that processes on CPUs (`--device`) share a run: it assumes that none do."""
    started_together = int(os.environ.get("WORLD_SIZE", "1")) > 1 and "LOCAL_RANK" in os.environ
    if started_together and (device == "cpu" or not torch.accelerator.is_available()):
        os.environ.setdefault("ACCELERATE_USE_CPU", "true")


def own_place(accelerator: Any) -> tuple[int, int]:
    """Rank of this process and number of processes, from an `Accelerator`, or None for one process.

    lm-eval 0.4.13 lets each process on a CPU evaluate everything, and numbers those on GPUs within
    their machine, so that the processes of two machines would collide.
    """
    if accelerator is None:
        return 0, 1
    return accelerator.process_index, accelerator.num_processes


def own_share(number: int, rank: int, num_processes: int) -> int:
    """This process's share of a number; the shares of all processes add up to it."""
    return (number + num_processes - 1 - rank) // num_processes
