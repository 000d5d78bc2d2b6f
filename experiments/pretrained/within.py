"""Acceptance against something else of the same text, within languages.

Over languages, a correlation has a dozen points, and whatever else differs between languages takes
part in it. Within a language the question is sharper: are texts that answer well drafted better?
Those that repeat themselves?
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lm_eval_specfair.metrics.statistics.bootstrap import NUM_RESAMPLES, SEED
from lm_eval_specfair.metrics.statistics.rank_correlation import NUM_PERMUTATIONS

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Document:
    """A text, drafted.

    Attributes:
        num_examined: Drafted tokens, of which `num_accepted` were kept.
        is_cut_off: Whether the text ended at the limit, not by itself.
        is_empty: Whether it ended before it said anything.
        repetition: Share of repeated 4-grams; None where it has none.
        score: Of its answer, in [0, 1]; None where answers are not scored.
    """

    language: str
    num_examined: int
    num_accepted: int
    is_cut_off: bool
    is_empty: bool = False
    repetition: float | None = None
    score: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Slope:
    """How much acceptance changes with a whole point of the other, in the same language.

    Attributes:
        low: Of 95% over documents, resampled within their language.
        p_value: The chance of a slope as steep, up or down, if the other were exchanged at random
            among a language's documents.
        num_documents: In languages where the other differs; the rest say nothing.
    """

    value: float
    low: float
    high: float
    p_value: float
    num_documents: int
    num_languages: int


def shares(documents: Sequence[Document], is_so: Callable[[Document], bool]) -> dict[str, float]:
    """By language, the share of texts that are so."""
    return {
        language: float(np.mean([is_so(one) for one in documents if one.language == language]))
        for language in sorted({one.language for one in documents})
    }


def slope(documents: Sequence[Document], other: Callable[[Document], float | None]) -> Slope | None:
    """Acceptance on another value, with a level for each language, weighted by examined tokens.

    None where the other differs in no language. Documents without it, or without drafts, are left
    out.
    """
    generator = np.random.default_rng(SEED)
    blocks = []
    for language in sorted({one.language for one in documents}):
        known = [
            (value, one.num_examined, one.num_accepted)
            for one in documents
            if one.language == language and one.num_examined and (value := other(one)) is not None
        ]
        values, examined, accepted = np.array(known, dtype=float).reshape(-1, 3).T
        if len(known) > 1 and np.ptp(values) > 0:
            blocks.append((values, examined, accepted))
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
        num_documents=sum(len(values) for values, _, _ in blocks),
        num_languages=len(blocks),
    )


def _moments(values: Array, examined: Array, accepted: Array) -> tuple[Array, Array]:
    """Weighted covariance with acceptance, and variance; each row is a draw of documents."""
    weights = examined.sum(1, keepdims=True)
    away = values - (examined * values).sum(1, keepdims=True) / weights
    # Weighted distances sum to 0, so that the language's level of acceptance drops out.
    return (away * accepted).sum(1), (examined * away**2).sum(1)


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
    values, *counts = block
    rows = np.tile(values, (NUM_PERMUTATIONS, 1))
    return _moments(
        generator.permuted(rows, axis=1), *(np.broadcast_to(one, rows.shape) for one in counts)
    )
