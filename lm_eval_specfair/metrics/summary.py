"""All numbers of a report: the whole run, each group, and the spread across groups.

Top of this room: it knows figures, groups and their uncertainty, but no files, and nothing about
how a report looks.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lm_eval_specfair.metrics.disparity import Disparity, disparity
from lm_eval_specfair.metrics.figures import (
    COSTS,
    MEAN_ACCEPTANCE_LENGTH,
    MEASURED_SPEEDUP,
    METRICS,
    Metric,
    speedup_limit,
)
from lm_eval_specfair.metrics.groups import DEFAULT_MIN_REQUESTS, NO_GROUP, display_name
from lm_eval_specfair.metrics.tally import Counts, Tally
from lm_eval_specfair.metrics.uncertainty import (
    NUM_RESAMPLES,
    SEED,
    Figure,
    Resampled,
    figure,
    resample,
)
from lm_eval_specfair.records import Settings

Figures = Mapping[str, Figure | None]


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
    """

    group_by: str
    run: Mapping[str, Any]
    settings: Sequence[Settings]
    overall: Figures
    groups: Mapping[str, Figures]
    group_requests: Mapping[str, int]
    disparity: Mapping[str, Disparity | None]
    not_reported: Mapping[str, int]
    counts: Counts
    flags: Sequence[Flag]
    notes: Sequence[str]
    min_requests: int
    num_resamples: int
    is_parallel: bool


def summarise(
    tally: Tally,
    run: Mapping[str, Any],
    *,
    notes: Iterable[str] = (),
    min_requests: int = DEFAULT_MIN_REQUESTS,
    num_resamples: int = NUM_RESAMPLES,
    generator: np.random.Generator | None = None,
) -> Summary:
    """Turn counted records into figures.

    Args:
        tally: The records, at least one.
        run: Where they come from.
        notes: What the caller has to say to the reader.
        min_requests: The smallest group that is reported.
        num_resamples: Resamples behind each interval.
        generator: Source of all randomness; by default one with a fixed seed, so that a report
            made twice is the same.
    """
    requests = tally.requests
    reported = sorted(group for group in requests if requests[group] >= min_requests)
    compared = [group for group in reported if group != NO_GROUP]
    blocks, order = tally.blocks(compared)
    numbers = {group: number for number, group in enumerate(order)}
    resampled = resample(
        blocks, generator or np.random.default_rng(SEED), num_resamples=num_resamples
    )
    groups = {
        group: {metric.name: figure(resampled, metric, numbers[group]) for metric in METRICS}
        for group in reported
    }
    groups = dict(sorted(groups.items(), key=lambda item: _rank(*item)))
    return Summary(
        group_by=tally.group_by,
        run=run,
        settings=[settings for settings, _ in tally.settings.most_common()],
        overall={metric.name: figure(resampled, metric, None) for metric in (*METRICS, *COSTS)},
        groups=groups,
        group_requests={group: requests[group] for group in groups},
        disparity={
            metric.name: _disparity(
                metric, resampled, {group: numbers[group] for group in compared}, groups
            )
            for metric in METRICS
        },
        not_reported={group: n for group, n in sorted(requests.items()) if n < min_requests},
        counts=tally.counts,
        flags=[flag for group in (None, *groups) if (flag := _impossible(tally, group))],
        notes=[*notes, *_notes(tally)],
        min_requests=min_requests,
        num_resamples=num_resamples,
        is_parallel=tally.are_parallel(compared),
    )


def _rank(group: str, figures: Figures) -> tuple[bool, float, str]:
    length = figures[MEAN_ACCEPTANCE_LENGTH.name]
    return group == NO_GROUP, -length.value if length else 0.0, group


def _disparity(
    metric: Metric,
    resampled: Resampled,
    numbers: Mapping[str, int],
    groups: Mapping[str, Figures],
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
    )


def _impossible(tally: Tally, group: str | None) -> Flag | None:
    """A measured speed-up above the tokens per step."""
    sums = tally.total(group)
    speedup = float(MEASURED_SPEEDUP.evaluate(sums, sums))
    limit = float(speedup_limit(sums))
    if not speedup > limit:
        return None
    who = "all requests" if group is None else display_name(group, tally.group_by)
    message = (
        f"{who}: measured speed-up {speedup:.2f} exceeds the {limit:.2f} tokens per step of the "
        "same requests, which cannot be; measure again on a quiet machine"
    )
    return Flag(metric=MEASURED_SPEEDUP.name, group=group, message=message)


def _notes(tally: Tally) -> list[str]:
    notes, counts = [], tally.counts
    if tally.ungrouped:
        tasks = sorted(tally.ungrouped)
        shown = ", ".join(tasks[:5]) + (", ..." if len(tasks) > 5 else "")
        notes.append(
            f"{NO_GROUP}: nothing names the {tally.group_by} of {tally.ungrouped.total()} requests "
            f"({shown}), so no comparison holds them. Add a field `{tally.group_by}` to the "
            "documents or to `metadata` in the task's YAML, or name it in a --groups file."
        )
    if len(tally.settings) > 1:
        notes.append(
            f"Requests were decoded with {len(tally.settings)} different settings; each figure "
            "pools them, and the modelled speed-up takes one cost of a step for all."
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
