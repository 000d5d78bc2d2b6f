"""All numbers of a report: the whole run, each group, and the spread across groups.

Top of this room: it knows figures, groups and their uncertainty, but no files, and nothing about
how a report looks.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lm_eval_specfair.groups.assign import DEFAULT_MIN_REQUESTS, NO_GROUP, display_name
from lm_eval_specfair.metrics.aggregate.aggregator import Aggregator, RunCounts
from lm_eval_specfair.metrics.aggregate.sums import MAX_SETTINGS, Sums
from lm_eval_specfair.metrics.definitions.bounds import BOUNDS
from lm_eval_specfair.metrics.definitions.rates import POSITIONS
from lm_eval_specfair.metrics.definitions.registry import (
    COSTS,
    MEAN_ACCEPTANCE_LENGTH,
    MEASURED_SPEEDUP,
    METRICS,
    Metric,
    speedup_limit,
)
from lm_eval_specfair.metrics.disparity import Disparity, disparity
from lm_eval_specfair.metrics.percentiles import PERCENTILES
from lm_eval_specfair.metrics.percentiles_by_group import add_percentiles, disparity_of_percentile
from lm_eval_specfair.metrics.rank_agreement import associations_of, concordances_of
from lm_eval_specfair.metrics.statistics.bootstrap import (
    NUM_RESAMPLES,
    SEED,
    Estimate,
    Resampled,
    figure,
    resample,
)
from lm_eval_specfair.metrics.statistics.rank_correlation import Association, Concordance
from lm_eval_specfair.records import Settings

Figures = Mapping[str, Estimate | None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Flag:
    """Something that makes a figure invalid.

    Attributes:
        metric: The figure's name.
        group: Whose figure; None for the whole run's.
        message: What is wrong, for people.
    """

    metric: str
    group: str | None
    message: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Summary:
    """Everything that a report shows.

    Attributes:
        group_by: What makes a group.
        run: Where the records come from (`run.json`, trimmed).
        settings: What requests were decoded with, the most frequent first.
        overall: Figures of all requests together, by metric; None where not measured.
        groups: Figures by group and metric, longest mean acceptance length first.
        group_requests: Requests of each of these groups.
        disparity: Spread across groups, by metric; None where fewer than two are measured.
        not_reported: Groups with fewer than `min_requests` requests, and how many they have.
        counts: What all this rests on, groups that are not reported included.
        flags: Figures that are invalid.
        notes: What a reader should know, in whole sentences.
        min_requests: The smallest group that is reported.
        num_resamples: Resamples behind each interval.
        is_parallel: Whether documents were drawn together in all groups, as translations.
        figures_not_reported: By group, figures that rest on fewer than `min_requests` requests
            though the group has more, and on how many.
        associations: Figures that may go together across groups.
        concordances: Whether runs, and suites, put the groups into the same order.
        resource_classes: Of groups that have one.
    """

    group_by: str
    run: Mapping[str, Any]
    settings: Sequence[Settings]
    overall: Figures
    groups: Mapping[str, Figures]
    group_requests: Mapping[str, int]
    disparity: Mapping[str, Disparity | None]
    not_reported: Mapping[str, int]
    counts: RunCounts
    flags: Sequence[Flag]
    notes: Sequence[str]
    min_requests: int
    num_resamples: int
    is_parallel: bool
    figures_not_reported: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    associations: Sequence[Association] = ()
    concordances: Sequence[Concordance] = ()
    resource_classes: Mapping[str, str] = field(default_factory=dict)


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
    """Turn counted records into figures.

    Args:
        aggregator: The records, at least one.
        run: Where they come from.
        notes: What the caller has to say to the reader.
        min_requests: The smallest group that is reported.
        num_resamples: Resamples behind each interval.
        generator: Source of all randomness; by default one with a fixed seed, so that a report
            made twice is the same.
        all_measures: Whether to give every measure of spread, not only the default ones
            (`statistics.spread_measures`).
        bounds: Whether to give the theorems' bounds of overlap and speed-up too.
    """
    requests = aggregator.requests
    generator = generator or np.random.default_rng(SEED)
    reported = sorted(group for group in requests if requests[group] >= min_requests)
    compared = [group for group in reported if group != NO_GROUP]
    blocks, order = aggregator.blocks(compared)
    numbers = {group: number for number, group in enumerate(order)}
    resampled = resample(blocks, generator, num_resamples=num_resamples)
    run_sums = Sums(resampled.observed.sum(0))
    # What no draft came to is no position.
    positions = [metric for metric in POSITIONS if run_sums[metric.requests] > 0]
    more = [*positions, *(BOUNDS if bounds else ())]
    groups: dict[str, dict[str, Estimate | None]] = {
        group: {
            metric.name: figure(resampled, metric, numbers[group]) for metric in (*METRICS, *more)
        }
        for group in reported
    }
    overall: dict[str, Estimate | None] = {
        metric.name: figure(resampled, metric, None) for metric in (*METRICS, *COSTS, *more)
    }
    tails = add_percentiles(aggregator, groups, overall)
    too_few = _take_out(groups, min_requests)
    groups = dict(sorted(groups.items(), key=lambda item: _rank(*item)))
    spreads = {
        metric.name: _disparity(
            metric,
            resampled,
            {group: numbers[group] for group in compared},
            groups,
            all_measures=all_measures,
        )
        for metric in METRICS
    }
    for percentile in PERCENTILES:
        measured = {
            group: values
            for group in compared
            if groups[group][percentile.name] is not None
            and len(values := tails[group, percentile.of])
        }
        spreads[percentile.name] = disparity_of_percentile(
            percentile, measured, groups, num_resamples, generator, all_measures=all_measures
        )
    return Summary(
        group_by=aggregator.group_by,
        run=run,
        settings=[settings for settings, _ in aggregator.settings.most_common()],
        overall=overall,
        groups=groups,
        group_requests={group: requests[group] for group in groups},
        disparity=spreads,
        not_reported={group: n for group, n in sorted(requests.items()) if n < min_requests},
        counts=aggregator.counts,
        flags=[flag for group in (None, *groups) if (flag := _impossible(aggregator, group))],
        notes=[*notes, *_notes(aggregator)],
        min_requests=min_requests,
        num_resamples=num_resamples,
        is_parallel=aggregator.are_parallel(compared),
        figures_not_reported=too_few,
        associations=associations_of(
            {group: groups[group] for group in groups if group != NO_GROUP},
            aggregator.resource_classes,
            generator,
        ),
        concordances=concordances_of(aggregator, compared, generator),
        resource_classes={
            group: each for group, each in aggregator.resource_classes.items() if group in groups
        },
    )


def _take_out(
    groups: Mapping[str, dict[str, Estimate | None]], min_requests: int
) -> dict[str, dict[str, int]]:
    """Drop figures that rest on too few requests; which, and on how many."""
    found: dict[str, dict[str, int]] = {}
    for group, figures in groups.items():
        for name, each in figures.items():
            if each is not None and each.n < min_requests:
                found.setdefault(group, {})[name] = each.n
                figures[name] = None
    return found


def _rank(group: str, figures: Figures) -> tuple[bool, float, str]:
    length = figures[MEAN_ACCEPTANCE_LENGTH.name]
    return group == NO_GROUP, -length.value if length else 0.0, group


def _disparity(
    metric: Metric,
    resampled: Resampled,
    numbers: Mapping[str, int],
    groups: Mapping[str, Figures],
    *,
    all_measures: bool,
) -> Disparity | None:
    measured = {
        group: each for group in numbers if (each := groups[group][metric.name]) is not None
    }
    if len(measured) < 2:
        return None
    return disparity(
        metric,
        list(measured),
        np.array([each.value for each in measured.values()]),
        np.stack([resampled.values(metric, numbers[group])[1] for group in measured], axis=1),
        np.array([resampled.num_documents(metric, numbers[group]) for group in measured]),
        sum(each.n for each in measured.values()),
        all_measures=all_measures,
    )


def _impossible(aggregator: Aggregator, group: str | None) -> Flag | None:
    """A measured speed-up above the tokens per step."""
    sums = aggregator.total(group)
    speedup = float(MEASURED_SPEEDUP.evaluate(sums, sums))
    limit = float(speedup_limit(sums))
    if not speedup > limit:
        return None
    who = "all requests" if group is None else display_name(group, aggregator.group_by)
    message = (
        f"{who}: measured speed-up {speedup:.2f} exceeds the {limit:.2f} tokens per step of the "
        "same requests, which cannot be; measure again on a quiet machine"
    )
    return Flag(metric=MEASURED_SPEEDUP.name, group=group, message=message)


def _notes(aggregator: Aggregator) -> list[str]:
    notes, counts = [], aggregator.counts
    if aggregator.ungrouped:
        tasks = sorted(aggregator.ungrouped)
        shown = ", ".join(tasks[:5]) + (", ..." if len(tasks) > 5 else "")
        notes.append(
            f"{NO_GROUP}: nothing names the {aggregator.group_by} of "
            f"{aggregator.ungrouped.total()} requests ({shown}), so no comparison "
            f"holds them. Add a field `{aggregator.group_by}` to the "
            "documents or to `metadata` in the task's YAML, or name it in a --groups file."
        )
    if len(aggregator.settings) > 1:
        notes.append(
            f"Requests were decoded with {len(aggregator.settings)} different settings; each "
            "figure pools them, and the modelled speed-up takes the cost of a step from requests "
            "of the same settings."
        )
    if len(aggregator.settings) > MAX_SETTINGS:
        notes.append(
            f"Only {MAX_SETTINGS} combinations of settings have a cost of their own; the last "
            f"{len(aggregator.settings) - MAX_SETTINGS + 1} of them share one."
        )
    greedy = sum(n for each, n in aggregator.settings.items() if not each.temperature)
    if greedy and aggregator.total(None)["overlap.requests"] > 0:
        notes.append(
            f"{greedy:,} requests were decoded greedily, where a token is accepted if both models "
            "find it likeliest: bounds of the speed-up, which suppose sampling, don't hold for "
            "these."
        )
    if counts.infinite_requests:
        notes.append(
            f"In {counts.infinite_requests} requests top-k or top-p left the drafter without a "
            "token of the target: KL and cross-entropy are infinite there, and not reported."
        )
    if counts.differing_baselines:
        decoded_twice = counts.differing_baselines + counts.agreeing_baselines
        notes.append(
            f"{counts.differing_baselines} of {decoded_twice} greedy requests that were decoded "
            "both ways differ in their tokens."
        )
    return notes
