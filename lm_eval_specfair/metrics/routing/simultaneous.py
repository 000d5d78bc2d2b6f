"""Simultaneous claims about the routes of one group, valid for whichever is picked afterwards.

The fastest of several routes looks faster than it is, so its own p-value is too small, and the
p-value of cross-fitting as well: where routes are alike, all folds choose the same lucky one. What
holds is the chance that the largest of all routes' statistics is as large, by their correlation.
"""

from collections.abc import Sequence

import numpy as np
from scipy import special

from lm_eval_specfair.metrics.arrays import Array
from lm_eval_specfair.metrics.statistics.intervals import MAX_UNDEFINED, MIN_DOCUMENTS
from lm_eval_specfair.metrics.statistics.multiple_testing import holm

_DIRECTIONS = 1_000  # and their opposites


def p_values(
    values: Array, replicates: Array, num_documents: int, generator: np.random.Generator
) -> Array:
    """p-values of the claims that truths are above 0, adjusted for all of them together.

    Two-sided, as a 95% interval's: a truth that is not above 0 is claimed to be in half the cases
    at most that its p-value tells. That margin is kept for small samples, which use some of it up.

    Student's t with the resampled standard error, less what skewness adds to it, as a quantile of
    the normal distribution; adjusted by the distribution of the largest of correlated normal
    variables. 1 where too little is known.

    Args:
        values: As observed, shape (num_claims,).
        replicates: Resampled, shape (num_resamples, num_claims).
        num_documents: Units that were resampled.
        generator: Of the directions that are integrated over.

    Source:
        Hothorn, Bretz and Westfall 2008, Simultaneous Inference in General Parametric Models,
        Biometrical Journal 50(3) (the largest statistic); Hall 1992, On the Removal of Skewness by
        Transformation, JRSS B 54(1); Genz and Bretz 2009, Computation of Multivariate Normal and t
        Probabilities, section 4.1 (integration over directions and a radius).
    """
    found = np.ones(len(values))
    finite = np.isfinite(replicates)
    known = np.isfinite(values) & (finite.mean(0) >= 1 - MAX_UNDEFINED)
    if num_documents < MIN_DOCUMENTS or not known.any():
        return found
    rows = replicates[finite[:, known].all(1)][:, known]
    moved = rows - rows.mean(0)
    spread = moved.std(0)
    varies = spread > 1e-12
    if not varies.any():
        return found
    places = np.flatnonzero(known)[varies]
    moved = moved[:, varies] / spread[varies]
    error = spread[varies] * np.sqrt(num_documents / (num_documents - 1))
    statistics = _less_skew(values[places] / error, (moved**3).mean(0))
    z = -special.ndtri(special.stdtr(num_documents - 1, -statistics))
    one_sided = _largest(z, moved.T @ moved / len(moved), generator)
    found[places] = np.minimum(1.0, 2 * one_sided)
    return found


def _less_skew(statistics: Array, skewness: Array) -> Array:
    """Statistics with what skewness adds to them taken off; nothing is added.

    Values that are skewed to the left are larger, and their standard errors smaller, together.
    """
    sixth = np.minimum(skewness, 0.0) / 6
    moved = statistics + sixth * (2 * statistics**2 + 1) + sixth**2 * statistics**3 * 4 / 3
    return np.where(statistics > 0, moved, statistics)


def _largest(z: Array, correlation: Array, generator: np.random.Generator) -> Array:
    """The chance that the largest of correlated normal variables is at least each of some."""
    variances, axes = np.linalg.eigh(correlation)
    real = variances > 1e-9 * variances.max()
    root = axes[:, real] * np.sqrt(variances[real])
    directions = generator.normal(size=(_DIRECTIONS, root.shape[1]))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    directions = np.concatenate([directions, -directions])
    farthest = (directions @ root.T).max(1)
    radius = np.maximum(z, 0.0)[:, None] / np.maximum(farthest, 1e-12)
    beyond = np.where(farthest > 0, special.chdtrc(root.shape[1], radius**2), 0.0).mean(1)
    chances: Array = np.where(z > 0, np.maximum(beyond, special.ndtr(-z)), 1.0)
    return chances


def shown(
    first: Sequence[float], second: Sequence[float], level: float
) -> list[tuple[int | None, float]]:
    """Which claim of each group is shown, 0 or 1 (None: neither), with its adjusted p-value.

    Groups' first claims are one family (Holm). The second is looked at where the first is not
    shown, with what the group has left: its share of the level, which no other group gets.
    """
    adjusted = [1.0 if p is None else p for p in holm(first)]
    failed = sum(p > level for p in adjusted)
    found: list[tuple[int | None, float]] = []
    for p, other in zip(adjusted, second, strict=True):
        fallback = min(1.0, other * failed)
        if p <= level:
            found.append((0, p))
        elif fallback <= level:
            found.append((1, fallback))
        else:
            found.append((None, min(p, fallback)))
    return found
