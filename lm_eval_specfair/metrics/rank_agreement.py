"""Which orders of the groups a report looks at: figures against each other, runs against runs."""

import re
from collections.abc import Mapping, Sequence

import numpy as np

from lm_eval_specfair.metrics.aggregate.aggregator import Aggregator
from lm_eval_specfair.metrics.aggregate.sums import Sums
from lm_eval_specfair.metrics.arrays import Array
from lm_eval_specfair.metrics.definitions.registry import METRICS, Metric
from lm_eval_specfair.metrics.statistics.bootstrap import Estimate
from lm_eval_specfair.metrics.statistics.rank_correlation import (
    Association,
    Concordance,
    adjusted,
    association,
    concordance_p,
    kendall_w,
)

RESOURCE_CLASS = "resource_class"
SERVED = (
    "conditional_acceptance_rate",
    "overlap",
    "measured_speedup",
    "modelled_speedup",
    "seconds_per_kilobyte",
)
"""How well a group is served; each is held against each of `EXPLAINED_BY`."""
EXPLAINED_BY = ("answer_quality", "bits_per_byte", "bytes_per_token", RESOURCE_CLASS)
_STABLE = ("conditional_acceptance_rate", "modelled_speedup", "measured_speedup")
_FEWEST_GROUPS = 3


def associations_of(
    groups: Mapping[str, Mapping[str, Estimate | None]],
    resource_classes: Mapping[str, str],
    generator: np.random.Generator,
) -> list[Association]:
    """Acceptance and speed against what may explain them.

    Args:
        groups: Figures by group.
        resource_classes: Of groups that have one; a class is taken by the number in it.
        generator: Source of all randomness.
    """

    def values(name: str) -> Array:
        if name == RESOURCE_CLASS:
            return np.array([_number(resource_classes.get(group, "")) for group in groups])
        figures = [groups[group].get(name) for group in groups]
        return np.array([np.nan if each is None else each.value for each in figures])

    found = [
        association((served, other), values(served), values(other), generator)
        for served in SERVED
        for other in EXPLAINED_BY
    ]
    return adjusted([each for each in found if each is not None])


def concordances_of(
    aggregator: Aggregator, groups: Sequence[str], generator: np.random.Generator
) -> list[Concordance]:
    """Whether several runs, and several suites of one run, order the groups alike.

    Runs may differ in their target, drafter or seed: whatever was repeated.
    """
    metrics = [metric for metric in METRICS if metric.name in _STABLE]
    found = []
    for over, all_names in aggregator.repetitions.items():
        names = [
            name
            for name in all_names
            if len(aggregator.groups_within(over, name) & set(groups)) >= _FEWEST_GROUPS
        ]
        if len(names) < 2:
            continue
        sums = {
            (name, group): aggregator.total_within(over, name, group)
            for name in names
            for group in groups
        }
        runs = {
            name: np.sum([sums[name, group].values for group in groups], axis=0) for name in names
        }
        for metric in metrics:
            table = np.array(
                [
                    [
                        float(_value(metric, sums[name, group].values, runs[name]))
                        for group in groups
                    ]
                    for name in names
                ]
            ).reshape(len(names), len(groups))
            each = _concordance(metric.name, over, names, groups, table, generator)
            if each is not None:
                found.append(each)
    return found


def _value(metric: Metric, sums: Array, run: Array) -> Array:
    return metric.evaluate(Sums(sums), Sums(run))


def _concordance(
    figure: str,
    over: str,
    names: Sequence[str],
    groups: Sequence[str],
    table: Array,
    generator: np.random.Generator,
) -> Concordance | None:
    """Of repetitions that have most groups, on the groups that all of them have."""
    kept = [place for place, row in enumerate(table) if np.isfinite(row).sum() >= _FEWEST_GROUPS]
    common = np.isfinite(table[kept]).all(axis=0).reshape(len(groups))
    if len(kept) < 2 or common.sum() < _FEWEST_GROUPS:
        return None
    shared = table[kept][:, common]
    w = kendall_w(shared)
    if not np.isfinite(w):
        return None
    return Concordance(
        figure=figure,
        over=over,
        names=[names[place] for place in kept],
        groups=[group for group, is_common in zip(groups, common, strict=True) if is_common],
        w=w,
        p_value=concordance_p(shared, generator),
    )


def _number(text: str) -> float:
    found = re.search(r"\d+(\.\d+)?", text)
    return float(found.group()) if found else np.nan
