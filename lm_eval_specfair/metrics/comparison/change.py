"""Runs of the same requests side by side: what another drafter changes, for whom, and how surely.

All runs are resampled together: a draw of documents is the same in each, so that what makes a
document hard for every drafter falls out of the differences. Knows no files, and nothing about how
a comparison looks.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from lm_eval_specfair.groups.assign import DEFAULT_MIN_REQUESTS, NO_GROUP
from lm_eval_specfair.metrics.aggregate.aggregator import Aggregator
from lm_eval_specfair.metrics.comparison.measured_run import (
    Run,
    Standing,
    is_measured,
    resample_together,
    spread_names,
    standings,
)
from lm_eval_specfair.metrics.comparison.pairing import TextAgreement
from lm_eval_specfair.metrics.definitions.registry import METRICS, Metric
from lm_eval_specfair.metrics.statistics.bootstrap import NUM_RESAMPLES, SEED, Estimate
from lm_eval_specfair.metrics.statistics.bootstrap_estimate import BootstrapEstimate, combined
from lm_eval_specfair.metrics.statistics.multiple_testing import holm

_OF_EXTREMES = ("difference", "ratio")


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """One figure in two runs.

    Attributes:
        base: In the base.
        candidate: In the candidate.
        difference: Candidate minus base, with the interval of the paired difference; of a measure
            of spread, with that of the difference less what noise adds to each.
        relative: The difference as a share of the base's value; None unless both are positive.
        p_value: Two-sided, of the claim that the figures differ; None where there is too little
            to tell.
        p_adjusted: The same after Holm's correction: for a group over all groups and candidates,
            for a measure of spread over all measures and candidates; None for all requests.
    """

    base: Estimate
    candidate: Estimate
    difference: Estimate
    relative: Estimate | None
    p_value: float | None
    p_adjusted: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """What a candidate changes.

    Attributes:
        name: Its name.
        overall: Changes of all requests together, by metric; None where not measured in both.
        groups: Changes by group and metric.
        spreads: Candidate minus base in measures of spread across groups, by metric and measure.
        texts: Whether greedy texts agree with the base's.
    """

    name: str
    overall: Mapping[str, Change | None]
    groups: Mapping[str, Mapping[str, Change | None]]
    spreads: Mapping[str, Mapping[str, Change]]
    texts: TextAgreement


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Everything that a comparison shows.

    Attributes:
        group_by: What makes a group.
        runs: The base and the candidates, with what a gate needs.
        candidates: What each candidate changes.
        standings: By run and metric; only metrics that every run has in every group.
        groups: The compared groups.
        group_requests: Requests of each.
        not_reported: Groups with too few requests, and how many they have.
        num_ungrouped: Requests that belong to no group.
        min_requests: The smallest group that is compared.
        num_resamples: Resamples behind each interval.
        is_parallel: Whether documents were drawn together in all groups, as translations.
    """

    group_by: str
    runs: Sequence[Run]
    candidates: Sequence[Candidate]
    standings: Mapping[str, Mapping[str, Standing]]
    groups: Sequence[str]
    group_requests: Mapping[str, int]
    not_reported: Mapping[str, int]
    num_ungrouped: int
    min_requests: int
    num_resamples: int
    is_parallel: bool


def compare(
    aggregators: Mapping[str, Aggregator],
    texts: Mapping[str, TextAgreement],
    *,
    min_requests: int = DEFAULT_MIN_REQUESTS,
    num_resamples: int = NUM_RESAMPLES,
    generator: np.random.Generator | None = None,
    all_measures: bool = False,
) -> Comparison:
    """Compare candidates with a base.

    Args:
        aggregators: Records by the run's name, the base first; all of the same requests.
        texts: By the candidate's name.
        min_requests: The smallest group that is compared.
        num_resamples: Resamples behind each interval.
        generator: Source of all randomness; by default one with a fixed seed, so that a comparison
            made twice is the same.
        all_measures: Whether to give every measure of spread, not only the default ones.
    """
    base_tally = next(iter(aggregators.values()))
    requests = base_tally.requests
    compared = sorted(g for g, n in requests.items() if n >= min_requests and g != NO_GROUP)
    parts = [aggregator.blocks(compared) for aggregator in aggregators.values()]
    order = parts[0][1]
    resampled = resample_together(
        [blocks for blocks, _ in parts],
        generator or np.random.default_rng(SEED),
        num_resamples=num_resamples,
    )
    numbers = {group: order.index(group) for group in compared}
    runs = [
        Run(name=name, resampled=each, numbers=numbers)
        for name, each in zip(aggregators, resampled, strict=True)
    ]
    candidates = _adjusted(
        [_candidate(runs[0], run, texts[run.name], all_measures=all_measures) for run in runs[1:]]
    )
    return Comparison(
        group_by=base_tally.group_by,
        runs=runs,
        candidates=candidates,
        standings=standings(runs),
        groups=compared,
        group_requests={group: requests[group] for group in compared},
        not_reported={
            group: n
            for group, n in sorted(requests.items())
            if n < min_requests and group != NO_GROUP
        },
        num_ungrouped=requests.get(NO_GROUP, 0),
        min_requests=min_requests,
        num_resamples=num_resamples,
        is_parallel=base_tally.are_parallel(compared),
    )


def change(base: BootstrapEstimate, candidate: BootstrapEstimate) -> Change | None:
    """One figure in two runs that were resampled together; None where one has no such figure."""
    ours, theirs = base.figure, candidate.figure
    is_smooth = base.is_smooth and candidate.is_smooth
    difference = combined(np.subtract, candidate, base, is_smooth=is_smooth)
    figure = difference.figure
    if ours is None or theirs is None or figure is None:
        return None
    relative = None
    if ours.value > 0 and theirs.value > 0:
        relative = combined(
            lambda one, other: other / one - 1, base, candidate, is_smooth=is_smooth
        ).figure
    return Change(
        base=ours,
        candidate=theirs,
        difference=figure,
        relative=relative,
        p_value=difference.p_other_than(0),
    )


def _candidate(base: Run, run: Run, texts: TextAgreement, *, all_measures: bool) -> Candidate:
    return Candidate(
        name=run.name,
        overall={
            metric.name: change(base.estimate(metric, None), run.estimate(metric, None))
            for metric in METRICS
        },
        groups={
            group: {
                metric.name: change(base.estimate(metric, group), run.estimate(metric, group))
                for metric in METRICS
            }
            for group in run.numbers
        },
        spreads={
            metric.name: _spreads(base, run, metric, all_measures=all_measures)
            for metric in METRICS
            if len(run.numbers) > 1 and is_measured(base, metric) and is_measured(run, metric)
        },
        texts=texts,
    )


def _spreads(base: Run, run: Run, metric: Metric, *, all_measures: bool) -> dict[str, Change]:
    found = {}
    ours, theirs = (each.disparity(metric, all_measures=all_measures) for each in (base, run))
    for name in spread_names(metric, all_measures=all_measures):
        one, other = ours.statistics[name], theirs.statistics[name]
        difference, p_value = spread_difference(base, run, metric, name)
        if one is not None and other is not None and difference is not None:
            found[name] = Change(
                base=one,
                candidate=other,
                difference=replace(difference, value=other.value - one.value),
                relative=None,
                p_value=p_value,
            )
    return found


def spread_difference(
    base: Run, run: Run, metric: Metric, name: str
) -> tuple[Estimate | None, float | None]:
    """Candidate minus base in a measure of spread, and the two-sided p-value of a difference.

    Noise drives groups apart, the more so the closer they are: of a candidate that makes groups
    equal, the observed change says too little, and its own interval holds the true one in about
    three of four cases. Interval and p-value are therefore those of the change in spreads less
    what noise adds to them; the interval is stretched to hold the observed change too. Of the
    extremes' difference and ratio they come from the standard error: percentiles of many groups'
    extremes all lie to one side, and joined with their reflection they cover 99 times in 100.
    """
    observed = run.spread(metric, name).value - base.spread(metric, name).value
    corrected = combined(
        np.subtract,
        run.corrected_spread(metric, name),
        base.corrected_spread(metric, name),
        is_smooth=False,
    )
    figure, p_value = corrected.figure, corrected.p_other_than(0)
    if name in _OF_EXTREMES:
        figure, p_value = corrected.by_standard_error(0) or (figure, p_value)
    if figure is None:
        return None, None
    low, high = figure.low, figure.high
    if low is not None and high is not None:
        low, high = min(low, observed), max(high, observed)
    return replace(figure, value=observed, low=low, high=high), p_value


def _adjusted(candidates: Sequence[Candidate]) -> list[Candidate]:
    """With Holm's correction in each metric: over all groups, and over all measures of spread."""
    by_group = _corrected(
        {
            (name, place, group): change
            for place, candidate in enumerate(candidates)
            for group, changes in candidate.groups.items()
            for name, change in changes.items()
        }
    )
    by_measure = _corrected(
        {
            (name, place, measure): change
            for place, candidate in enumerate(candidates)
            for name, changes in candidate.spreads.items()
            for measure, change in changes.items()
        }
    )
    return [
        replace(
            candidate,
            groups={
                group: {name: by_group[name, place, group] for name in changes}
                for group, changes in candidate.groups.items()
            },
            spreads={
                name: {
                    measure: change
                    for measure in changes
                    if (change := by_measure[name, place, measure]) is not None
                }
                for name, changes in candidate.spreads.items()
            },
        )
        for place, candidate in enumerate(candidates)
    ]


def _corrected(
    changes: Mapping[tuple[str, int, str], Change | None],
) -> dict[tuple[str, int, str], Change | None]:
    """Changes by metric, candidate and what changes; those of a metric are corrected together."""
    families: dict[str, list[tuple[str, int, str]]] = {}
    for key in changes:
        families.setdefault(key[0], []).append(key)
    found = {}
    for family in families.values():
        adjusted = holm([None if (one := changes[key]) is None else one.p_value for key in family])
        for key, p_value in zip(family, adjusted, strict=True):
            one = changes[key]
            found[key] = None if one is None else replace(one, p_adjusted=p_value)
    return found
