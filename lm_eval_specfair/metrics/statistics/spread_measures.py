"""The measures of spread that a report gives, with what each needs to be computed and read."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from lm_eval_specfair.metrics.arrays import Array
from lm_eval_specfair.metrics.definitions.metric import Metric
from lm_eval_specfair.metrics.statistics import inequality

UNFAIRNESS, RELATIVE_UNFAIRNESS = "unfairness", "relative_unfairness"
SHARE_THAT_LOSE = "share_that_lose"


@dataclass(frozen=True, slots=True)
class SpreadMeasure:
    """A measure of spread across groups.

    Inverted tests of many groups cover extremes too seldom (90% of 95 with 30 groups).
    """

    label: str  # what a sentence calls it
    of: Callable[[Array], Array]  # from groups' values, (..., num_groups), to (...)
    most: float = np.inf  # its largest value
    falls: bool = False  # whether it falls as groups move apart
    is_extreme: bool = False  # depends on the largest or the smallest value alone
    is_default: bool = False  # whether a report gives it without being asked
    only_speedups: bool = False  # needs 1 to mean "as fast as plain decoding"
    is_variance: bool = False  # less noise; only of metrics with an unfairness


SPREAD_MEASURES: Mapping[str, SpreadMeasure] = {
    "difference": SpreadMeasure(
        "difference", inequality.difference, is_extreme=True, is_default=True
    ),
    "ratio": SpreadMeasure(
        "ratio", inequality.ratio, most=1, falls=True, is_extreme=True, is_default=True
    ),
    "standard_deviation": SpreadMeasure("standard deviation", inequality.standard_deviation),
    "coefficient_of_variation": SpreadMeasure(
        "coefficient of variation", inequality.coefficient_of_variation, is_default=True
    ),
    "gini": SpreadMeasure("Gini", inequality.gini, most=1, is_default=True),
    "theil": SpreadMeasure("Theil", inequality.theil),
    "atkinson": SpreadMeasure("Atkinson (1/2)", inequality.atkinson, most=1),
    "jain": SpreadMeasure("Jain", inequality.jain, most=1, falls=True),
    "parity_gain": SpreadMeasure(
        "parity gain", inequality.parity_gain, most=1, is_extreme=True, only_speedups=True
    ),
    "parity_cost": SpreadMeasure(
        "parity cost", inequality.parity_cost, is_extreme=True, only_speedups=True
    ),
    SHARE_THAT_LOSE: SpreadMeasure(
        "share of groups that lose",
        inequality.share_below_one,
        most=1,
        is_default=True,
        only_speedups=True,
    ),
    UNFAIRNESS: SpreadMeasure(
        "variance U less noise", inequality.variance, is_default=True, is_variance=True
    ),
    RELATIVE_UNFAIRNESS: SpreadMeasure(
        "over the squared mean", inequality.relative_variance, is_variance=True
    ),
}
"""By name, in the order of reports."""


def measures_for(metric: Metric, *, all_measures: bool) -> dict[str, SpreadMeasure]:
    """The measures of a metric, by name; with `all_measures` also those given only on request."""
    return {
        name: measure
        for name, measure in SPREAD_MEASURES.items()
        if (all_measures or measure.is_default)
        and (metric.is_speedup or not measure.only_speedups)
        and (metric.has_unfairness or not measure.is_variance)
    }
