"""Target and drafter as training uses them: one frozen, one wrapped for devices and processes."""

from dataclasses import dataclass
from typing import Any

from accelerate import Accelerator
from torch import nn
from transformers import PreTrainedModel

from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.training.distil import Distiller, SplitModel
from lm_eval_specfair.training.losses import DIVERGENCES
from lm_eval_specfair.training.optim import make_optimizers
from lm_eval_specfair.training.options import TrainConfig
from lm_eval_specfair.training.sharding import WholeDrafter, autocast, check_launch


@dataclass(frozen=True, kw_only=True, slots=True)
class Prepared:
    """The pair, ready to learn.

    Attributes:
        accelerator: Devices, processes and precision.
        target: On the accelerator's device, frozen.
        model: The distiller with the drafter in it, as accelerate wrapped it.
        optimizers: Over all that learns, as accelerate wrapped them.
        cost_ratio: A draft pass over a target pass.
        whole: Gives the drafter as an ordinary model.
    """

    accelerator: Accelerator
    target: SplitModel
    model: nn.Module
    optimizers: list[Any]
    cost_ratio: float
    whole: WholeDrafter

    def whole_drafter(self) -> PreTrainedModel:
        """The drafter as it is now, whole on the main process; a collective call."""
        return self.whole.gather(self.model)


def prepare(
    target: PreTrainedModel,
    drafter: PreTrainedModel,
    config: TrainConfig,
    accelerator: Accelerator,
) -> Prepared:
    """Freeze, check and wrap.

    Args:
        target: It is moved to the accelerator's device.
        drafter: Trained in place. Parameters that need no gradient stay as they are.
        config: How it is trained.
        accelerator: Devices, processes and precision.

    Raises:
        ConfigError: If the batch does not divide among the processes, these share work in a way
            that is not known here, or the drafter cannot recompute hidden states.
    """
    check_launch(accelerator)
    processes = accelerator.num_processes
    if config.rows % processes:
        raise ConfigError(
            f"rows must be a multiple of the {processes} processes, got {config.rows}"
        )
    target.requires_grad_(False)
    split = SplitModel(target.to(accelerator.device).eval())
    if config.gradient_checkpointing:
        if not drafter.supports_gradient_checkpointing:
            raise ConfigError(
                f"--gradient-checkpointing: {type(drafter).__name__} cannot recompute its hidden "
                "states; leave the option out, or lower --micro-rows"
            )
        drafter.activation_checkpointing_enable()
    cost_ratio = config.cost_ratio
    if cost_ratio is None:
        # Not by tensors: a quantised one holds several parameters a place, a shard some of all.
        cost_ratio = drafter.num_parameters() / target.num_parameters()
    whole = WholeDrafter(drafter, accelerator)
    optimizers = make_optimizers(drafter, config)
    distiller = Distiller(drafter, DIVERGENCES[config.divergence])
    autocast(distiller, accelerator)
    prepared = accelerator.prepare(distiller, *optimizers)
    return Prepared(
        accelerator=accelerator,
        target=split,
        model=prepared[0],
        optimizers=list(prepared[1:]),
        cost_ratio=float(cost_ratio),
        whole=whole,
    )
