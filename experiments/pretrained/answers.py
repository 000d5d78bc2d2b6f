"""Acceptance beside answers: over languages, and over the documents of a language.

Over languages, a rank correlation has a dozen points. Over documents, `slope` asks the sharper
question: within a language, are texts that answer well drafted better?
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lm_eval_specfair.metrics.statistics.bootstrap import NUM_RESAMPLES, SEED
from lm_eval_specfair.metrics.statistics.rank_correlation import NUM_PERMUTATIONS

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Answered:
    """A document, drafted and scored.

    Attributes:
        score: Of its answer, in [0, 1].
        num_examined: Drafted tokens, of which `num_accepted` were kept.
        is_cut_off: Whether the text ended at the limit, not by itself.
    """

    language: str
    score: float
    num_examined: int
    num_accepted: int
    is_cut_off: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Slope:
    """How much acceptance changes with a whole point of the score, in the same language.

    Attributes:
        low: Of 95% over documents, resampled within their language.
        p_value: The chance of a slope as steep, up or down, if scores were exchanged at random
            among a language's documents.
        num_documents: In languages whose scores differ; the others say nothing.
    """

    value: float
    low: float
    high: float
    p_value: float
    num_documents: int
    num_languages: int


def cut_off_shares(answered: Sequence[Answered]) -> dict[str, float]:
    """By language, the share of texts that ended at the limit."""
    return {
        language: float(np.mean([one.is_cut_off for one in answered if one.language == language]))
        for language in sorted({one.language for one in answered})
    }


def slope(
    answered: Sequence[Answered], generator: np.random.Generator | None = None
) -> Slope | None:
    """Acceptance on scores with an intercept for each language, weighted by examined tokens.

    None where no language has documents of different scores.
    """
    generator = generator or np.random.default_rng(SEED)
    blocks = []
    for language in sorted({one.language for one in answered}):
        own = [one for one in answered if one.language == language and one.num_examined]
        scores = np.array([one.score for one in own])
        if len(own) > 1 and np.ptp(scores) > 0:
            examined = np.array([one.num_examined for one in own], dtype=float)
            accepted = np.array([one.num_accepted for one in own], dtype=float)
            blocks.append((scores, examined, accepted))
    if not blocks:
        return None
    value = _pooled([_moments(*(part[None] for part in block)) for block in blocks])[0]
    drawn = _pooled([_resampled(block, generator) for block in blocks])
    exchanged = _pooled([_exchanged(block, generator) for block in blocks])
    low, high = np.nanquantile(drawn, [0.025, 0.975])
    # As Phipson and Smyth 2010: the order at hand is one of those that are possible.
    as_steep = int((np.abs(exchanged) >= abs(value) - 1e-12).sum())
    return Slope(
        value=float(value),
        low=float(low),
        high=float(high),
        p_value=(as_steep + 1) / (NUM_PERMUTATIONS + 1),
        num_documents=sum(len(scores) for scores, _, _ in blocks),
        num_languages=len(blocks),
    )


def _moments(scores: Array, examined: Array, accepted: Array) -> tuple[Array, Array]:
    """Weighted covariance with acceptance, and variance of scores; arrays have rows of drafts."""
    weights = examined.sum(1, keepdims=True)
    away = scores - (examined * scores).sum(1, keepdims=True) / weights
    rate = accepted.sum(1, keepdims=True) / weights
    return (away * (accepted - rate * examined)).sum(1), (examined * away**2).sum(1)


def _pooled(moments: Sequence[tuple[Array, Array]]) -> Array:
    with np.errstate(divide="ignore", invalid="ignore"):
        result: Array = sum(one for one, _ in moments) / sum(one for _, one in moments)
    return result


def _resampled(
    block: tuple[Array, Array, Array], generator: np.random.Generator
) -> tuple[Array, Array]:
    places = generator.integers(len(block[0]), size=(NUM_RESAMPLES, len(block[0])))
    return _moments(*(part[places] for part in block))


def _exchanged(
    block: tuple[Array, Array, Array], generator: np.random.Generator
) -> tuple[Array, Array]:
    scores, *counts = block
    rows = np.tile(scores, (NUM_PERMUTATIONS, 1))
    return _moments(
        generator.permuted(rows, axis=1), *(np.broadcast_to(one, rows.shape) for one in counts)
    )
