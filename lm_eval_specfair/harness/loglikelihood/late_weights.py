"""lm-eval's Hugging Face model, with weights that may stay on disk until they are needed.

Where another process decodes, this one needs the target's configuration and tokenizer; the weights
only to score texts.
"""

import functools
from typing import Any

import torch
from lm_eval.models.huggingface import HFLM
from transformers import GenerationConfig, PretrainedConfig


class Skeleton:
    """A model whose weights were not loaded; `dtype` is what they will have."""

    def __init__(self, name: str, config: PretrainedConfig, dtype: object, revision: str) -> None:
        """Read the configuration files; `dtype` is a torch dtype, its name, or `auto`."""
        self.config = config
        if not isinstance(dtype, torch.dtype):
            if dtype in (None, "auto"):
                dtype = getattr(config.get_text_config(decoder=True), "dtype", None) or "float32"
            dtype = getattr(torch, str(dtype).removeprefix("torch."))
        self.dtype = dtype
        try:
            self.generation_config = GenerationConfig.from_pretrained(name, revision=revision)
        except OSError:
            self.generation_config = GenerationConfig.from_model_config(config)

    def eval(self) -> "Skeleton":
        """Nothing to do, as for `to`."""
        return self

    def to(self, _device: object) -> "Skeleton":
        """Nothing to do."""
        return self


class LateWeightsLM(HFLM):  # type: ignore[misc]
    """`HFLM` that loads its weights at once, or on demand.

    Attributes:
        weights_come_late: Whether `need_weights` loads them; to be set before `HFLM.__init__`.
        quantization: How weights are quantised as they are loaded, if not as the model's own
            configuration says; to be set before as well, since `HFLM.__init__` takes it twice.
    """

    weights_come_late = False
    quantization: Any = None

    def _create_model(self, pretrained: str, **arguments: Any) -> None:
        if self.quantization is not None:
            arguments["quantization_config"] = self.quantization
        load = functools.partial(super()._create_model, pretrained, **arguments)
        if not self.weights_come_late:
            load()
            return
        self._load_weights = load
        revision = str(arguments.get("revision") or "main")
        self._model = Skeleton(pretrained, self.config, arguments.get("dtype"), revision)

    def need_weights(self) -> None:
        """Load the weights if they are still on disk."""
        if isinstance(self._model, Skeleton):
            self._load_weights()
            self.model.eval()
            if not hasattr(self.model, "hf_device_map"):
                self.model.to(self.device)
