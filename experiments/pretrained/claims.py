"""Sentences of results/pretrained as numbers: ranks and rank correlations, with intervals."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from run_values import Measured
from scipy import stats

from lm_eval_specfair.groups.languages import languages
from lm_eval_specfair.metrics.order_stability import ResampledValues
from lm_eval_specfair.metrics.statistics.bootstrap import SEED
from lm_eval_specfair.metrics.statistics.rank_correlation import spearman

Array = npt.NDArray[np.float64]
RATE = "conditional_acceptance_rate"


def rank_of(one: ResampledValues, group: str) -> tuple[int, int, int, int]:
    """A group's rank from the top, its 95% over documents, and the number of groups."""
    place = list(one.groups).index(group)
    rank = 1 + int((one.values > one.values[place]).sum())
    drawn = 1 + (one.replicates > one.replicates[:, [place]]).sum(1)
    low, high = np.quantile(drawn, [0.025, 0.975], method="nearest")
    return rank, int(low), int(high), len(one.groups)


def correlation(
    one: ResampledValues, other: ResampledValues, sign: int = 1
) -> tuple[float, float, float, float, int] | None:
    """Spearman of two metrics over the groups that have both, 95% over documents, p, groups."""
    groups = [group for group in one.groups if group in other.groups]
    if len(groups) < 4:
        return None
    x, y = one.of(groups), other.of(groups)
    value, p_value = spearman(x.values, sign * y.values, np.random.default_rng(SEED))
    first = stats.rankdata(x.replicates, axis=1)
    second = stats.rankdata(sign * y.replicates, axis=1)
    first -= first.mean(1, keepdims=True)
    second -= second.mean(1, keepdims=True)
    with np.errstate(invalid="ignore"):
        drawn = (first * second).sum(1) / np.sqrt((first**2).sum(1) * (second**2).sum(1))
    low, high = np.nanquantile(drawn, [0.025, 0.975])
    return value, float(low), float(high), p_value, len(groups)


def of_resource_class(one: ResampledValues) -> ResampledValues:
    numbers = np.array([float(languages()[name].resource_class) for name in one.groups])
    drawn = np.broadcast_to(numbers, one.replicates.shape)
    return ResampledValues(groups=one.groups, values=numbers, replicates=drawn)


def rounding(one: Measured) -> ResampledValues:
    """Bits a byte that the drafter needs beyond the target, on references."""
    own, drafter = one.values["bits_per_byte"], one.values["drafter_bits_per_byte"]
    return ResampledValues(
        groups=own.groups,
        values=drafter.values - own.values,
        replicates=drafter.replicates - own.replicates,
    )


def rank_rows(found: Sequence[Measured], group: str = "en") -> list[list[str]]:
    """English's rank by each measure."""
    rows = []
    for one in found:
        for metric in (RATE, "scored_agreement"):
            values = one.values[metric]
            if group in values.groups:
                rank, low, high, number = rank_of(values, group)
                rows.append(
                    [one.target, one.data, one.kind, metric.replace("_", " "),
                     f"{rank} of {number}", f"{low} to {high}"]
                )  # fmt: skip
    return rows


def correlation_rows(found: Sequence[Measured]) -> list[list[str]]:
    """What goes with what over languages, for each drafter."""
    rows = []
    for one in found:
        rate, steps = one.values[RATE], one.values["steps_per_kilobyte"]
        tau = one.values["mean_acceptance_length"]
        agreement, bits = one.values["scored_agreement"], one.values["bits_per_byte"]
        classes = of_resource_class(agreement)
        pairs = [
            ("acceptance", "repeated 4-grams", rate, one.values["repeated_4grams"], 1),
            ("acceptance", "other script", rate, one.values["other_script_letters"], 1),
            ("tokens a step", "bytes a step", tau, steps, -1),
            ("acceptance", "agreement on references", rate, agreement, 1),
            ("acceptance", "resource class", rate, of_resource_class(rate), 1),
            ("agreement on references", "resource class", agreement, classes, 1),
            ("bits lost on references", "target's bits a byte", rounding(one), bits, 1),
        ]
        for name, other, x, y, sign in pairs:
            result = correlation(x, y, sign) if len(x.groups) and len(y.groups) else None
            if result is not None and np.isfinite(result[0]):
                value, low, high, p_value, number = result
                rows.append(
                    [one.target, one.data, one.kind, name, other, str(number), f"{value:.2f}",
                     f"{low:.2f} to {high:.2f}", f"{p_value:.3g}"]
                )  # fmt: skip
    return rows
