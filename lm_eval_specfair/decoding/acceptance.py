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
    if config.temperature != 1:
        scores = TemperatureLogitsWarper(float(config.temperature))(None, scores)
    return truncated(scores, config)


def tempered(scores: Tensor, config: DecodeConfig) -> Tensor:
    """A drafter's scores, (rows, vocab), at its temperature; `truncated`, they are log q.

    At 0 the first of the most likely tokens has all of it.
    """
    own = config.drafter_temperature
    if own is None:
        return scores if config.temperature == 1 else scores / config.temperature
    temperature = torch.tensor(own, dtype=scores.dtype, device=scores.device).reshape(-1, 1)
    # The best score becomes 0, so that no temperature makes it overflow.
    scaled = (scores - scores.amax(-1, keepdim=True)) / temperature
    if bool((temperature > 0).all()):
        return scaled
    point = torch.full_like(scaled, -torch.inf).scatter_(-1, most_likely(scores)[:, None], 0.0)
    # A row without a best score is found out as one.
    point = torch.where(scores.amax(-1, keepdim=True).isfinite(), point, torch.nan)
    return torch.where(temperature > 0, scaled, point)


def truncated(scores: Tensor, config: DecodeConfig) -> Tensor:
    """Normalised log-probabilities after top-k and top-p, of scores at their temperature."""
    processors = LogitsProcessorList()
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
    drafter = _drafter_at(num_accepted.clamp(max=width - 1), draft_tokens, draft_logprobs, target)
    residual = (target - drafter).clamp(min=0)
    return Verification(
        num_accepted, _draw_following(target, residual, rejected, uniforms=next_uniforms)
    )


def accept_block(
    draft_tokens: Tensor,
    num_drafted: Tensor,
    draft_logprobs: Tensor | None,
    target_logprobs: Tensor,
    accept_uniforms: Tensor,
    next_uniforms: Tensor,
) -> Verification:
    """Keep the longest accepted prefix of each row's block, judged as a whole.

    Each prefix is accepted or not by a number of its own, with `block_chances`; the longest
    accepted one is kept. What follows it is drawn from `max(w p - q, 0)`, normalised, or from p
    behind a whole block. The output has exactly the target's law, and in expectation a step keeps
    at least as many tokens as with `accept_sampled`. Arguments are those of `accept_sampled`.

    Source:
        Sun et al. 2024 (arXiv:2403.10444), algorithm 2.
    """
    rows, width = draft_tokens.shape
    if not width:
        return accept_sampled(
            draft_tokens, num_drafted, draft_logprobs, target_logprobs,
            accept_uniforms, next_uniforms,
        )  # fmt: skip
    weights, chances = block_chances(draft_tokens, num_drafted, draft_logprobs, target_logprobs)
    accepted = (accept_uniforms < chances) & (chances > 0)
    lengths = torch.arange(1, width + 1, device=accepted.device)
    num_accepted = (accepted * lengths).amax(1)
    row = torch.arange(rows, device=draft_tokens.device)
    target = target_logprobs[row, num_accepted].double().exp()
    drafter = _drafter_at(num_accepted.clamp(max=width - 1), draft_tokens, draft_logprobs, target)
    residual = (weights[row, num_accepted, None] * target - drafter).clamp(min=0)
    following = _draw_following(
        target, residual, num_accepted < num_drafted, uniforms=next_uniforms
    )
    return Verification(num_accepted, following)


def block_chances(
    draft_tokens: Tensor,
    num_drafted: Tensor,
    draft_logprobs: Tensor | None,
    target_logprobs: Tensor,
) -> tuple[Tensor, Tensor]:
    """What block verification accepts prefixes with; arguments are those of `accept_sampled`.

    Returns:
        The weight w of each prefix, `w_i = min(1, w_(i-1) p(x_i) / q(x_i))` with `w_0 = 1`, shape
        (rows, width + 1); and the chance that the prefix of i + 1 tokens is accepted by its own
        number, shape (rows, width), 0 beyond a row's `num_drafted`.
    """
    rows, width = draft_tokens.shape
    weight = torch.ones(rows, dtype=torch.float64, device=draft_tokens.device)
    weights, chances = [weight], []
    for place in range(width):
        token = draft_tokens[:, place, None]
        ratio = target_logprobs[:, place].gather(-1, token)[:, 0].double()
        if draft_logprobs is not None:
            ratio = ratio - draft_logprobs[:, place].gather(-1, token)[:, 0].double()
        # NaN is padding's, or a row's that has failed: nothing is kept of either.
        weight = (weight * ratio.exp()).clamp(max=1).nan_to_num(0)
        weights.append(weight)
        chance = weight
        if place + 1 < width:
            target = target_logprobs[:, place + 1].double().exp()
            nowhere = torch.full_like(num_drafted, place + 1)
            drafter = _drafter_at(nowhere, draft_tokens, draft_logprobs, target)
            left = (weight[:, None] * target - drafter).clamp(min=0).sum(-1)
            # Of weight 1 nothing may be refused; where nothing is left either, 0 / 0 means that.
            inner = torch.where(weight < 1, left / (left + 1 - weight), 1.0)
            chance = torch.where(place + 1 < num_drafted, inner, weight)
        chances.append(torch.where(place < num_drafted, chance, 0.0))
    return torch.stack(weights, 1), torch.stack(chances, 1)


def _drafter_at(
    place: Tensor, draft_tokens: Tensor, draft_logprobs: Tensor | None, target: Tensor
) -> Tensor:
    """The drafter's distribution at one place of each row, shape (rows, vocab)."""
    row = torch.arange(len(place), device=place.device)
    if draft_logprobs is None:
        return torch.zeros_like(target).scatter_(1, draft_tokens[row, place, None], 1.0)
    return draft_logprobs[row, place].double().exp()


def _draw_following(
    target: Tensor, residual: Tensor, rejected: Tensor, *, uniforms: Tensor
) -> Tensor:
    """The token behind the kept ones: of the residual after a rejection, else of the target."""
    # p and q equal up to rounding leave nothing to draw from; then p itself is right.
    use_residual = (rejected & (residual.sum(-1) > 0))[:, None]
    return draw(torch.where(use_residual, residual, target), uniforms)
