"""Drafters whose weights lie on several processes (FSDP), and the whole one where it is needed.

Text is written and a folder is saved by one process, which needs all weights. The target is never
sharded: each process holds it.
"""

import copy
import os

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import nn
from torch.distributed.fsdp.wrap import size_based_auto_wrap_policy
from transformers import PreTrainedModel

from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.training import checkpoint

_REFUSED = (DistributedType.DEEPSPEED, DistributedType.MEGATRON_LM)
_ADVICE = (
    "launch with `accelerate launch --use_fsdp --fsdp_version 2 "
    "--fsdp_auto_wrap_policy TRANSFORMER_BASED_WRAP`, or without sharding"
)


def is_sharded(accelerator: Accelerator) -> bool:
    """Whether each process holds a part of the drafter only."""
    return bool(accelerator.distributed_type == DistributedType.FSDP)


def check_launch(accelerator: Accelerator) -> None:
    """Refuse ways to share work that the trainer does not know.

    Raises:
        ConfigError: If it is launched with FSDP 1, a wrap by size, or another engine.
    """
    if accelerator.distributed_type in _REFUSED:
        raise ConfigError(
            f"training runs on one process, DDP or FSDP 2, got {accelerator.distributed_type.value}"
            f"; {_ADVICE}"
        )
    if not is_sharded(accelerator):
        if os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true":
            # accelerate would replicate the drafter without a word.
            raise ConfigError(
                "FSDP was asked for, but accelerate shards only over several processes with an "
                f"accelerator each, got {accelerator.num_processes} on {accelerator.device.type}; "
                "launch without --use_fsdp"
            )
        return
    plugin = accelerator.state.fsdp_plugin
    if plugin.fsdp_version != 2:
        raise ConfigError(f"FSDP must be version 2, got {plugin.fsdp_version}; {_ADVICE}")
    # The loss reads the head's weight beside its module, so it has to be the root's.
    if plugin.auto_wrap_policy is size_based_auto_wrap_policy:
        raise ConfigError(f"FSDP must wrap the drafter's layers, not by size; {_ADVICE}")


def autocast(distiller: nn.Module, accelerator: Accelerator) -> None:
    """Mixed precision as without sharding: matrix products only, in place.

    FSDP's own would also round the weights of positions, the loss and what is measured, and sum the
    head's gradient over chunks in half precision.
    """
    if not is_sharded(accelerator) or accelerator.mixed_precision != "bf16":
        return
    accelerator.state.fsdp_plugin.mixed_precision_policy = None
    cast = torch.autocast(accelerator.device.type, dtype=torch.bfloat16)
    distiller.forward = cast(distiller.forward)


class WholeDrafter:
    """The drafter as an ordinary model on the main process, however it is trained."""

    def __init__(self, drafter: PreTrainedModel, accelerator: Accelerator) -> None:
        """Take a copy to fill, if the drafter is about to be sharded.

        Args:
            drafter: Not prepared yet; may carry adapters.
            accelerator: Tells whether weights are sharded.
        """
        self._accelerator = accelerator
        self._is_copy = is_sharded(accelerator)
        # A sharded module can neither be copied nor saved as it was.
        copied = self._is_copy and accelerator.is_main_process
        self._drafter = copy.deepcopy(drafter) if copied else drafter

    def gather(self, model: nn.Module) -> PreTrainedModel:
        """The drafter with the weights of now; a collective call.

        Args:
            model: The distiller, as accelerate wrapped it.

        Returns:
            A model with whole weights on the main process; on the others only a placeholder.
        """
        if not self._is_copy:
            return self._drafter
        tensors = checkpoint.model_tensors(model)
        if self._accelerator.is_main_process:
            weights = {name.removeprefix("drafter."): x for name, x in tensors.items()}
            # Frozen weights are not gathered: the copy has them.
            unknown = self._drafter.load_state_dict(weights, strict=False).unexpected_keys
            assert not unknown, unknown
        return self._drafter
