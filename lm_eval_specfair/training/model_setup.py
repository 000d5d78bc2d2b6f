"""Models and optimizers as training uses them: LoRA, quantized targets, wrapping for processes."""

import copy
import importlib.util
import math
import os
from typing import Any, get_args

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import nn
from transformers import PreTrainedModel, TorchAoConfig

from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.training.distil import Distiller
from lm_eval_specfair.training.losses import DIVERGENCES
from lm_eval_specfair.training.options import Quantization, TrainConfig
from lm_eval_specfair.unique_keys import json_data

BETAS = (0.9, 0.95)
MUON_WEIGHT_DECAY = 0.01
GROUP_SIZE = 32
"""Weights of a row that share a scale in `int4`."""

_SHARDING = (DistributedType.FSDP, DistributedType.DEEPSPEED, DistributedType.MEGATRON_LM)


def check_launch(accelerator: Accelerator) -> None:
    """Refuse launches with FSDP, DeepSpeed or Megatron."""
    kind = accelerator.distributed_type
    # accelerate replicates without a word where it cannot shard.
    if os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true":
        kind = DistributedType.FSDP
    if kind in _SHARDING:
        raise ConfigError(
            f"training runs on one process or several (DDP), got {kind.value}: launch without "
            "sharding, and where the target does not fit, pass --target-device-map auto, "
            "--quantize-target or --teacher-cache"
        )


def prepare(
    drafter: PreTrainedModel,
    config: TrainConfig,
    accelerator: Accelerator,
    distiller: nn.Module | None = None,
) -> tuple[nn.Module, list[torch.optim.Optimizer]]:
    """A drafter with its loss, wrapped for devices and processes, and its optimizers.

    It is trained in place; parameters that need no gradient stay as they are. `distiller` is the
    drafter with its loss, by default one for drafting models.

    Raises:
        ConfigError: If the batch does not divide among the processes, or the drafter cannot
            recompute hidden states.
    """
    processes = accelerator.num_processes
    if config.rows % processes:
        raise ConfigError(
            f"rows must be a multiple of the {processes} processes, got {config.rows}"
        )
    if config.gradient_checkpointing:
        if not drafter.supports_gradient_checkpointing:
            raise ConfigError(
                f"--gradient-checkpointing: {type(drafter).__name__} cannot recompute its hidden "
                "states; leave the option out, or lower --micro-rows"
            )
        drafter.activation_checkpointing_enable()
    distiller = distiller or Distiller(drafter, DIVERGENCES[config.divergence])
    model = accelerator.prepare(distiller)
    return model, make_optimizers(drafter, config)


def make_optimizers(model: nn.Module, config: TrainConfig) -> list[torch.optim.Optimizer]:
    """One or two optimizers over all parameters that learn.

    Muon takes the hidden matrices, its updates scaled to the size of AdamW's, so that both share
    one learning rate; embeddings, heads and norms are AdamW's in any case.
    """
    hidden: list[nn.Parameter] = []
    rest: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            # A tied head is not listed under its own name, an untied one is.
            is_outer = any(word in name for word in ("embed", "lm_head", "wte", "wpe"))
            is_hidden = config.optimizer == "muon" and parameter.ndim == 2 and not is_outer
            (hidden if is_hidden else rest).append(parameter)
    rate, optimizers = config.learning_rate, list[torch.optim.Optimizer]()
    if hidden:
        decay, adjusted = MUON_WEIGHT_DECAY, "match_rms_adamw"
        muon = torch.optim.Muon(hidden, lr=rate, weight_decay=decay, adjust_lr_fn=adjusted)
        optimizers.append(muon)
    if rest:
        optimizers.append(torch.optim.AdamW(rest, lr=rate, betas=BETAS, weight_decay=0.0))
    return optimizers


def rate_factor(step: int, config: TrainConfig) -> float:
    """Factor of the learning rate at a step (from 0): up, level, down as a root."""
    steps = config.num_steps
    rise = (step + 1) / max(1.0, steps * config.warmup)
    fall = math.sqrt((steps - step) / (steps * config.decay)) if config.decay else 1.0
    return min(1.0, rise, fall)


def add_lora(drafter: PreTrainedModel, rank: int) -> None:
    """Put adapters of a rank on all linear layers but the head; only they learn from now on.

    Raises:
        ConfigError: If peft is missing or the rank is not positive.
    """
    if rank < 1:
        raise ConfigError(f"--lora-rank must be at least 1, got {rank}")
    _need("peft", "--lora-rank")
    from peft import LoraConfig, inject_adapter_in_model

    head = drafter.get_output_embeddings()
    modules = drafter.named_modules()
    targets = [name for name, x in modules if isinstance(x, nn.Linear) and x is not head]
    # Twice the rank as alpha is the custom, which keeps the update's size when the rank changes.
    config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=targets)
    inject_adapter_in_model(config, drafter)
    for name, parameter in drafter.named_parameters():
        parameter.requires_grad_("lora_" in name)


def merged(drafter: PreTrainedModel) -> PreTrainedModel:
    """The drafter as an ordinary model: adapters merged in a copy; itself where it has none."""
    if importlib.util.find_spec("peft") is None:
        return drafter
    from peft.tuners.tuners_utils import BaseTunerLayer

    if not any(isinstance(module, BaseTunerLayer) for module in drafter.modules()):
        return drafter
    plain = copy.deepcopy(drafter)
    for name, module in list(plain.named_modules()):
        if isinstance(module, BaseTunerLayer):
            module.merge()
            parent, _, child = name.rpartition(".")
            setattr(plain.get_submodule(parent), child, module.get_base_layer())
    # transformers would save the adapter alone where it thinks that there is one.
    plain._hf_peft_config_loaded = False
    return plain


def _need(package: str, option: str) -> None:
    if importlib.util.find_spec(package) is None:
        raise ConfigError(
            f"{option} needs {package}, which is not installed: pip install {package}, or leave "
            "the option out"
        )


def loading_arguments(quantize: str | None, device_map: str | None) -> dict[str, Any]:
    """Arguments of `from_pretrained` for a target that does not fit as it is.

    `quantize` is one of `options.Quantization`, or None; weights are quantized as they are read, as
    a folder saved by torchao holds pickles. `device_map` is as transformers', a strategy (`auto`,
    ...), a device, or a JSON object from module to device; None for the device that trains.

    Raises:
        ConfigError: If a package or a GPU is missing, or an argument is unknown.
    """
    arguments = _quantization_arguments(quantize)
    if device_map is None:
        return arguments
    try:
        parsed = json_data(device_map) if device_map.startswith("{") else device_map
    except ValueError as error:
        raise ConfigError(
            "--target-device-map must be auto, a device, or a JSON object from module to device, "
            f"got {device_map!r} ({error})"
        ) from None
    return arguments | {"device_map": parsed}


def check_placed(target: PreTrainedModel) -> None:
    """Refuse a device map that offloads the input embeddings: tokens are read where they are."""
    if target.device.type == "meta":
        raise ConfigError(
            "--target-device-map must keep the target's input embeddings on a device, but they are "
            "offloaded; name a device for them"
        )


def _quantization_arguments(kind: str | None) -> dict[str, Any]:
    if kind is None:
        return {}
    if kind not in get_args(Quantization):
        known = ", ".join(get_args(Quantization))
        raise ConfigError(f"--quantize-target must be one of {known}, got {kind!r}")
    package = "bitsandbytes" if kind.endswith("bit") else "torchao"
    _need(package, f"--quantize-target {kind}")
    if package == "torchao":
        return {"quantization_config": _torchao(kind)}
    from transformers import BitsAndBytesConfig

    settings = BitsAndBytesConfig(load_in_8bit=kind == "8bit", load_in_4bit=kind == "4bit")
    device = torch.cuda.current_device() if torch.cuda.is_available() else "cpu"
    return {"quantization_config": settings, "device_map": {"": device}}


def _torchao(kind: str) -> TorchAoConfig:
    from torchao.quantization import Int8WeightOnlyConfig, IntxWeightOnlyConfig
    from torchao.quantization.granularity import PerGroup

    if kind == "int8":
        return TorchAoConfig(Int8WeightOnlyConfig())
    # torchao's packed 4 bits need a GPU's own kernels; these are held in bytes, and run anywhere.
    bits = torch.int4  # type: ignore[attr-defined]  # its stubs lack it
    return TorchAoConfig(IntxWeightOnlyConfig(weight_dtype=bits, granularity=PerGroup(GROUP_SIZE)))
