"""Divergences of a drafter's distribution q from the target's p, from log-probabilities, in nats.

Arguments are `log p` and `log q`, both of shape (..., vocab), and results have shape (...); two
shapes that differ raise `ValueError`. A token that p never emits adds nothing.
"""

import copy
import math
from typing import NamedTuple

import torch
from torch import Tensor


def _check_shapes(target_logprobs: Tensor, drafter_logprobs: Tensor) -> None:
    if target_logprobs.shape != drafter_logprobs.shape:
        raise ValueError(
            "target_logprobs and drafter_logprobs must have the same shape (..., vocab), got "
            f"{tuple(target_logprobs.shape)} and {tuple(drafter_logprobs.shape)}. If only the last "
            "number differs, the two models have different vocabularies: pick a drafter that "
            "shares the target's tokenizer."
        )


def _expected_surprisal(p: Tensor, logprobs: Tensor) -> Tensor:
    """`-sum_x p(x) logprobs(x)`, where a token of which p is 0 (or underflows) has no share."""
    if logprobs.is_cpu:
        # The mask costs a CPU as much as all else, and only where 0 * -inf is NaN is it needed;
        # elsewhere, to ask would be to wait for the device.
        total = -(p * logprobs).sum(-1)
        if not bool(total.isnan().any()):
            return total
    return -(p * logprobs.masked_fill(p == 0, 0.0)).sum(-1)


class Divergences(NamedTuple):
    """What is summed over positions: each shape (...), entropies in nats."""

    overlap: Tensor
    cross_entropy: Tensor
    target_entropy: Tensor


def divergences(target_scores: Tensor, drafter_scores: Tensor) -> Divergences:
    """`overlap`, `cross_entropy` and the target's `entropy` in one go; scores may be unnormalised.

    See `TargetDistribution`, for several drafters.
    """
    return TargetDistribution(target_scores).divergences(drafter_scores)


class TargetDistribution:
    """p at many positions, from which several drafters diverge; its own terms are made once."""

    def __init__(self, scores: Tensor) -> None:
        """Take log-probabilities, normalised or not, of shape (..., vocab)."""
        self.scores = scores
        self.p, log_total = _normalised(scores)
        self.entropy = log_total + _expected_surprisal(self.p, scores)

    def at(self, rows: Tensor) -> "TargetDistribution":
        """P at some of the positions, of one axis; a position may be named several times."""
        some = copy.copy(self)
        some.scores, some.p, some.entropy = self.scores[rows], self.p[rows], self.entropy[rows]
        return some

    def divergences(self, drafter_scores: Tensor) -> Divergences:
        """The divergences of one drafter, from its log-probabilities, normalised or not."""
        _check_shapes(self.scores, drafter_scores)
        q, log_total = _normalised(drafter_scores)
        return Divergences(
            overlap=torch.minimum(self.p, q).sum(-1),
            cross_entropy=log_total + _expected_surprisal(self.p, drafter_scores),
            target_entropy=self.entropy,
        )


def _normalised(scores: Tensor) -> tuple[Tensor, Tensor]:
    """Probabilities, and the logarithm of what the scores' exponentials sum up to.

    In place of `log_softmax` and `exp`: exponentials are most of the time on a CPU.
    """
    probabilities = scores.softmax(-1)
    return probabilities, scores.amax(-1) - probabilities.amax(-1).log()


def overlap(target_logprobs: Tensor, drafter_logprobs: Tensor) -> Tensor:
    """Chance that speculative sampling accepts a drafted token, before it is drawn.

    `sum_x min(p(x), q(x))`, equal to `1 - TV(p, q)`.

    Example:
        >>> p = torch.tensor([0.75, 0.25]).log()
        >>> q = torch.tensor([0.50, 0.50]).log()
        >>> overlap(p, q).item()
        0.75

    Source:
        Leviathan et al. 2023 (arXiv:2211.17192), Theorem 3.5.
    """
    _check_shapes(target_logprobs, drafter_logprobs)
    return torch.minimum(target_logprobs, drafter_logprobs).exp().sum(-1)


def cross_entropy(target_logprobs: Tensor, drafter_logprobs: Tensor) -> Tensor:
    """Cross-entropy `-sum_x p(x) log q(x)` of the drafter under the target, `KL(p || q) + H(p)`.

    Infinite where q gives no mass to a token that p may emit.

    Source:
        D_T of arXiv:2510.02128, per prefix.
    """
    _check_shapes(target_logprobs, drafter_logprobs)
    return _expected_surprisal(target_logprobs.exp(), drafter_logprobs)


def entropy(logprobs: Tensor) -> Tensor:
    """Entropy `-sum_x p(x) log p(x)`.

    Example:
        >>> round(entropy(torch.tensor([0.5, 0.5]).log()).item(), 4)
        0.6931
    """
    return _expected_surprisal(logprobs.exp(), logprobs)


def kl(target_logprobs: Tensor, drafter_logprobs: Tensor) -> Tensor:
    """Forward divergence `KL(p || q) = sum_x p(x) (log p(x) - log q(x))`, 0 or more."""
    return cross_entropy(target_logprobs, drafter_logprobs) - entropy(target_logprobs)


def reverse_kl(target_logprobs: Tensor, drafter_logprobs: Tensor) -> Tensor:
    """Reverse divergence `KL(q || p) = sum_x q(x) (log q(x) - log p(x))`."""
    return kl(drafter_logprobs, target_logprobs)


def total_variation(target_logprobs: Tensor, drafter_logprobs: Tensor) -> Tensor:
    """Total variation distance `(1/2) sum_x |p(x) - q(x)|`, equal to `1 - overlap`."""
    _check_shapes(target_logprobs, drafter_logprobs)
    return (target_logprobs.exp() - drafter_logprobs.exp()).abs().sum(-1) / 2


def jensen_shannon(target_logprobs: Tensor, drafter_logprobs: Tensor) -> Tensor:
    """Jensen-Shannon divergence `(KL(p || m) + KL(q || m)) / 2` with `m = (p + q) / 2`.

    At most `log 2`.

    Example:
        >>> p = torch.tensor([1.0, 0.0]).log()
        >>> q = torch.tensor([0.0, 1.0]).log()
        >>> round(jensen_shannon(p, q).item(), 4)
        0.6931

    Source:
        Lin 1991, Divergence Measures Based on the Shannon Entropy, IEEE Trans. Inf. Theory 37(1).
    """
    _check_shapes(target_logprobs, drafter_logprobs)
    mean = torch.logaddexp(target_logprobs, drafter_logprobs) - math.log(2)
    return (kl(target_logprobs, mean) + kl(drafter_logprobs, mean)) / 2
