"""Closed forms of speculative decoding, on plain floats.

Here, as in the papers, alpha is the chance that a drafted token is accepted and gamma the number of
tokens drafted per step. Acceptance is taken as independent from token to token; measured metrics
(`metrics.definitions.registry`) don't need that.
"""

import math


def expected_tokens_per_step(acceptance_rate: float, num_speculative_tokens: int) -> float:
    """Tokens that one draft-and-verify step emits on average (tau), in [1, gamma + 1].

    ``sum_{k=0..gamma} alpha^k``, equal to ``(1 - alpha^(gamma+1)) / (1 - alpha)``, and to
    ``gamma + 1`` at alpha = 1. The sum is computed, as the quotient loses its digits near 1. A
    gamma of 0 is plain decoding: one token a step.

    Raises:
        ValueError: If alpha is not in [0, 1], or gamma is negative.

    Example:
        >>> expected_tokens_per_step(0.5, 2)
        1.75

    Source:
        Leviathan et al. 2023 (arXiv:2211.17192), equation 1.
    """
    if not 0 <= acceptance_rate <= 1:
        raise ValueError(f"acceptance_rate must be in [0, 1], got {acceptance_rate}")
    if num_speculative_tokens < 0:
        raise ValueError(f"num_speculative_tokens must be at least 0, got {num_speculative_tokens}")
    return math.fsum(acceptance_rate**k for k in range(num_speculative_tokens + 1))


def textbook_speedup(
    acceptance_rate: float, num_speculative_tokens: int, cost_ratio: float
) -> float:
    """Speed-up over plain decoding if verifying costs what one plain pass costs.

    ``tau(alpha, gamma) / (c gamma + 1)``: `modelled_speedup` at v = 1 and o = 0, with c the seconds
    of one draft pass over those of one target pass. An upper bound in practice: large batches and
    processors without spare arithmetic have v > 1.

    Raises:
        ValueError: If alpha is not in [0, 1], or gamma or c is negative.

    Example:
        >>> round(textbook_speedup(0.8, 8, 0.05), 2)
        3.09

    Source:
        Leviathan et al. 2023 (arXiv:2211.17192), theorem 3.8.
    """
    return modelled_speedup(
        expected_tokens_per_step(acceptance_rate, num_speculative_tokens),
        num_draft_tokens_per_step=num_speculative_tokens,
        cost_ratio=cost_ratio,
        verify_cost_ratio=1.0,
        host_overhead_ratio=0.0,
    )


def modelled_speedup(
    mean_acceptance_length: float,
    *,
    num_draft_tokens_per_step: float,
    cost_ratio: float,
    verify_cost_ratio: float,
    host_overhead_ratio: float,
) -> float:
    """Speed-up over plain decoding, from tokens per step and what a step costs.

    ``S = tau / (c gamma + v + o)``. All costs are in units of one plain target pass, its own host
    overhead included. As a step holds a target pass, ``S <= tau`` wherever ``v + o >= 1``.

    Args:
        mean_acceptance_length: tau, tokens per step, at least 1.
        num_draft_tokens_per_step: gamma, or its mean where steps draft fewer, at least 0.
        cost_ratio: c, of drafting one token, at least 0.
        verify_cost_ratio: v, of the pass over gamma + 1 tokens, above 0.
        host_overhead_ratio: o, of what a step does besides; negative where it does less than a
            plain pass's own overhead.

    Raises:
        ValueError: If an argument is out of its range, or the step's cost is not above 0.

    Example:
        >>> costs = {"cost_ratio": 0.05, "verify_cost_ratio": 1.2, "host_overhead_ratio": 0.1}
        >>> modelled_speedup(3.0, num_draft_tokens_per_step=4, **costs)
        2.0

    Source:
        Leviathan et al. 2023 (arXiv:2211.17192), theorem 3.8, whose v is 1 and whose o is 0; the
        two terms are added here because neither holds in practice.
    """
    if mean_acceptance_length < 1:
        raise ValueError(f"mean_acceptance_length must be at least 1, got {mean_acceptance_length}")
    if min(num_draft_tokens_per_step, cost_ratio, verify_cost_ratio) < 0:
        raise ValueError(
            "num_draft_tokens_per_step, cost_ratio and verify_cost_ratio must not be negative, got "
            f"{num_draft_tokens_per_step}, {cost_ratio} and {verify_cost_ratio}"
        )
    step_cost = cost_ratio * num_draft_tokens_per_step + verify_cost_ratio + host_overhead_ratio
    if step_cost <= 0:
        raise ValueError(f"a step must cost more than nothing, got {step_cost} plain passes")
    return mean_acceptance_length / step_cost
