"""Matrix products by oneDNN instead of torch's default library, for fp32 models on CPUs."""

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel


class QuickLinear(nn.Module):
    """A linear layer in fp32 on a CPU, with the same weights."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.weight, self.bias = layer.weight, layer.bias

    def forward(self, inputs: Tensor) -> Tensor:
        # The op that torch.compile puts in a linear layer's place; MKL, which eager code gets,
        # leaves half of some processors' speed unused.
        product: Tensor = torch.ops.mkldnn._linear_pointwise(
            inputs, self.weight, self.bias, "none", [], ""
        )
        return product


@torch.inference_mode()
def quicken(model: PreTrainedModel) -> PreTrainedModel:
    """Exchange the linear layers of a model that nobody else uses, where that changes nothing."""
    if model.device.type != "cpu":
        return model
    layers = [
        (parent, name, layer)
        for parent in model.modules()
        for name, layer in parent.named_children()
        if type(layer) is nn.Linear and layer.weight.dtype == torch.float32
    ]
    vocab_size = model.config.get_text_config(decoder=True).vocab_size
    tokens = torch.arange(min(8, vocab_size))[None]
    try:
        expected = model(input_ids=tokens, use_cache=False).logits
        for parent, name, layer in layers:
            setattr(parent, name, QuickLinear(layer))
        logits = model(input_ids=tokens, use_cache=False).logits
        is_same = torch.allclose(logits, expected, rtol=1e-3, atol=1e-3)
    except (AttributeError, TypeError, ValueError, RuntimeError):
        is_same = False
    if not is_same:
        for parent, name, layer in layers:
            setattr(parent, name, layer)
    return model
