"""Theoretical bounds of overlap and speed-up, from other metrics of the same requests.

Theorem 1 bounds the overlap (alpha), and through it the speed-up, from below by how far the drafter
is from the target; theorem 2 bounds it from both sides by how well each fits references. All are
functions of pooled metrics, which Jensen's inequality allows: each bound is convex in the
divergence.

Limits: the speed-up's bounds assume that tokens are sampled and accepted independently, with a
verification that costs one plain step, so `textbook_speedup` is what they bound. Greedy decoding
accepts by agreement of the most likely tokens, which no divergence bounds. Examined positions are
met more often where acceptance is high, so their means are above those of all positions.
"""

from collections.abc import Callable

import numpy as np

from lm_eval_specfair.metrics.arrays import Array
from lm_eval_specfair.metrics.definitions.metric import Metric, ratio_of
from lm_eval_specfair.metrics.definitions.speedup import textbook


def pinsker_bound(divergence: Array) -> Array:
    """Least overlap at a KL divergence: ``max(0, 1 - sqrt(KL / 2))``.

    `divergence` is KL(p || q), or anything at least as large (the cross-entropy), in nats; from 2
    nats on the bound says nothing. Unclipped, the speed-up's bound would be false for even draft
    lengths and divergences above 8 nats.

    Example:
        >>> pinsker_bound(np.array([0.5, 2.0, 16.0])).tolist()
        [0.5, 0.0, 0.0]

    Source:
        Sandler et al. 2025 (arXiv:2510.02128), theorem 1, whose printed form is not clipped;
        Pinsker's inequality, ``TV <= sqrt(KL / 2)``.
    """
    return np.maximum(0, 1 - np.sqrt(np.maximum(divergence, 0) / 2))


def bretagnolle_huber_bound(divergence: Array) -> Array:
    """Least overlap at a KL divergence in nats: ``1 - sqrt(1 - exp(-KL))``, always above 0.

    Better than Pinsker's above 1.594 nats.

    Source:
        Bretagnolle and Huber 1979; Canonne 2022, A short note on an inequality between KL and TV
        (arXiv:2202.07198).
    """
    return 1 - np.sqrt(-np.expm1(-np.maximum(divergence, 0)))


def overlap_range(target_misfit: Array, drafter_misfit: Array) -> tuple[Array, Array]:
    """Least and largest overlap for two misfits: ``1 - (r_p + r_q)`` and ``1 - |r_q - r_p|``.

    ``r = E[TV(., pi)]`` with pi the reference, a point mass on its token, so that
    ``1 - r_q = E[q(token)]``. The lower one is clipped at 0.

    Source:
        Sandler et al. 2025 (arXiv:2510.02128), theorem 2; the triangle inequality.
    """
    low = np.maximum(0, 1 - (target_misfit + drafter_misfit))
    return low, 1 - np.abs(drafter_misfit - target_misfit)


def _better(divergence: Array) -> Array:
    return np.maximum(pinsker_bound(divergence), bretagnolle_huber_bound(divergence))


def _overlap_from(name: str, ratio: str, basis: str, bound: Callable[[Array], Array]) -> Metric:
    return Metric(
        name=f"overlap_bound_{name}",
        description=f"bound of overlap, below: {basis}",
        requests=f"{ratio}.requests",
        evaluate=lambda sums, _run: bound(ratio_of(sums, ratio)),
    )


def _speedup_from(name: str, ratio: str, basis: str, bound: Callable[[Array], Array]) -> Metric:
    return Metric(
        name=f"speedup_bound_{name}",
        description=f"lower bound of textbook_speedup: {basis}",
        requests=f"{ratio}.requests",
        evaluate=lambda sums, run: textbook(bound(ratio_of(sums, ratio)), sums, run),
        uses_run=True,
    )


def _scored_overlap_from_misfits(end: int, name: str, side: str, formula: str) -> Metric:
    misfits = "1 - target_reference_probability", "1 - drafter_reference_probability"
    return Metric(
        name=f"scored_overlap_bound_{name}",
        description=f"bound of scored_overlap, {side}: {formula}, from both misfits",
        requests="drafter_reference_probability.requests",
        evaluate=lambda sums, _run: overlap_range(*(ratio_of(sums, one) for one in misfits))[end],
    )


_FROM_DIVERGENCES = (
    ("pinsker", "kl", "Pinsker's, from KL", pinsker_bound),
    ("bretagnolle_huber", "kl", "Bretagnolle and Huber's, from KL", bretagnolle_huber_bound),
    ("kl", "kl", "the better of the two", _better),
    (
        "cross_entropy",
        "cross_entropy",
        "Pinsker's, from the cross-entropy, as the paper prints it but clipped",
        pinsker_bound,
    ),
)
BOUNDS: tuple[Metric, ...] = (
    *(_overlap_from(*row) for row in _FROM_DIVERGENCES),
    _speedup_from("total_variation", "overlap", "at the measured overlap", lambda overlap: overlap),
    *(_speedup_from(*row) for row in _FROM_DIVERGENCES),
    _scored_overlap_from_misfits(0, "low", "below", "1 - (r_p + r_q)"),
    _scored_overlap_from_misfits(1, "high", "above", "1 - |r_q - r_p|"),
)
"""Bounds of each group and of the whole run, to be read beside the measured values."""
