"""Runs under FSDP on CPUs, for torchrun: accelerate shards on GPUs only, so its type is set here.

All else is the real thing: accelerate's own preparation, torch's `fully_shard`, collectives over
gloo. Each named run is the one that `test_training_processes.py` makes in one process.
"""

import sys
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from torch.distributed.tensor import DTensor

from lm_eval_specfair.conformance.tiny_models import llama
from lm_eval_specfair.training import run
from lm_eval_specfair.training.adapters import add_lora

from support.training_runs import job, pair

RUNS: dict[str, dict[str, Any]] = {
    "parts": {"micro_rows": 2, "gradient_checkpointing": True, "weighting": "s-cdf-literal"},
    "on-policy": {
        "responses": "drafter",
        "num_probes": 4,
        "max_response_tokens": 4,
        "temperatures": (1.0, 0.0),
    },
    "adapters": {},
    "half": {"mixed_precision": "bf16"},
    "muon": {"optimizer": "muon"},
}


def start(name: str) -> Any:
    """The drafter of a run before it."""
    drafter = llama(1, layers=2, tie_word_embeddings=name == "parts")
    return drafter.float() if name == "half" else drafter.double()


def make(folder: Path, name: str) -> None:
    """One of the runs; the on-policy one is stopped and resumed."""
    target, drafter = pair(torch.float64)[0], start(name)
    if name == "adapters":
        add_lora(drafter, 2)
    made = lambda: job(folder / name, models=(target, drafter), **RUNS[name])  # noqa: E731
    if name == "on-policy":
        assert run.train_drafter(made(), stop_after=3) is None
    run.train_drafter(made(), resume=name == "on-policy")


class Sharding(Accelerator):
    """Takes FSDP for granted, and checks that it was done."""

    efficient = False

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        plugin = FullyShardedDataParallelPlugin(
            fsdp_version=2,
            auto_wrap_policy="transformer_based_wrap",
            reshard_after_forward=True,
            cpu_ram_efficient_loading=self.efficient,
        )
        if self.mixed_precision != "no":
            plugin.set_mixed_precision(self.mixed_precision)
        self.state.distributed_type = DistributedType.FSDP
        self.state.fsdp_plugin = plugin

    def prepare(self, *given: Any) -> Any:
        whole = sum(p.numel() for p in given[0].parameters())
        prepared = super().prepare(*given)
        parts = list(prepared[0].parameters())
        assert all(isinstance(part, DTensor) for part in parts)
        assert sum(part.to_local().numel() for part in parts) < 0.6 * whole
        return prepared

    def end_training(self) -> None:
        # The next run goes on with this group of processes.
        self.wait_for_everyone()


if __name__ == "__main__":
    run.Accelerator = Sharding
    for each in RUNS:
        Sharding.efficient = each == "parts"  # weights of rank 0 alone, sent to the others
        make(Path(sys.argv[1]), each)
