"""The acceptance rules: which drafted tokens are kept, and the token that follows them.

p is always the target, q the drafter. Tensors cover a batch whose rows may have drafted different
numbers of tokens; all randomness comes in as uniform numbers, so a row's outcome depends on its
own numbers alone. Knows nothing about models or caches.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers.generation.logits_process import (
    LogitsProcessorList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from lm_eval_specfair.config import DecodeConfig


@dataclass(frozen=True, slots=True)
class Verification:
    """The outcome of one verification step; both of shape (rows,)."""

    num_accepted: Tensor
    next_token: Tensor  # the recovered token after a rejection, else the bonus token


def log_distribution(scores: Tensor, config: DecodeConfig) -> Tensor:
    """The distribution that tokens are drawn from: temperature, then top-k, then top-p.

    Unnormalised log-probabilities of shape (..., vocab) become normalised ones, `-inf` where a
    token is cut off, in transformers' order and by its code. The temperature must be above 0.
    """
    processors = LogitsProcessorList()
    if config.temperature != 1:
        processors.append(TemperatureLogitsWarper(float(config.temperature)))
    if config.top_k is not None:
        processors.append(TopKLogitsWarper(config.top_k))
    if config.top_p is not None and config.top_p < 1:
        processors.append(TopPLogitsWarper(config.top_p))
    flat = processors(None, scores.reshape(-1, scores.shape[-1]))
    return torch.log_softmax(flat, dim=-1).reshape(scores.shape)


def draw(weights: Tensor, uniforms: Tensor) -> Tensor:
    """Draw one token of positive weight per row by inverting the cumulative weights.

    Args:
        weights: Non-negative, not all 0, of any sum; shape (rows, vocab).
        uniforms: Uniform numbers in [0, 1), shape (rows,).
    """
    cumulated = weights.double().cumsum(-1)
    total = cumulated[:, -1:]
    # u * total may round up to the total itself, past the last token: stay just below it.
    mass = torch.minimum(uniforms.double()[:, None] * total, torch.nextafter(total, total * 0))
    drawn = torch.searchsorted(cumulated, mass, right=True)[:, 0]
    # NaN weights lead past the last token; their row has failed already.
    return drawn.clamp(max=weights.shape[-1] - 1)


def most_likely(scores: Tensor) -> Tensor:
    """The most likely token, the first of several, shape (...); scores of shape (..., vocab)."""
    if scores.device.type == "cpu":
        # The same answer (the first of several, NaN before all) in a tenth of torch's time.
        return torch.from_numpy(np.asarray(scores.numpy().argmax(-1)))
    return scores.argmax(-1)


def accept_greedy(draft_tokens: Tensor, num_drafted: Tensor, target_scores: Tensor) -> Verification:
    """Keep drafted tokens as long as they are the target's most likely ones.

    Shapes are those of `accept_sampled`; scores may be unnormalised.
    """
    best = most_likely(target_scores)
    drafted = torch.arange(draft_tokens.shape[1], device=best.device) < num_drafted[:, None]
    kept = (draft_tokens == best[:, :-1]) & drafted
    num_accepted = kept.long().cumprod(1).sum(1)
    return Verification(num_accepted, best.gather(1, num_accepted[:, None])[:, 0])


def accept_sampled(
    draft_tokens: Tensor,
    num_drafted: Tensor,
    draft_logprobs: Tensor | None,
    target_logprobs: Tensor,
    accept_uniforms: Tensor,
    next_uniforms: Tensor,
) -> Verification:
    """Keep drafted tokens so that the output is distributed exactly as the target's.

    Token x is kept with chance `min(1, p(x) / q(x))`; the first rejected one is replaced by a draw
    from `max(p - q, 0)`, normalised; after full acceptance one more is drawn from p.

    Args:
        draft_tokens: Shape (rows, width); padding after a row's `num_drafted`.
        num_drafted: Shape (rows,).
        draft_logprobs: `log q` at each drafted position, shape (rows, width, vocab); None for a
            drafter that does not draw (q is then 1 for the drafted token).
        target_logprobs: `log p` after the last kept token and after each drafted one, shape
            (rows, width + 1, vocab).
        accept_uniforms: Uniform numbers in [0, 1), shape (rows, width).
        next_uniforms: Shape (rows,).

    Source:
        Leviathan et al. 2023 (arXiv:2211.17192), algorithm 1; Chen et al. 2023
        (arXiv:2302.01318), theorem 1.
    """
    rows, width = draft_tokens.shape
    row = torch.arange(rows, device=draft_tokens.device)
    chosen = draft_tokens[..., None]
    p = target_logprobs[:, :width].gather(-1, chosen)[..., 0].double().exp()
    if draft_logprobs is None:
        q = torch.ones_like(p)
    else:
        q = draft_logprobs.gather(-1, chosen)[..., 0].double().exp()
    drafted = torch.arange(width, device=p.device) < num_drafted[:, None]
    # u * q < p instead of u < p / q: no division, and a token that p forbids is never kept.
    kept = (accept_uniforms * q < p) & drafted
    num_accepted = kept.long().cumprod(1).sum(1)

    target = target_logprobs[row, num_accepted].double().exp()
    rejected = num_accepted < num_drafted
    if not width or not bool(rejected.any()):
        return Verification(num_accepted, draw(target, next_uniforms))
    place = num_accepted.clamp(max=width - 1)
    if draft_logprobs is None:
        drafter = torch.zeros_like(target).scatter_(1, draft_tokens[row, place, None], 1.0)
    else:
        drafter = draft_logprobs[row, place].double().exp()
    residual = (target - drafter).clamp(min=0)
    # p and q equal up to rounding leave nothing to draw from; then p itself is right.
    empty = residual.sum(-1) <= 0
    use_residual = (rejected & ~empty)[:, None]
    return Verification(
        num_accepted, draw(torch.where(use_residual, residual, target), next_uniforms)
    )
