"""How much of the spread of acceptance across groups goes with where in a text tokens are.

Acceptance of group g at position b is taken as ``a_g + f_b``: a level of the group and a course by
position that all groups share, fitted by least squares with the numbers of examined tokens as
weights. Each group's acceptance is then exactly ``a_g + c_g``, where ``c_g`` is the course averaged
over the positions that this group's tokens are at. The share explained is ``Cov(c, acceptance) /
Var(acceptance)`` over groups, which weigh equally, less what noise in documents adds to both. It is
1 where acceptance depends on position alone, 0 where it depends on the group alone.

Source:
    Kitagawa 1955, Components of a Difference Between Two Rates, JASA 50(272) (rates and
    composition); the additive course is ours, since groups need not have all positions.
"""

from dataclasses import dataclass

import numpy as np

from lm_eval_specfair.metrics.arrays import Array
from lm_eval_specfair.metrics.statistics.intervals import Estimate, percentile_interval

NUM_RESAMPLES = 1_000
FEWEST_GROUPS = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class PositionShare:
    """What position explains.

    Attributes:
        share: Of the variance across groups; None where groups do not differ beyond noise.
        at_equal_positions: Of each group, in order, its acceptance at the positions of the average
            group.
    """

    share: Estimate | None
    at_equal_positions: tuple[Estimate, ...]


def position_share(
    kept: Array, examined: Array, *, is_parallel: bool, generator: np.random.Generator
) -> PositionShare | None:
    """The share of the spread across groups that position explains; None with too few groups.

    Args:
        kept: Tokens kept, shape (num_groups, num_units, num_bins), by unit of documents.
        examined: Tokens examined, same shape; every group has some.
        is_parallel: Whether the same unit is drawn in all groups.
        generator: Of the resamples.
    """
    if len(kept) < FEWEST_GROUPS:
        return None
    times = _times(examined, generator, is_parallel=is_parallel)
    used = examined.sum((0, 1)) > 0
    parts = kept[..., used], examined[..., used]
    value, course = additive_fit(*(part.sum(1)[None] for part in parts))
    value, course = value[0], course[0]
    drawn = [np.einsum("mgu,gub->mgb", times, part) for part in parts]
    values, courses = additive_fit(*drawn)
    fewest = int((examined.sum(2) > 0).sum(1).min())
    num = int(examined.sum())

    def covariance(one: Array, other: Array) -> Array:
        deviations = one - one.mean(-1, keepdims=True), other - other.mean(-1, keepdims=True)
        product: Array = (deviations[0] * deviations[1]).mean(-1)
        return product

    small_sample = fewest / max(fewest - 1, 1)
    noise = [
        float(np.nanmean(covariance(one, values - value))) * small_sample
        for one in (courses - course, values - value)
    ]

    def share(course: Array, value: Array, corrections: int) -> Array:
        spread = covariance(value, value) - corrections * noise[1]
        with np.errstate(divide="ignore", invalid="ignore"):
            found: Array = (covariance(course, value) - corrections * noise[0]) / spread
        return np.where(spread > 0, found, np.nan)

    observed = float(share(course, value, 1))
    estimate = None
    if np.isfinite(observed):
        low, high = percentile_interval(share(courses, values, 2), fewest) or (None, None)
        estimate = Estimate(value=observed, low=low, high=high, n=num)
    equal = value - (course - course.mean())
    equals = values - (courses - courses.mean(-1, keepdims=True))
    return PositionShare(
        share=estimate,
        at_equal_positions=tuple(
            _estimate(equal[g], equals[:, g], examined[g]) for g in range(len(equal))
        ),
    )


def _estimate(value: float, replicates: Array, examined: Array) -> Estimate:
    units = int((examined.sum(-1) > 0).sum())
    low, high = percentile_interval(replicates, units) or (None, None)
    return Estimate(value=float(value), low=low, high=high, n=int(examined.sum()))


def _times(examined: Array, generator: np.random.Generator, *, is_parallel: bool) -> Array:
    """How often each unit is drawn, shape (num_resamples, num_groups, num_units)."""
    num_groups, num_units = examined.shape[:2]
    has = examined.sum(2) > 0
    times = np.zeros((NUM_RESAMPLES, num_groups, num_units))
    if is_parallel:
        [there] = np.nonzero(has.any(0))
        times[:, :, there] = generator.multinomial(
            len(there), np.full(len(there), 1 / len(there)), size=NUM_RESAMPLES
        )[:, None]
        return times
    for group in range(num_groups):
        [there] = np.nonzero(has[group])
        times[:, group, there] = generator.multinomial(
            len(there), np.full(len(there), 1 / len(there)), size=NUM_RESAMPLES
        )
    return times


def additive_fit(kept: Array, examined: Array) -> tuple[Array, Array]:
    """Each group's acceptance, and its part that the shared course by position makes.

    Both of shape (num_fits, num_groups), from arguments of shape (num_fits, num_groups, num_bins).
    Only differences between groups in the second mean anything.
    """
    in_group = examined.sum(2)
    with np.errstate(divide="ignore", invalid="ignore"):
        value = kept.sum(2) / in_group
        weights = np.nan_to_num(examined / in_group[..., None])
    # Levels are eliminated: what is left are the courses' own normal equations, singular by one.
    matrix = -np.einsum("mgb,mgc->mbc", weights, examined)
    every = np.arange(matrix.shape[1])
    matrix[:, every, every] += examined.sum(1)
    right = kept.sum(1) - np.einsum("mgb,mg->mb", examined, np.nan_to_num(value))
    course = np.einsum("mbc,mc->mb", np.linalg.pinv(matrix, rcond=1e-10, hermitian=True), right)
    return value, np.einsum("mgb,mb->mg", weights, course)
