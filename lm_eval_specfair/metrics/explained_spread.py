"""How much of the spread of a metric across groups goes with other metrics of the groups."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lm_eval_specfair.metrics.arrays import Array
from lm_eval_specfair.metrics.rank_agreement import RESOURCE_CLASS, number_in
from lm_eval_specfair.metrics.statistics.intervals import CONFIDENCE, Estimate

EXPLAINED = ("conditional_acceptance_rate", "overlap", "scored_agreement")
COVARIATES = (
    "repeated_4grams", "other_script_letters", "bytes_per_token", "bits_per_byte",
    "draft_vocabulary_coverage", RESOURCE_CLASS,
)  # fmt: skip
"""Each that is measured alone, then all of them together."""
OF_GENERATED_TEXT = ("repeated_4grams", "other_script_letters", "bytes_per_token")
"""Covariates that say nothing about text that was given."""
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
    low: float | None = None  # of r_squared: 95% over documents, the groups being what they are
    high: float | None = None


def explained_spreads(
    groups: Mapping[str, Mapping[str, Estimate | None]],
    generator: np.random.Generator,
    *,
    resource_classes: Mapping[str, str] | None = None,
    replicates: Mapping[str, Mapping[str, Array]] | None = None,
) -> list[ExplainedSpread]:
    """Shares for each of `EXPLAINED`; none where too few groups have the metrics.

    Args:
        groups: Estimates by metric.
        generator: Of the permutations.
        resource_classes: Of groups, where known, taken by their number.
        replicates: By metric and group, shape (num_resamples,), drawn together: for intervals.
    """
    classes = {name: number_in(one) for name, one in (resource_classes or {}).items()}

    def value(name: str, group: str) -> float:
        if name == RESOURCE_CLASS:
            return classes.get(group, np.nan)
        one = groups[group].get(name)
        return np.nan if one is None else one.value

    def resampled(name: str, group: str) -> Array:
        if name == RESOURCE_CLASS:
            return np.array([classes[group]])
        assert replicates is not None
        return replicates[name][group]

    found = []
    for figure in EXPLAINED:
        candidates = [
            name
            for name in COVARIATES
            if not (figure.startswith("scored_") and name in OF_GENERATED_TEXT)
        ]
        table = {name: [value(name, group) for group in groups] for name in (figure, *candidates)}
        enough = [name for name in candidates if np.isfinite(table[name]).sum() > _FEWEST_MORE]
        together = [tuple(enough)] if len(enough) > 1 else []
        for by in (*((name,) for name in enough), *together):
            values = np.array([table[name] for name in (figure, *by)]).T.reshape(-1, 1 + len(by))
            is_known = np.isfinite(values).all(1)
            known = values[is_known]
            share = explained_share(known[:, 0], known[:, 1:], generator)
            if share is None:
                continue
            low = high = None
            if replicates is not None:
                names = [group for group, has in zip(groups, is_known, strict=True) if has]
                drawn = [
                    np.stack(np.broadcast_arrays(*(resampled(name, group) for group in names)))
                    for name in (figure, *by)
                ]
                # Axes: resamples, groups, metrics.
                low, high = share_interval(np.stack(np.broadcast_arrays(*drawn)).T)
            r_squared, adjusted, p_value = share
            found.append(
                ExplainedSpread(
                    figure=figure,
                    by=by,
                    num_groups=len(known),
                    r_squared=r_squared,
                    r_squared_adjusted=adjusted,
                    p_value=p_value,
                    low=low,
                    high=high,
                )
            )
    return found


def share_interval(drawn: Array) -> tuple[float | None, float | None]:
    """95% of R squared over resamples, by percentiles; None where most resamples have none.

    Noise of the documents lowers R squared, and resampling adds as much again, so the interval
    leans to low values.

    Args:
        drawn: Shape (num_resamples, num_groups, 1 + num_covariates), what is explained first.
    """
    usable = drawn[np.isfinite(drawn).all((1, 2))]
    if 2 * len(usable) < len(drawn):
        return None, None
    centred = usable - usable.mean(1, keepdims=True)
    values, covariates = centred[:, :, 0], centred[:, :, 1:]
    sizes = np.linalg.norm(covariates, axis=1, keepdims=True)
    scaled = np.divide(covariates, sizes, out=np.zeros_like(covariates), where=sizes > 0)
    basis, spans, _ = np.linalg.svd(scaled, full_matrices=False)
    basis *= (spans > spans[:, :1] * 1e-9)[:, None]
    total = (values**2).sum(1)
    explained = (np.einsum("rg,rgk->rk", values, basis) ** 2).sum(1)
    shares = explained[total > 0] / total[total > 0]
    if not len(shares):
        return None, None
    low, high = np.quantile(shares, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)


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
