"""A head that scores some tokens only, so that drafting costs less."""

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel


class CutHead(nn.Module):
    """Some rows of a head: their tokens have its scores, all others `-inf`, so q is 0 there.

    Shapes: hidden states (..., hidden) to scores (..., vocab).
    """

    draft_ids: Tensor  # shape (draft_vocab,), ascending

    def __init__(self, head: nn.Linear, ids: Tensor) -> None:
        super().__init__()
        self.num_tokens = head.out_features
        ids = ids.to(head.weight.device)
        self.register_buffer("draft_ids", ids, persistent=False)
        bias = None if head.bias is None else head.bias.detach()[ids].clone()
        self.weight = nn.Parameter(head.weight.detach()[ids].clone(), requires_grad=False)
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)

    def forward(self, hidden: Tensor) -> Tensor:
        found = nn.functional.linear(hidden, self.weight, self.bias)
        scores = found.new_full((*found.shape[:-1], self.num_tokens), -torch.inf)
        scores[..., self.draft_ids] = found
        return scores


def draft_ids(model: PreTrainedModel) -> Tensor | None:
    """The tokens that a model can draft; None where it can draft all."""
    head = model.get_output_embeddings()
    return head.draft_ids if isinstance(head, CutHead) else None
