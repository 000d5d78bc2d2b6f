"""Divergences as losses, computed in chunks of positions, so memory never holds tokens x vocab.

p is the target, q the drafter. Weights of positions are known before the pass, so a chunk's
gradient is computed while its scores are there: nothing is kept but the gradients of the hidden
states and of the head, and nothing is computed twice.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from lm_eval_specfair import divergence
from lm_eval_specfair.training.options import DivergenceName

LossFunction = Callable[[Tensor, Tensor], Tensor]
"""From log p and log q, both (positions, vocab), to nats (or TV), shape (positions,)."""
Measure = Callable[[Tensor, Tensor], Sequence[Tensor]]
"""From the same to overlap, cross-entropy and the target's entropy, each (positions,)."""

CHUNK_ELEMENTS = {"cpu": 1 << 20, "other": 1 << 25}
"""Scores in a chunk: what stays in a processor's cache (4 MB in fp32), what keeps a GPU busy."""
MIN_CHUNK = 64
"""Positions in a chunk at least, whatever the vocabulary: fewer starve a matrix product.

With 49,152 tokens a step of 16 takes 1.2 times as long in fp32, in bf16 1.8 times, as one of 64.
"""

LK_DECAY = 3.0


def negative_log_overlap(target_logprobs: Tensor, drafter_logprobs: Tensor) -> Tensor:
    """`-log sum_x min(p(x), q(x))`, whose gradient is that of TV over the overlap.

    Source:
        LK losses (arXiv:2602.23881).
    """
    return -torch.minimum(target_logprobs, drafter_logprobs).logsumexp(-1)


def lk_hybrid(target_logprobs: Tensor, drafter_logprobs: Tensor) -> Tensor:
    """`lambda KL + (1 - lambda) TV` with `lambda = exp(-3 overlap)`, taken as a constant.

    KL leads where the two hardly overlap (there TV has no direction), TV where they do.

    Source:
        LK losses (arXiv:2602.23881), the hybrid with eta = 3.
    """
    distance = divergence.total_variation(target_logprobs, drafter_logprobs)
    share = (-LK_DECAY * (1 - distance.detach())).exp()
    return share * divergence.kl(target_logprobs, drafter_logprobs) + (1 - share) * distance


DIVERGENCES: dict[DivergenceName, LossFunction] = {
    "forward-kl": divergence.kl,
    "reverse-kl": divergence.reverse_kl,
    "js": divergence.jensen_shannon,
    "tv": divergence.total_variation,
    "neg-log-overlap": negative_log_overlap,
    "lk": lk_hybrid,
}


class TargetScores(Protocol):
    """The target's side of some positions, a chunk at a time."""

    def outcomes(self, chunk: slice, drafter_scores: Tensor) -> tuple[Tensor, Tensor]:
        """Log p and log q over the same outcomes, both normalised, shape (positions, outcomes).

        `drafter_scores` are unnormalised, those of the chunk's positions, shape (positions, vocab).
        """


def default_chunk(vocab_size: int, device: torch.device) -> int:
    elements = CHUNK_ELEMENTS["cpu" if device.type == "cpu" else "other"]
    return max(MIN_CHUNK, elements // vocab_size)


def chunked_loss(
    hidden: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    position_weights: Tensor,
    target: TargetScores,
    loss_function: LossFunction,
    *,
    chunk: int | None = None,
    measure: Measure = divergence.divergences,
) -> tuple[Tensor, Tensor]:
    """`sum_i w_i L_i` over positions, and what was measured with it.

    Args:
        hidden: The drafter's last hidden states, shape (positions, width); its scores where
            `weight` is None.
        weight: Its head, shape (vocab, width), or None.
        bias: The head's, shape (vocab,), or None.
        position_weights: w_i, constants, shape (positions,).
        target: The target's side.
        loss_function: L, one of `DIVERGENCES`.
        chunk: Positions at a time; `default_chunk` by default.
        measure: What is measured of each position.

    Returns:
        The loss, shape (), and what was measured of each position, without gradient, shape
        (positions, 3).
    """
    vocab_size = hidden.shape[-1] if weight is None else weight.shape[0]
    size = chunk or default_chunk(vocab_size, hidden.device)
    sides = (hidden, weight, bias, position_weights, target, loss_function, measure)
    loss, measured = _ChunkedLoss.apply(*sides, size, torch.is_grad_enabled())  # type: ignore[no-untyped-call]
    return loss, measured


class _ChunkedLoss(torch.autograd.Function):
    """Computes its gradients in the forward pass; backward only scales them."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        position_weights: Tensor,
        target: TargetScores,
        loss_function: LossFunction,
        measure: Measure,
        size: int,
        has_backward: bool,
    ) -> tuple[Tensor, Tensor]:
        hidden_grad = torch.empty_like(hidden) if has_backward else None
        weight_grad = _zeros(weight) if has_backward else None
        bias_grad = _zeros(bias) if has_backward else None
        head = None if weight is None else autocast_once(weight)
        total = position_weights.new_zeros((), dtype=torch.float64)
        measured = hidden.new_empty((len(hidden), 3), dtype=torch.float64)
        for first in range(0, len(hidden), size):
            piece = slice(first, first + size)
            states = hidden[piece]
            raw = states if head is None else functional.linear(states, head, bias)
            # Half precision is for matrix products; what is exponentiated and summed is wider.
            scores = raw if raw.dtype == torch.float64 else raw.float()
            with torch.set_grad_enabled(has_backward):
                scores = scores.detach().requires_grad_(has_backward)
                log_p, log_q = target.outcomes(piece, scores)
                loss = (loss_function(log_p, log_q) * position_weights[piece]).sum()
            total += loss.detach()
            with torch.no_grad():
                measured[piece] = torch.stack(tuple(measure(log_p, log_q)), -1).double()
            if hidden_grad is None:
                continue
            scores_grad = torch.autograd.grad(loss, scores)[0].to(raw.dtype)
            if head is None:
                hidden_grad[piece] = scores_grad
                continue
            hidden_grad[piece] = scores_grad @ head.to(raw.dtype)
            if weight_grad is not None:
                _add_product(weight_grad, scores_grad, states)
            if bias_grad is not None:
                bias_grad += scores_grad.sum(0)
        ctx.save_for_backward(hidden_grad, weight_grad, bias_grad)
        ctx.mark_non_differentiable(measured)
        return total.to(torch.promote_types(hidden.dtype, torch.float32)), measured

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        scale, grads = grad_outputs[0], ctx.saved_tensors
        scaled = [None if grad is None else grad * scale.to(grad.dtype) for grad in grads]
        return (*scaled, None, None, None, None, None, None)


def autocast_once(weight: Tensor) -> Tensor:
    """The weight in the type that autocast gives it here; itself without autocast.

    Autocast keeps its copy only of a leaf that has gradients, within a graph; of any other it makes
    one at each product, which for a head takes longer than a chunk's product. A weight that is off
    the device, for hooks to bring, or quantised in a tensor of its own kind, is left as it is.
    """
    kind = weight.device.type
    is_plain = type(weight) in (Tensor, torch.nn.Parameter) and not weight.is_meta
    if not is_plain or not torch.is_autocast_enabled(kind):
        return weight
    return weight.to(torch.get_autocast_dtype(kind))


def _zeros(parameter: Tensor | None) -> Tensor | None:
    """Room for the gradient of a parameter that has one."""
    if parameter is None or not parameter.requires_grad:
        return None
    return torch.zeros_like(parameter)


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """`total += left^T right`, without a temporary of total's size where types allow."""
    if total.dtype == left.dtype == right.dtype:
        total.addmm_(left.T, right)
    else:
        total += (left.T @ right.to(left.dtype)).to(total.dtype)
