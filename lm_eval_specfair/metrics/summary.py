"""All numbers of a report: the whole run, each group, and the spread across groups."""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lm_eval_specfair.groups.assign import DEFAULT_MIN_REQUESTS, NO_GROUP
from lm_eval_specfair.metrics.aggregate.aggregator import Aggregate, Aggregator, RunCounts
from lm_eval_specfair.metrics.aggregate.sums import Sums
from lm_eval_specfair.metrics.arrays import Array
from lm_eval_specfair.metrics.definitions.bounds import BOUNDS
from lm_eval_specfair.metrics.definitions.metric import Metric
from lm_eval_specfair.metrics.definitions.rates import POSITIONS, UNCERTAIN
from lm_eval_specfair.metrics.definitions.registry import METRICS
from lm_eval_specfair.metrics.definitions.speedup import (
    COSTS,
    MEAN_ACCEPTANCE_LENGTH,
    MEASURED_SPEEDUP,
    speedup_limit,
)
from lm_eval_specfair.metrics.disparity import Disparity, GroupValues, disparity
from lm_eval_specfair.metrics.explained_spread import (
    COVARIATES,
    EXPLAINED,
    ExplainedSpread,
    explained_spreads,
)
from lm_eval_specfair.metrics.percentiles import (
    PERCENTILES,
    percentile_disparity,
    percentile_estimate,
)
from lm_eval_specfair.metrics.places.whereabouts import Whereabouts
from lm_eval_specfair.metrics.rank_agreement import (
    Association,
    Concordance,
    associations_of,
    concordances_of,
)
from lm_eval_specfair.metrics.statistics.bootstrap import NUM_RESAMPLES, SEED, Resampled, resample
from lm_eval_specfair.metrics.statistics.bootstrap_estimate import (
    BootstrapEstimate,
    bootstrap_estimate,
)
from lm_eval_specfair.metrics.statistics.intervals import Estimate
from lm_eval_specfair.records import Settings

Estimates = Mapping[str, Estimate | None]
"""By metric; None where not measured."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Flag:
    """A value that cannot be, as it exceeds its limit."""

    metric: str
    group: str | None  # None for the whole run's value
    value: float
    limit: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Summary:
    """Everything that a report shows.

    `figures_not_reported` are, by group, metrics that rest on fewer than `min_requests` requests
    though the group has more, and on how many.
    """

    group_by: str
    run: Mapping[str, Any]  # where the records come from (`run.json`, trimmed)
    settings: Sequence[Settings]  # what requests were decoded with, the most frequent first
    overall: Estimates  # estimates of all requests together
    groups: Mapping[str, Estimates]  # longest mean acceptance length first
    group_requests: Mapping[str, int]  # of each of these groups
    disparity: Mapping[str, Disparity | None]  # by metric; None where too few groups have it
    not_reported: Mapping[str, int]  # groups with fewer requests, and how many
    counts: RunCounts  # of groups that are not reported, too
    flags: Sequence[Flag]
    notes: Sequence[str]  # what the caller has to say to the reader, in whole sentences
    min_requests: int
    num_resamples: int
    is_parallel: bool  # whether documents were drawn together in all groups
    ungrouped: Mapping[str, int] = field(default_factory=dict)  # requests without a group, by task
    greedy_requests: int = 0
    has_bounds: bool = False  # whether the theorems' bounds were asked for
    figures_not_reported: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    associations: Sequence[Association] = ()  # metrics that may go together across groups
    explained: Sequence[ExplainedSpread] = ()  # what goes with the spread of acceptance
    concordances: Sequence[Concordance] = ()  # whether runs, and suites, order groups alike
    resource_classes: Mapping[str, str] = field(default_factory=dict)
    contradictions: Sequence[str] = ()  # in what records are not those of their run, in sentences
    where: Whereabouts | None = None  # drafts are lost, where it was asked for
    token_names: Mapping[int, str] = field(default_factory=dict)  # of tokens that `where` names
    unchecked: Sequence[str] = ()  # what could not be held against the run


def summarise(
    aggregator: Aggregator,
    run: Mapping[str, Any],
    *,
    notes: Iterable[str] = (),
    min_requests: int = DEFAULT_MIN_REQUESTS,
    num_resamples: int = NUM_RESAMPLES,
    generator: np.random.Generator | None = None,
    all_measures: bool = False,
    bounds: bool = False,
) -> Summary:
    """Turn counted records, at least one, into estimates.

    `notes` are what the caller has to say to the reader; `bounds` adds the theorems' bounds of
    overlap and speed-up; without a `generator`, a report made twice is the same.
    """
    counted = aggregator.aggregate(min_requests)
    generator = generator or np.random.default_rng(SEED)
    resampled = resample(counted.each_block(), generator, num_resamples=num_resamples)
    usual = _Usual.of(counted, resampled, num_resamples)
    run_sums = Sums(resampled.observed.sum(0))
    overall: dict[str, Estimate | None] = {}
    groups: dict[str, dict[str, Estimate | None]] = {group: {} for group in counted.numbers}
    spreads: dict[str, Disparity | None] = {}
    replicates: dict[str, dict[str, Array]] = {}
    # A position that no draft reached is not measured.
    positions = [metric for metric in POSITIONS if run_sums[metric.requests] > 0]
    if run_sums["uncertain_tokens_share.numerator"] > 0:
        positions += UNCERTAIN
    for metric in (*METRICS, *COSTS, *positions, *(BOUNDS if bounds else ())):
        overall[metric.name] = bootstrap_estimate(usual.resampled, metric, None).estimate
        if metric in COSTS:  # of the whole run only
            continue
        parts = {
            group: bootstrap_estimate(resampled, metric, number)
            for group, number in counted.numbers.items()
        }
        if metric.name in (*EXPLAINED, *COVARIATES):
            replicates[metric.name] = {group: part.replicates for group, part in parts.items()}
        for group, part in parts.items():
            groups[group][metric.name] = usual.part(metric, group, part).estimate
        if metric in METRICS:
            compared = {
                group: parts[group]
                for group in counted.compared
                if np.isfinite(parts[group].value) and parts[group].n >= min_requests
            }
            spreads[metric.name] = None
            if len(compared) > 1:
                across = GroupValues.of(list(compared.values()))
                spreads[metric.name] = disparity(
                    metric, list(compared), across, all_measures=all_measures
                )
    by_ratio = {
        ratio: list(percentiles)
        for ratio, percentiles in itertools.groupby(PERCENTILES, lambda one: one.of.name)
    }
    for ratio, documents in counted.documents_of(list(by_ratio)):
        enough = {
            group: documents[group]
            for group in counted.compared
            if documents[group].num_requests >= min_requests
        }
        for percentile in by_ratio[ratio]:
            name = percentile.name
            overall[name] = percentile_estimate(percentile, documents[None])
            for group in groups:
                groups[group][name] = percentile_estimate(percentile, documents[group])
            spreads[name] = percentile_disparity(
                percentile, enough, num_resamples, generator, all_measures=all_measures
            )
    too_few = _take_out(groups, min_requests)
    groups = dict(sorted(groups.items(), key=lambda item: _rank(*item)))
    return Summary(
        group_by=counted.group_by,
        run=run,
        settings=[settings for settings, _ in counted.settings.most_common()],
        overall=overall,
        groups=groups,
        group_requests={group: counted.requests[group] for group in groups},
        disparity=spreads,
        not_reported={
            group: n for group, n in sorted(counted.requests.items()) if n < min_requests
        },
        counts=counted.counts,
        flags=_impossible_speedups(counted, resampled, list(groups)),
        notes=list(notes),
        ungrouped=counted.ungrouped,
        greedy_requests=sum(
            n for settings, n in counted.settings.items() if not settings.temperature
        ),
        min_requests=min_requests,
        num_resamples=num_resamples,
        is_parallel=counted.is_parallel,
        has_bounds=bounds,
        figures_not_reported=too_few,
        associations=associations_of(
            {group: groups[group] for group in groups if group != NO_GROUP},
            counted.resource_classes,
            generator,
        ),
        explained=explained_spreads(
            {group: groups[group] for group in groups if group != NO_GROUP},
            np.random.default_rng(SEED),
            resource_classes=counted.resource_classes,
            replicates=replicates,
        ),
        concordances=concordances_of(counted.repetitions, counted.compared, generator),
        resource_classes={
            group: name for group, name in counted.resource_classes.items() if group in groups
        },
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Usual:
    """The requests grouped by language, so that the same ones have the same interval in any report.

    `numbers` are of the groups of the report that are one language's requests.
    """

    resampled: Resampled
    numbers: Mapping[str, int]

    @classmethod
    def of(cls, counted: Aggregate, resampled: Resampled, num_resamples: int) -> "_Usual":
        other = counted.by_language
        if other is None:
            return cls(resampled=resampled, numbers={})
        generator = np.random.default_rng(SEED)
        known = {other.requests_of(group): number for group, number in other.numbers.items()}
        same = {group: known.get(counted.requests_of(group)) for group in counted.numbers}
        return cls(
            resampled=resample(other.each_block(), generator, num_resamples=num_resamples),
            numbers={group: number for group, number in same.items() if number is not None},
        )

    def part(self, metric: Metric, group: str, own: BootstrapEstimate) -> BootstrapEstimate:
        """A metric of a group that is a language; of all others their own."""
        number = self.numbers.get(group)
        return own if number is None else bootstrap_estimate(self.resampled, metric, number)


def _take_out(
    groups: Mapping[str, dict[str, Estimate | None]], min_requests: int
) -> dict[str, dict[str, int]]:
    """Drop estimates that rest on too few requests; which, and on how many."""
    dropped: dict[str, dict[str, int]] = {}
    for group, estimates in groups.items():
        for name, one in estimates.items():
            if one is not None and one.n < min_requests:
                dropped.setdefault(group, {})[name] = one.n
                estimates[name] = None
    return dropped


def _rank(group: str, estimates: Estimates) -> tuple[bool, float, str]:
    length = estimates[MEAN_ACCEPTANCE_LENGTH.name]
    return group == NO_GROUP, -length.value if length else 0.0, group


def _impossible_speedups(
    counted: Aggregate, resampled: Resampled, groups: Sequence[str]
) -> list[Flag]:
    """Measured speed-ups above the tokens per step."""
    flags = []
    for group in (None, *groups):
        observed = resampled.observed
        sums = Sums(observed.sum(0) if group is None else observed[counted.numbers[group]])
        value, limit = float(MEASURED_SPEEDUP.evaluate(sums, sums)), float(speedup_limit(sums))
        if value > limit:
            flags.append(Flag(metric=MEASURED_SPEEDUP.name, group=group, value=value, limit=limit))
    return flags
