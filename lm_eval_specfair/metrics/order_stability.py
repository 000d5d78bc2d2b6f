"""Whether several runs order groups alike, with intervals over the documents they were made of."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from lm_eval_specfair.metrics.aggregate.aggregator import FEWEST_GROUPS, Aggregate
from lm_eval_specfair.metrics.arrays import Array
from lm_eval_specfair.metrics.definitions.registry import METRICS
from lm_eval_specfair.metrics.statistics.bootstrap import NUM_RESAMPLES, SEED, resample
from lm_eval_specfair.metrics.statistics.intervals import CONFIDENCE
from lm_eval_specfair.metrics.statistics.rank_correlation import concordance_p, kendall_w


@dataclass(frozen=True, kw_only=True, slots=True)
class ResampledValues:
    """A metric of each group of one run.

    Attributes:
        groups: Those that have it.
        values: Shape (num_groups,).
        replicates: Shape (num_resamples, num_groups). Runs of the same documents, such as replays
            of one run's texts, are resampled alike, draw for draw.
    """

    groups: Sequence[str]
    values: Array
    replicates: Array

    def of(self, groups: Sequence[str]) -> "ResampledValues":
        """The same of some of the groups, in this order."""
        places = [list(self.groups).index(group) for group in groups]
        return ResampledValues(
            groups=groups, values=self.values[places], replicates=self.replicates[:, places]
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class OrderStability:
    """Kendall's W of several runs, on the groups that all of them have.

    Noise moves groups past each other, and resampling adds as much again: the interval leans to
    low values.
    """

    groups: Sequence[str]
    names: Sequence[str]
    w: float
    low: float
    high: float
    p_value: float  # the chance of a W as large if the orders had nothing in common


def resampled_values(
    counted: Aggregate, metrics: Sequence[str], *, num_resamples: int = NUM_RESAMPLES
) -> dict[str, ResampledValues]:
    """Metrics of a run's compared groups, drawn together."""
    resampled = resample(
        counted.each_block(), np.random.default_rng(SEED), num_resamples=num_resamples
    )
    known = {metric.name: metric for metric in METRICS}
    found = {}
    for name in metrics:
        parts = {
            group: resampled.values(known[name], counted.numbers[group])
            for group in counted.compared
        }
        measured = [group for group, (value, _) in parts.items() if np.isfinite(value)]
        found[name] = ResampledValues(
            groups=measured,
            values=np.array([parts[group][0] for group in measured]),
            replicates=np.array([parts[group][1] for group in measured]).T,
        )
    return found


def order_stability(
    runs: Mapping[str, ResampledValues], generator: np.random.Generator
) -> OrderStability | None:
    """Kendall's W with its interval and p-value; None for one run, or fewer than three groups.

    Args:
        runs: By name.
        generator: Of the permutations.
    """
    names = list(runs)
    if len(names) < 2:
        return None
    common = [
        group
        for group in runs[names[0]].groups
        if all(group in runs[name].groups for name in names)
    ]
    if len(common) < FEWEST_GROUPS:
        return None
    parts = [runs[name].of(common) for name in names]
    table = np.stack([part.values for part in parts])
    drawn = concordances(np.stack([part.replicates for part in parts], axis=1))
    w = kendall_w(table)
    if not np.isfinite(w):
        return None
    low, high = np.nanquantile(drawn, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return OrderStability(
        groups=common,
        names=names,
        w=w,
        low=float(low),
        high=float(high),
        p_value=concordance_p(table, generator),
    )


def concordances(tables: Array) -> Array:
    """Kendall's W of each of many tables, corrected for ties; NaN where nothing is ordered.

    Args:
        tables: Shape (num_tables, num_repetitions, num_groups).

    Source:
        Kendall and Babington Smith 1939, The Problem of m Rankings, Annals of Mathematical
        Statistics 10(3).
    """
    _, m, n = tables.shape
    ranks = stats.rankdata(tables, axis=2)
    sums = ranks.sum(1)
    spread = ((sums - m * (n + 1) / 2) ** 2).sum(1)
    # The sum of t^3 - t over ties follows from the ranks' own spread.
    own = ((ranks - (n + 1) / 2) ** 2).sum((1, 2))
    with np.errstate(divide="ignore", invalid="ignore"):
        result: Array = spread / (m * own)
    return result
