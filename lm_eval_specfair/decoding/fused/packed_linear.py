"""Linear layers whose weights lie in the order that a processor's kernels read them in.

oneDNN, by which torch multiplies bf16 matrices on a processor, brings a weight into blocks at each
product; with the few rows of decoding that takes as long as the product itself. Here it is done
once. The products are the same to the last bit, and a copy of the weight is kept.
"""

import logging
from collections.abc import Iterable, Sequence

import psutil
import torch
from torch import Tensor
from torch.nn import functional

logger = logging.getLogger(__name__)

SHARE_OF_MEMORY = 0.25  # of what is free, for the copies of one model
ROWS = 8  # that the order is chosen for


class Linear:
    """`x W^T + b`, with W packed once where that is asked for."""

    def __init__(self, weight: Tensor, bias: Tensor | None, *, packs: bool) -> None:
        self._weight, self._bias = weight, bias
        self._packed: Tensor | None = None
        if packs:
            self._packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), ROWS)

    def __call__(self, states: Tensor) -> Tensor:
        if self._packed is None:
            return functional.linear(states, self._weight, self._bias)
        product: Tensor = torch.ops.mkldnn._linear_pointwise(
            states, self._packed, self._bias, "none", [], ""
        )
        return product


_KERNELS = ("_reorder_linear_weight", "_linear_pointwise", "_is_mkldnn_bf16_supported")


def can_pack(weights: Sequence[Tensor], name: str) -> bool:
    """Whether these weights, of a model of this name, gain by it and their copies find room."""
    if (
        any(one.device.type != "cpu" or one.dtype != torch.bfloat16 for one in weights)
        or not all(hasattr(torch.ops.mkldnn, kernel) for kernel in _KERNELS)
        or not torch.backends.mkldnn.enabled
        or not torch.ops.mkldnn._is_mkldnn_bf16_supported()
    ):
        return False
    size = sum(one.nbytes for one in weights)
    if size <= SHARE_OF_MEMORY * psutil.virtual_memory().available:
        return True
    logger.warning(
        "%s: its weights are used as they are, which takes twice as long with few rows; packed "
        "copies, %.1f GB, would be more than a quarter of the free memory",
        *(name, size / 1e9),
    )
    return False


def state_of(weights: Iterable[Tensor]) -> tuple[tuple[int, int], ...]:
    """Changes when a weight is exchanged or written to."""
    return tuple((one.data_ptr(), 0 if one.is_inference() else one._version) for one in weights)
