"""s-CDF and its relatives: weights from how far a group's misfit lies above the others'.

With `U = (1/m) sum_T (e_T - mean)^2`, `grad U = (2/m) sum_T (e_T - mean) grad e_T`: the part that
differentiates the mean vanishes, since deviations add up to 0.
"""

import numpy as np

from lm_eval_specfair.training.group_sums import Array
from lm_eval_specfair.training.weighting.base import Groups, Stateless


class Shift(Stateless):
    """Shift by minimum, `e_T - min_j e_j`: the form that is called s-CDF here.

    Descends on the variance plus a penalty of the mean that shrinks with the spread:
    `sum_T w_T grad e_T = (m/2) (grad U + 2 (mean - min) grad mean)`. The best group gets nothing.

    Source:
        Sandler et al. 2025 (arXiv:2510.02128), "shift-by-minimum"; the formula is inferred.
    """

    def weights(self, groups: Groups) -> Array:
        """All at least 0."""
        shifted: Array = groups.misfit - groups.misfit.min()
        return shifted


class Clip(Stateless):
    """Positive part, `max(0, e_T - mean)`: groups better than the mean get no training."""

    def weights(self, groups: Groups) -> Array:
        """All at least 0."""
        clipped: Array = np.maximum(groups.misfit - groups.misfit.mean(), 0.0)
        return clipped


class Signed(Stateless):
    """`e_T - mean`, the exact gradient of U (times m/2); for ablations only.

    Negative weights ascend on groups that fit well, on a loss without an upper bound: U falls
    because everybody gets slower.
    """

    def weights(self, groups: Groups) -> Array:
        """They add up to 0."""
        centred: Array = groups.misfit - groups.misfit.mean()
        return centred


class VariancePenalty(Stateless):
    """Mean plus variance: `1 + 2 lambda (e_T - mean)`, the gradient of `mean + lambda U`.

    Negative for a group that fits better than the mean by more than `1 / (2 lambda)`.
    """

    def __init__(self, strength: float = 2.0) -> None:
        """Penalise with lambda = `strength`, in one over the signal's unit."""
        self._strength = strength

    def weights(self, groups: Groups) -> Array:
        """Up to the factor 1/m, the exact gradient."""
        weights: Array = 1 + 2 * self._strength * (groups.misfit - groups.misfit.mean())
        return weights
