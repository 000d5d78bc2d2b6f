"""How much of the spread of a metric across groups goes with other metrics of the groups."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lm_eval_specfair.metrics.arrays import Array
from lm_eval_specfair.metrics.statistics.intervals import Estimate

EXPLAINED = ("conditional_acceptance_rate", "overlap")
COVARIATES = ("repeated_4grams", "bytes_per_token")
"""Each alone, then all together."""
NUM_PERMUTATIONS = 9_999
_FEWEST_MORE = 3  # groups beyond the numbers that are fitted


@dataclass(frozen=True, kw_only=True, slots=True)
class ExplainedSpread:
    """A share of the variance of a metric across groups, which all weigh the same.

    It is what a linear regression with these covariates leaves out of the residuals: association,
    not cause.
    """

    figure: str
    by: Sequence[str]
    num_groups: int  # that have all of these
    r_squared: float  # in [0, 1]
    r_squared_adjusted: float  # for the number of covariates; may be below 0
    p_value: float  # the chance of as much if the groups' values were exchanged at random


def explained_spreads(
    groups: Mapping[str, Mapping[str, Estimate | None]], generator: np.random.Generator
) -> list[ExplainedSpread]:
    """Shares for each of `EXPLAINED`; none where too few groups have the metrics."""
    found = []
    for figure in EXPLAINED:
        for by in (*((name,) for name in COVARIATES), COVARIATES):
            values = np.array(
                [
                    [
                        np.nan if (one := each.get(name)) is None else one.value
                        for name in (figure, *by)
                    ]
                    for each in groups.values()
                ]
            ).reshape(-1, 1 + len(by))
            known = values[np.isfinite(values).all(1)]
            share = explained_share(known[:, 0], known[:, 1:], generator)
            if share is not None:
                r_squared, adjusted, p_value = share
                found.append(
                    ExplainedSpread(
                        figure=figure,
                        by=by,
                        num_groups=len(known),
                        r_squared=r_squared,
                        r_squared_adjusted=adjusted,
                        p_value=p_value,
                    )
                )
    return found


def explained_share(
    values: Array, covariates: Array, generator: np.random.Generator
) -> tuple[float, float, float] | None:
    """R squared, the same adjusted, and its permutation p-value.

    None where groups are too few, or nothing varies.

    Args:
        values: Shape (num_groups,).
        covariates: Shape (num_groups, num_covariates).
        generator: Of the permutations.

    Source:
        Phipson and Smyth 2010, Permutation p-values should never be zero, Statistical Applications
        in Genetics and Molecular Biology 9(1).
    """
    number, width = covariates.shape
    if (
        number < width + 1 + _FEWEST_MORE
        or np.ptp(values) == 0
        or (np.ptp(covariates, 0) == 0).any()
    ):
        return None
    # An orthonormal basis of what the covariates span, apart from the mean.
    scaled = (covariates - covariates.mean(0)) / covariates.std(0)
    basis, sizes, _ = np.linalg.svd(scaled, full_matrices=False)
    basis = basis[:, sizes > sizes[0] * 1e-9]
    centred = values - values.mean()
    total = float((centred**2).sum())
    share = float(((centred @ basis) ** 2).sum()) / total
    orders = generator.permuted(np.tile(centred, (NUM_PERMUTATIONS, 1)), axis=1)
    shares = ((orders @ basis) ** 2).sum(1) / total
    p_value = (1 + int((shares >= share * (1 - 1e-12)).sum())) / (1 + NUM_PERMUTATIONS)
    freedom = number - 1 - basis.shape[1]
    return share, 1 - (1 - share) * (number - 1) / freedom, p_value
