"""A run that was resampled together with others, and its estimates by group."""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lm_eval_specfair.metrics.aggregate.aggregator import Aggregate
from lm_eval_specfair.metrics.arrays import Array
from lm_eval_specfair.metrics.definitions.metric import Metric
from lm_eval_specfair.metrics.disparity import Disparity, GroupValues, disparity
from lm_eval_specfair.metrics.statistics.bootstrap import Resampled, resample
from lm_eval_specfair.metrics.statistics.bootstrap_estimate import (
    BootstrapEstimate,
    Method,
    bootstrap_estimate,
    combined,
)


@dataclass(frozen=True, kw_only=True)
class MeasuredRun:
    """One of the runs, resampled together with the others."""

    name: str
    resampled: Resampled
    numbers: Mapping[str, int]  # of the compared groups in the sums
    documents: Mapping[str, int] = field(default_factory=dict)  # of these groups
    _estimates: dict[tuple[str, str | None], BootstrapEstimate] = field(
        default_factory=dict, repr=False
    )
    _spreads: dict[str, GroupValues] = field(default_factory=dict, repr=False)

    def estimate(self, metric: Metric, group: str | None) -> BootstrapEstimate:
        """A metric of one group; of all requests for None."""
        key = (metric.name, group)
        if key not in self._estimates:
            number = None if group is None else self.numbers[group]
            self._estimates[key] = bootstrap_estimate(self.resampled, metric, number)
        return self._estimates[key]

    def documents_per_unit(self, group: str) -> float:
        """How many documents are drawn together (`aggregate.clusters`): 1, or more of very many."""
        units = self.resampled.num_units(self.numbers[group])
        return max(1.0, self.documents.get(group, units) / units)

    def is_measured(self, metric: Metric) -> bool:
        """Whether all groups have the metric."""
        return bool(self.numbers) and all(
            np.isfinite(self.estimate(metric, group).value) for group in self.numbers
        )

    def across(
        self, metric: Metric, function: Callable[[Array], Any], *, method: Method
    ) -> BootstrapEstimate:
        """A function of all groups' values, which it is given along the last axis."""
        return combined(
            lambda *values: function(np.stack(values, axis=-1)),
            *(self.estimate(metric, group) for group in self.numbers),
            method=method,
        )

    def mean(self, metric: Metric) -> BootstrapEstimate:
        """The mean over groups, each counting the same."""
        return self.across(metric, lambda values: values.mean(-1), method="bca")

    def extreme(self, metric: Metric, *, worst: bool) -> BootstrapEstimate:
        """The worst-served group's value, or the best-served one's, whichever group that is."""
        largest = worst == metric.lower_is_better
        return self.across(
            metric,
            (lambda values: values.max(-1)) if largest else (lambda values: values.min(-1)),
            method="percentile_and_basic",
        )

    def spread(self, metric: Metric) -> GroupValues:
        """The metric across groups, all of which must have it."""
        if metric.name not in self._spreads:
            parts = [self.estimate(metric, group) for group in self.numbers]
            self._spreads[metric.name] = GroupValues.of(parts)
        return self._spreads[metric.name]

    def disparity(self, metric: Metric, *, all_measures: bool = False) -> Disparity | None:
        """The spread across groups as a report gives it."""
        return disparity(metric, list(self.numbers), self.spread(metric), all_measures=all_measures)


def resample_together(
    runs: Mapping[str, Aggregate], generator: np.random.Generator, *, num_resamples: int
) -> list[MeasuredRun]:
    """Draw the same documents in every run, and those that a report of one of them draws."""
    drawn = resample_alike([run.blocks for run in runs.values()], generator, num_resamples)
    return [
        MeasuredRun(
            name=name,
            resampled=resampled,
            numbers={group: run.numbers[group] for group in run.compared},
            documents={group: run.num_documents(group) for group in run.compared},
        )
        for (name, run), resampled in zip(runs.items(), drawn, strict=True)
    ]


def resample_alike(
    runs: Sequence[Sequence[Array]], generator: np.random.Generator, num_resamples: int
) -> list[Resampled]:
    """Resample blocks of several runs (`bootstrap.resample`) with the same draws in each.

    Blocks hold the same documents; the generator is afterwards as if one run had been resampled.

    Raises:
        ValueError: If the runs' blocks differ in documents or groups.
    """
    shapes = {tuple(block.shape[:2] for block in blocks) for blocks in runs}
    if len(shapes) > 1:
        raise ValueError(f"runs must have blocks of the same documents and groups, got {shapes}")
    generators = [*(copy.deepcopy(generator) for _ in runs[1:]), generator]
    return [
        resample(blocks, own, num_resamples=num_resamples)
        for blocks, own in zip(runs, generators, strict=True)
    ]
