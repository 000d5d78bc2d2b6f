"""The change that another drafter brings: for whom, by how much, and how surely.

All runs are resampled together: a draw of documents is the same in each, so that what makes a
document hard for every drafter falls out of the differences.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from lm_eval_specfair.groups.assign import DEFAULT_MIN_REQUESTS, NO_GROUP
from lm_eval_specfair.metrics.aggregate.aggregator import Aggregator
from lm_eval_specfair.metrics.comparison.measured_run import MeasuredRun, resample_together
from lm_eval_specfair.metrics.comparison.pairing import TextAgreement
from lm_eval_specfair.metrics.comparison.pareto import Standing, standings
from lm_eval_specfair.metrics.definitions.metric import Metric
from lm_eval_specfair.metrics.definitions.registry import METRICS
from lm_eval_specfair.metrics.disparity import GroupValues
from lm_eval_specfair.metrics.statistics.bootstrap import NUM_RESAMPLES, SEED
from lm_eval_specfair.metrics.statistics.bootstrap_estimate import BootstrapEstimate, combined
from lm_eval_specfair.metrics.statistics.intervals import Estimate
from lm_eval_specfair.metrics.statistics.multiple_testing import holm
from lm_eval_specfair.metrics.statistics.spread_measures import SPREAD_MEASURES, measures_for


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """One metric in two runs.

    Of a measure of spread the difference's interval is that of the spreads less what noise adds to
    each. Holm's correction is, for a group, over all groups of its candidate, for a measure of
    spread over all measures; only where a family-wise rate was asked for, also over all candidates.
    Overall changes have none.
    """

    base: Estimate
    candidate: Estimate
    difference: Estimate
    relative: Estimate | None  # share of the base's value; None unless both are positive
    p_value: float | None  # two-sided; None where there is too little to tell
    p_adjusted: float | None = None


_Change = TypeVar("_Change", Change, Change | None)


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """What a candidate changes."""

    name: str
    overall: Mapping[str, Change | None]  # by metric; None where not measured in both
    groups: Mapping[str, Mapping[str, Change | None]]  # by group and metric
    spreads: Mapping[str, Mapping[str, Change]]  # by metric and measure of spread across groups
    texts: TextAgreement  # whether greedy texts agree with the base's


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Everything that a comparison shows."""

    group_by: str
    runs: Sequence[MeasuredRun]  # the base and the candidates, with what a gate needs
    candidates: Sequence[Candidate]
    standings: Mapping[str, Mapping[str, Standing]]  # by run and metric that all runs have
    groups: Sequence[str]
    group_requests: Mapping[str, int]
    not_reported: Mapping[str, int]  # groups with too few requests, and how many
    num_ungrouped: int
    min_requests: int
    num_resamples: int
    is_parallel: bool  # whether documents were drawn together in all groups
    family_wise: bool = False  # whether p-values are corrected over all candidates together


def compare(
    aggregators: Mapping[str, Aggregator],
    texts: Mapping[str, TextAgreement],
    *,
    min_requests: int = DEFAULT_MIN_REQUESTS,
    num_resamples: int = NUM_RESAMPLES,
    generator: np.random.Generator | None = None,
    all_measures: bool = False,
    family_wise: bool = False,
) -> Comparison:
    """Compare candidates with a base, the first of the aggregators; all have the same requests.

    What is said of a candidate is the same to the last bit whoever else is compared, unless
    `family_wise` makes all candidates one family. Without a `generator`, a comparison made twice is
    the same.
    """
    counted = {name: aggregator.aggregate(min_requests) for name, aggregator in aggregators.items()}
    base = next(iter(counted.values()))
    runs = resample_together(
        counted, generator or np.random.default_rng(SEED), num_resamples=num_resamples
    )
    candidates = [
        _candidate(runs[0], run, texts[run.name], all_measures=all_measures) for run in runs[1:]
    ]
    families = [candidates] if family_wise else [[candidate] for candidate in candidates]
    candidates = [one for family in families for one in _adjusted(family)]
    return Comparison(
        group_by=base.group_by,
        runs=runs,
        candidates=candidates,
        standings=standings(runs),
        groups=base.compared,
        group_requests={group: base.requests[group] for group in base.compared},
        not_reported={
            group: n
            for group, n in sorted(base.requests.items())
            if n < min_requests and group != NO_GROUP
        },
        num_ungrouped=base.requests.get(NO_GROUP, 0),
        min_requests=min_requests,
        num_resamples=num_resamples,
        is_parallel=base.is_parallel,
        family_wise=family_wise,
    )


def change(base: BootstrapEstimate, candidate: BootstrapEstimate) -> Change | None:
    """One metric in two runs that were resampled together; None where one has none."""
    before, after = base.estimate, candidate.estimate
    difference = combined(np.subtract, candidate, base)
    if before is None or after is None or difference.estimate is None:
        return None
    relative = None
    if before.value > 0 and after.value > 0:
        relative = combined(lambda one, other: other / one - 1, base, candidate).estimate
    return Change(
        base=before,
        candidate=after,
        difference=difference.estimate,
        relative=relative,
        p_value=difference.p_other_than(0),
    )


def _candidate(
    base: MeasuredRun, run: MeasuredRun, texts: TextAgreement, *, all_measures: bool
) -> Candidate:
    def changes(group: str | None) -> dict[str, Change | None]:
        return {
            metric.name: change(base.estimate(metric, group), run.estimate(metric, group))
            for metric in METRICS
        }

    return Candidate(
        name=run.name,
        overall=changes(None),
        groups={group: changes(group) for group in run.numbers},
        spreads={
            metric.name: _spreads(base, run, metric, all_measures=all_measures)
            for metric in METRICS
            if len(run.numbers) > 1 and base.is_measured(metric) and run.is_measured(metric)
        },
        texts=texts,
    )


def _spreads(
    base: MeasuredRun, run: MeasuredRun, metric: Metric, *, all_measures: bool
) -> dict[str, Change]:
    changes = {}
    for name in measures_for(metric, all_measures=all_measures):
        before, after = (each.spread(metric).estimate(name) for each in (base, run))
        changed = change_of_spread(base.spread(metric), run.spread(metric), name)
        if before is not None and after is not None and changed.estimate is not None:
            changes[name] = Change(
                base=before,
                candidate=after,
                difference=changed.estimate,
                relative=None,
                p_value=changed.without_noise.p_other_than(0),
            )
    return changes


@dataclass(frozen=True, kw_only=True, slots=True)
class SpreadChange:
    """Candidate minus base in a measure of spread, as observed and less what noise adds to each.

    The p-values of `without_noise` hold.
    """

    observed: float
    without_noise: BootstrapEstimate

    @property
    def estimate(self) -> Estimate | None:
        """The observed change with an interval of the true one, stretched to hold the observed."""
        if not np.isfinite(self.observed):
            return None
        one = self.without_noise.estimate
        if one is None or one.low is None or one.high is None:
            return Estimate(value=self.observed, n=self.without_noise.n)
        low, high = min(one.low, self.observed), max(one.high, self.observed)
        return Estimate(value=self.observed, low=low, high=high, n=one.n)


def change_of_spread(base: GroupValues, candidate: GroupValues, name: str) -> SpreadChange:
    """Candidate minus base in a measure of spread, one of `SPREAD_MEASURES`.

    Noise drives groups apart, the more so the closer they are, so interval and p-values are those
    of the change in spreads less what noise adds to them; of extremes, from the standard error.
    docs/decisions/metrics.md has the coverage of each.
    """
    return SpreadChange(
        observed=candidate.value(name) - base.value(name),
        without_noise=combined(
            np.subtract,
            candidate.without_noise(name),
            base.without_noise(name),
            method="standard_error" if SPREAD_MEASURES[name].is_extreme else "percentile_and_basic",
        ),
    )


def _adjusted(candidates: Sequence[Candidate]) -> list[Candidate]:
    """A family with Holm's correction in each metric: over groups, and over measures of spread."""
    groups = _corrected([candidate.groups for candidate in candidates], metric_of=1)
    spreads = _corrected([candidate.spreads for candidate in candidates], metric_of=0)
    return [
        replace(candidate, groups=by_group, spreads=by_metric)
        for candidate, by_group, by_metric in zip(candidates, groups, spreads, strict=True)
    ]


def _corrected(
    tables: Sequence[Mapping[str, Mapping[str, _Change]]], metric_of: int
) -> list[dict[str, dict[str, _Change]]]:
    """Each candidate's changes by two keys; all of one metric are corrected together.

    `metric_of` says which of the two keys is the metric.
    """
    families = defaultdict[str, list[tuple[int, str, str]]](list)
    for place, table in enumerate(tables):
        for outer, inner in ((outer, inner) for outer, row in table.items() for inner in row):
            families[(outer, inner)[metric_of]].append((place, outer, inner))
    corrected: list[dict[str, dict[str, _Change]]] = [
        {outer: dict(row) for outer, row in table.items()} for table in tables
    ]
    for family in families.values():
        changes = [tables[place][outer][inner] for place, outer, inner in family]
        adjusted = holm([None if one is None else one.p_value for one in changes])
        for (place, outer, inner), one, p_value in zip(family, changes, adjusted, strict=True):
            if one is not None:
                corrected[place][outer][inner] = replace(one, p_adjusted=p_value)
    return corrected
