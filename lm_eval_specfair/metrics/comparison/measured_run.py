"""Runs of the same documents, resampled together, and how each serves its groups.

Knows no records: runs come as sums by document (`metrics.aggregate.aggregator`).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from lm_eval_specfair.metrics import disparity as spreads
from lm_eval_specfair.metrics.arrays import Array
from lm_eval_specfair.metrics.definitions.registry import METRICS, Metric
from lm_eval_specfair.metrics.statistics.bootstrap import Estimate, Resampled, resample
from lm_eval_specfair.metrics.statistics.bootstrap_estimate import (
    BootstrapEstimate,
    combined,
    estimate,
)
from lm_eval_specfair.metrics.statistics.spread_measures import (
    RELATIVE_UNFAIRNESS,
    SHARE_THAT_LOSE,
    SPREAD_MEASURES,
    UNFAIRNESS,
    measures_for,
)


@dataclass(frozen=True, kw_only=True)
class Run:
    """One of the runs, resampled together with the others.

    Attributes:
        name: What it is called in reports.
        resampled: Its sums.
        numbers: The compared groups' numbers in these.
    """

    name: str
    resampled: Resampled
    numbers: Mapping[str, int]
    _estimates: dict[tuple[str, str | None], BootstrapEstimate] = field(
        default_factory=dict, repr=False
    )

    def estimate(self, metric: Metric, group: str | None) -> BootstrapEstimate:
        """A figure of one group; of all requests for None."""
        key = (metric.name, group)
        if key not in self._estimates:
            number = None if group is None else self.numbers[group]
            self._estimates[key] = estimate(self.resampled, metric, number)
        return self._estimates[key]

    def across(
        self, metric: Metric, function: Callable[[Array], Any], *, is_smooth: bool
    ) -> BootstrapEstimate:
        """A function of all groups' figures, which is given them along the last axis."""
        return combined(
            lambda *values: function(np.stack(values, axis=-1)),
            *(self.estimate(metric, group) for group in self.numbers),
            is_smooth=is_smooth,
        )

    def spread(self, metric: Metric, name: str) -> BootstrapEstimate:
        """A measure of spread across groups, one of `SPREAD_MEASURES`."""
        if name not in (UNFAIRNESS, RELATIVE_UNFAIRNESS):
            return self.across(metric, SPREAD_MEASURES[name].of, is_smooth=False)
        # As in `metrics.disparity.unfairness`: less the noise of the estimates, and in resampled
        # values less that of resampling too.
        noise = self._noise(metric)

        def corrected(values: Array) -> Array:
            times = 1 if values.ndim == 1 else 2
            variance: Array = np.maximum(values.var(-1) - times * noise, 0)
            return variance if name == UNFAIRNESS else variance / values.mean(-1) ** 2

        return self.across(metric, corrected, is_smooth=False)

    def corrected_spread(self, metric: Metric, name: str) -> BootstrapEstimate:
        """A measure of spread without what noise adds to it.

        Noise drives groups apart, so that a limit would be found broken too often where groups lie
        closer than their noise. Here each group is first moved towards the mean until the variance
        across groups is `unfairness`, the noise-corrected one.
        """
        # Groups that lose are counted: moving them would change who does.
        if name in (UNFAIRNESS, RELATIVE_UNFAIRNESS, SHARE_THAT_LOSE):
            return self.spread(metric, name)
        noise, measure = self._noise(metric), SPREAD_MEASURES[name].of

        def corrected(values: Array, times: int) -> Array:
            centre, variance = values.mean(-1, keepdims=True), values.var(-1, keepdims=True)
            with np.errstate(divide="ignore", invalid="ignore"):
                kept = np.where(variance > 0, (variance - times * noise) / variance, 0)
            return measure(centre + np.sqrt(np.maximum(kept, 0)) * (values - centre))

        parts = [self.estimate(metric, group) for group in self.numbers]
        observed = np.array([part.value for part in parts])
        resampled = np.stack([part.replicates for part in parts], axis=-1)
        return replace(
            self.spread(metric, name),
            value=float(corrected(observed, 1)) if np.isfinite(noise) else np.nan,
            replicates=corrected(resampled, 2),
        )

    def _noise(self, metric: Metric) -> float:
        """By how much noise raises the variance across groups; NaN if a group is one document."""
        parts = [self.estimate(metric, group) for group in self.numbers]
        if min(part.num_documents for part in parts) < 2:
            return np.nan
        deviations = [
            (part.replicates - part.value) * np.sqrt(part.num_documents / (part.num_documents - 1))
            for part in parts
        ]
        return float(np.nanmean(np.stack(deviations, axis=-1).var(-1)))

    def disparity(self, metric: Metric, *, all_measures: bool = False) -> spreads.Disparity:
        """The spread across groups as a report gives it; all groups must have the figure."""
        parts = {group: self.estimate(metric, group) for group in self.numbers}
        found = spreads.disparity(
            metric,
            list(parts),
            np.array([part.value for part in parts.values()]),
            np.stack([part.replicates for part in parts.values()], axis=1),
            np.array([part.num_documents for part in parts.values()]),
            sum(part.n for part in parts.values()),
            all_measures=all_measures,
        )
        if found is None:
            raise ValueError(f"a spread needs at least two groups, got {len(parts)}")
        return found


@dataclass(frozen=True, kw_only=True, slots=True)
class Standing:
    """A run in one figure: how it serves its groups on average, and the worst of them.

    Attributes:
        mean: Mean over groups, each counting the same.
        worst: The figure of the worst-served group, whichever that is.
        worst_group: Its name.
        best: The figure of the best-served group.
        best_group: Its name.
        beaten_by: Names of runs that are at least as good in both mean and worst, and better in
            one of them (as observed, whatever the intervals); empty on the Pareto front.
    """

    mean: Estimate
    worst: Estimate
    worst_group: str
    best: Estimate
    best_group: str
    beaten_by: Sequence[str] = ()


def resample_together(
    runs: Sequence[Sequence[Array]], generator: np.random.Generator, *, num_resamples: int
) -> list[Resampled]:
    """Draw the same documents in every run.

    Args:
        runs: For each run its blocks, as `metrics.statistics.bootstrap.resample` takes them; blocks
        of two
            runs hold the same documents in the same order.
        generator: Source of all randomness.
        num_resamples: How often.

    Returns:
        One for each run; their resamples belong together.
    """
    together = [np.concatenate(blocks, axis=1) for blocks in zip(*runs, strict=True)]
    drawn = resample(together, generator, num_resamples=num_resamples)
    parts: list[list[Array]] = [[] for _ in runs]
    first = 0
    for block, ones in zip(together, zip(*runs, strict=True), strict=True):
        for part, one in zip(parts, ones, strict=True):
            part.append(drawn.replicates[:, first : first + one.shape[1]])
            first += one.shape[1]
        assert block.shape[1] == sum(one.shape[1] for one in ones)
    found = []
    for blocks, part in zip(runs, parts, strict=True):
        replicates = np.concatenate(part, axis=1)
        found.append(
            Resampled(
                blocks=blocks,
                observed=np.concatenate([block.sum(0) for block in blocks]),
                replicates=replicates,
                run_replicates=replicates.sum(1),
            )
        )
    return found


def spread_names(metric: Metric, *, all_measures: bool = False) -> list[str]:
    """The measures of spread that a figure has."""
    return list(
        measures_for(
            is_speedup=metric.is_speedup,
            has_unfairness=metric.has_unfairness,
            all_measures=all_measures,
        )
    )


def is_measured(run: Run, metric: Metric) -> bool:
    """Whether all groups have a figure."""
    return bool(run.numbers) and all(
        np.isfinite(run.estimate(metric, group).value) for group in run.numbers
    )


def worst_of(metric: Metric) -> Callable[[Array], Array]:
    """The worst of several groups' figures, along the last axis."""
    return (lambda values: values.max(-1)) if metric.lower_is_better else (lambda v: v.min(-1))


def best_of(metric: Metric) -> Callable[[Array], Array]:
    """The best of several groups' figures, along the last axis."""
    return (lambda values: values.min(-1)) if metric.lower_is_better else (lambda v: v.max(-1))


def mean_of(values: Array) -> Array:
    """The mean over groups, each counting the same, along the last axis."""
    mean: Array = values.mean(-1)
    return mean


def standings(runs: Sequence[Run]) -> dict[str, dict[str, Standing]]:
    """Each run's mean over groups and its extremes, in every figure that all runs have.

    Returns:
        By run and metric.
    """
    found: dict[str, dict[str, Standing]] = {run.name: {} for run in runs}
    for metric in METRICS:
        if not all(is_measured(run, metric) for run in runs):
            continue
        alone = {run.name: standing(run, metric) for run in runs}
        for name, one in alone.items():
            beaten_by = [
                other for other, each in alone.items() if _beats(each, one, metric.lower_is_better)
            ]
            found[name][metric.name] = replace(one, beaten_by=beaten_by)
    return found


def standing(run: Run, metric: Metric) -> Standing:
    """A run's mean over groups and its extremes in a figure that all its groups have."""
    values = {group: run.estimate(metric, group).value for group in run.numbers}
    lowest, highest = (pick(values, key=values.__getitem__) for pick in (min, max))
    mean = run.across(metric, mean_of, is_smooth=True).figure
    worst = run.across(metric, worst_of(metric), is_smooth=False).figure
    best = run.across(metric, best_of(metric), is_smooth=False).figure
    assert mean is not None
    assert worst is not None
    assert best is not None
    return Standing(
        mean=mean,
        worst=worst,
        worst_group=highest if metric.lower_is_better else lowest,
        best=best,
        best_group=lowest if metric.lower_is_better else highest,
    )


def _beats(one: Standing, other: Standing, lower_is_better: bool) -> bool:
    sign = -1 if lower_is_better else 1
    mean = sign * (one.mean.value - other.mean.value)
    worst = sign * (one.worst.value - other.worst.value)
    return mean >= 0 and worst >= 0 and (mean > 0 or worst > 0)
