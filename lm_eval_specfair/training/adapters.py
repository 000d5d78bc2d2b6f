"""LoRA adapters through peft, and quantised targets: options that name the package they need."""

import copy
import importlib.util
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from lm_eval_specfair.errors import ConfigError

QUANTISATIONS = {
    "8bit": "bitsandbytes",
    "4bit": "bitsandbytes",
    "int8": "torchao",
    "int4": "torchao",
}
"""The package of each; all of them quantise weights only."""
GROUP_SIZE = 32
"""Weights of a row that share a scale in `int4`."""


def _need(package: str, option: str) -> None:
    if importlib.util.find_spec(package) is None:
        raise ConfigError(
            f"{option} needs {package}, which is not installed: pip install {package}, or leave "
            "the option out"
        )


def add_lora(drafter: PreTrainedModel, rank: int) -> None:
    """Put adapters on all linear layers but the head; only they learn from now on.

    Args:
        drafter: Changed in place.
        rank: Of the adapters, at least 1.

    Raises:
        ConfigError: If peft is missing or the rank is not positive.
    """
    if rank < 1:
        raise ConfigError(f"--lora-rank must be at least 1, got {rank}")
    _need("peft", "--lora-rank")
    from peft import LoraConfig, inject_adapter_in_model

    # Twice the rank as alpha is the custom, which keeps the update's size when the rank changes.
    head = drafter.get_output_embeddings()
    targets = [
        name
        for name, module in drafter.named_modules()
        if isinstance(module, nn.Linear) and module is not head
    ]
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


def quantisation_arguments(kind: str | None) -> dict[str, Any]:
    """Arguments of `from_pretrained` that quantise a target while it is loaded.

    The weights on disk are ordinary ones in safetensors: a folder saved by torchao holds pickles.

    Args:
        kind: One of `QUANTISATIONS`, or None.

    Raises:
        ConfigError: If its package or a GPU is missing, or the kind is unknown.
    """
    if kind is None:
        return {}
    if kind not in QUANTISATIONS:
        raise ConfigError(
            f"--quantise-target must be one of {', '.join(QUANTISATIONS)}, got {kind!r}"
        )
    package = QUANTISATIONS[kind]
    _need(package, f"--quantise-target {kind}")
    return _torchao(kind) if package == "torchao" else _bitsandbytes(kind)


def _bitsandbytes(kind: str) -> dict[str, Any]:
    import torch
    from transformers import BitsAndBytesConfig

    if not torch.cuda.is_available():
        raise ConfigError(
            f"--quantise-target {kind} needs a CUDA device; on a CPU choose int8 or int4"
        )
    settings = BitsAndBytesConfig(load_in_8bit=kind == "8bit", load_in_4bit=kind == "4bit")
    return {"quantization_config": settings, "device_map": {"": torch.cuda.current_device()}}


def _torchao(kind: str) -> dict[str, Any]:
    import torch
    from torchao.quantization import Int8WeightOnlyConfig, IntxWeightOnlyConfig
    from torchao.quantization.granularity import PerGroup
    from transformers import TorchAoConfig

    if kind == "int8":
        return {"quantization_config": TorchAoConfig(Int8WeightOnlyConfig())}
    # torchao's packed 4 bits need a GPU's own kernels; these are held in bytes, and run anywhere.
    bits = torch.int4  # type: ignore[attr-defined]  # its stubs lack it
    settings = IntxWeightOnlyConfig(weight_dtype=bits, granularity=PerGroup(GROUP_SIZE))
    return {"quantization_config": TorchAoConfig(settings)}
