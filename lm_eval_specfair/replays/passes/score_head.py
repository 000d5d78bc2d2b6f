"""How a model makes scores of its last layer's output, where that is a matrix and little else."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel


@dataclass(frozen=True, slots=True)
class ScoreMap:
    """What is done to each score after the matrix: a factor, or a soft cap.

    Attributes:
        factor: Scores are multiplied by it.
        cap: Scores x become `cap * tanh(x / cap)`; None where they are not capped.
    """

    factor: float = 1.0
    cap: float | None = None

    def __call__(self, products: Tensor) -> Tensor:
        if self.cap is not None:
            return torch.tanh(products / self.cap) * self.cap
        return products if self.factor == 1 else products * self.factor


@torch.inference_mode()
def score_map(
    model: PreTrainedModel, tokens: Tensor, body: Callable[[Tensor], Tensor]
) -> ScoreMap | None:
    """How a model's scores follow from its head's products, by a trial; None if otherwise.

    `body` makes the last layer's output of some tokens.
    """
    head: Any = model.get_output_embeddings()
    if head is None or model.base_model is model:
        return None
    try:
        products = head(body(tokens)).float()
        whole = model(input_ids=tokens, use_cache=False).logits.float()
    except (AttributeError, TypeError, ValueError, RuntimeError):
        return None
    if products.shape != whole.shape:
        return None
    cap = getattr(model.config.get_text_config(decoder=True), "final_logit_softcapping", None)
    slope = float((products * whole).sum() / (products * products).sum())
    candidates = [ScoreMap(), ScoreMap(cap=cap) if cap else None]
    if math.isfinite(slope) and slope:
        candidates.append(ScoreMap(factor=slope))
    for candidate in candidates:
        if candidate is not None and torch.allclose(
            candidate(products), whole, rtol=1e-3, atol=1e-5
        ):
            return candidate
    return None
