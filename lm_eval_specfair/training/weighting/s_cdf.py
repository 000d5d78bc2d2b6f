"""s-CDF and its relatives: weights from how far a group's misfit is above the others'.

With `U = (1/m) sum_T (e_T - mean)^2`, `grad U = (2/m) sum_T (e_T - mean) grad e_T`: the part that
differentiates the mean vanishes, since deviations add up to 0.
"""

import numpy as np

from lm_eval_specfair.metrics.arrays import Array
from lm_eval_specfair.training.options import NonNegative
from lm_eval_specfair.training.weighting.base import GroupStates


def shift(groups: GroupStates) -> Array:
    """Shift by minimum, `e_T - min_j e_j`: the form that is called s-CDF here.

    Descends on the variance plus a penalty of the mean that shrinks with the spread:
    `sum_T w_T grad e_T = (m/2) (grad U + 2 (mean - min) grad mean)`. The best group gets nothing.

    Source:
        Sandler et al. 2025 (arXiv:2510.02128), "shift-by-minimum"; the formula is inferred.
    """
    shifted: Array = groups.misfit - groups.misfit.min()
    return shifted


def signed(groups: GroupStates) -> Array:
    """`e_T - mean`, the exact gradient of U (times m/2); for ablations only.

    Negative weights ascend on groups that fit well, on a loss without an upper bound: U falls
    because everybody gets slower.
    """
    centred: Array = groups.misfit - groups.misfit.mean()
    return centred


def clip(groups: GroupStates) -> Array:
    """Positive part, `max(0, e_T - mean)`: groups better than the mean get no training."""
    return np.maximum(signed(groups), 0.0)


def variance(groups: GroupStates, *, strength: NonNegative = 2.0) -> Array:
    """Mean plus variance: `1 + 2 lambda (e_T - mean)`, m times the gradient of `mean + lambda U`.

    Lambda is `strength`, in one over the signal's unit. Negative for a group that fits better than
    the mean by more than `1 / (2 lambda)`.
    """
    return 1 + 2 * strength * signed(groups)
