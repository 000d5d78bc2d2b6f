"""The base of every weighting rule: what it sees, what it gives, and how weights are normalised.

A rule turns the groups' present state into weights w; the drafter then descends on
`sum_T w_T L_T`, with w treated as constants. Knows no models and no torch.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from lm_eval_specfair.metrics.arrays import Array


@dataclass(frozen=True, kw_only=True, slots=True)
class GroupStates:
    """The groups as a rule sees them; arrays have shape (m,)."""

    names: tuple[str, ...]
    misfit: Array  # e_T, how badly the drafter fits each now, in the signal's unit
    overlap: Array  # its running mean, in [0, 1]
    num_tokens: Array  # of training text


Rule = Callable[[GroupStates], Array]
"""Weights, shape (m,), up to a positive factor; asked once per step.

The order of the groups has no influence on what each gets.
"""


def normalised(weights: Array, floor: float = 0.0) -> Array:
    """Weights whose absolute values add up to 1, mixed with equal ones.

    `(1 - rho) w / sum|w| + rho / m`, shape (m,), with rho the floor in [0, 1]. Where all weights
    vanish (all groups fit equally well), they are equal.

    Example:
        >>> normalised(np.array([0.0, 3.0, 1.0]), floor=0.3).round(3).tolist()
        [0.1, 0.625, 0.275]
    """
    equal = np.full(len(weights), 1 / len(weights))
    total = np.abs(weights).sum()
    scaled = weights / total if total > 0 else equal
    mixed: Array = (1 - floor) * scaled + floor * equal
    return mixed
