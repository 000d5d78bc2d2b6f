"""Groups that are served alike: clusters by how many tokens of each drafter are accepted."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
from scipy.cluster import hierarchy

from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.groups.assign import DEFAULT_MIN_REQUESTS
from lm_eval_specfair.metrics.arrays import Array
from lm_eval_specfair.metrics.definitions.registry import METRICS
from lm_eval_specfair.metrics.statistics.bootstrap import resample
from lm_eval_specfair.metrics.statistics.bootstrap_estimate import bootstrap_estimate
from lm_eval_specfair.reporting.runs import count_runs
from lm_eval_specfair.unique_keys import RepeatedKeyError, json_data

FIGURE = "conditional_acceptance_rate"
EXAMPLE = '{"western": ["de", "en"], "eastern": ["ja", "zh"]}'
_METRIC = next(metric for metric in METRICS if metric.name == FIGURE)

Clusters = Mapping[str, Sequence[str]]
"""Groups by the name of their cluster."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ServedGroups:
    """How well drafters serve groups.

    Attributes:
        names: The groups, sorted.
        runs: A run or replay for each drafter, shown as it was named.
        acceptance: Accepted of examined tokens, shape (num_groups, num_runs).
    """

    names: tuple[str, ...]
    runs: tuple[str, ...]
    acceptance: Array

    def clusters(self, groups_per_drafter: int) -> dict[str, list[str]]:
        """Clusters of about as many groups each: as many as that takes, not all of one size.

        By Ward's method, on the groups' acceptance by all drafters.
        """
        number = math.ceil(len(self.names) / groups_per_drafter)
        places = np.ones(len(self.names), dtype=int)
        if number > 1:
            linkage = hierarchy.linkage(self.acceptance, method="ward")
            places = hierarchy.fcluster(linkage, number, criterion="maxclust")
        members = [
            [name for name, own in zip(self.names, places, strict=True) if own == place]
            for place in range(1, places.max() + 1)
        ]
        # Numbered in the order of their first groups: scipy's numbers follow the tree.
        return {f"cluster-{n}": groups for n, groups in enumerate(sorted(members), 1)}


def read_served(
    run_dirs: Sequence[Path],
    groups: Collection[str],
    *,
    group_by: str = "language",
    min_requests: int = DEFAULT_MIN_REQUESTS,
) -> ServedGroups:
    """How well the drafter of each run serves some groups; those that were not measured are absent.

    Args:
        run_dirs: Runs or replays of the same requests, one for each drafter.
        groups: Which groups to read.
        group_by: What makes a group in the runs.
        min_requests: A group with fewer requests counts as not measured.

    Raises:
        ConfigError: If a run cannot be read, or none of the groups was measured in all runs.
    """
    columns = [_acceptance(folder, group_by, min_requests) for folder in run_dirs]
    measured = set.intersection(*(set(column) for column in columns))
    names = tuple(sorted(measured & set(groups)))
    if not names:
        raise ConfigError(
            f"expected runs that measured the data's groups ({_some(groups)}), got groups "
            f"{_some(measured) or 'none'} by {group_by}; name another --group-by"
        )
    return ServedGroups(
        names=names,
        runs=tuple(map(str, run_dirs)),
        acceptance=np.array([[column[name] for column in columns] for name in names]),
    )


def _acceptance(folder: Path, group_by: str, min_requests: int) -> dict[str, float]:
    counted = count_runs([folder], group_by, min_requests=min_requests)
    # Values alone are asked for, so nothing need be drawn.
    sums = resample(counted.each_block(), np.random.default_rng(0), num_resamples=1)
    values = {
        name: bootstrap_estimate(sums, _METRIC, counted.numbers[name]).value
        for name in counted.compared
    }
    return {name: value for name, value in values.items() if np.isfinite(value)}


def read_clusters(path: Path) -> dict[str, list[str]]:
    """Clusters that somebody wrote down: an object with a list of groups by each name.

    Raises:
        ConfigError: If the file is no such object, or a group is in two clusters.
    """
    try:
        content = path.read_bytes()
        clusters = msgspec.json.decode(content, type=dict[str, list[str]])
        json_data(content)
    except RepeatedKeyError as error:
        raise ConfigError(f"{path}: {error}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(
            f"--groups-per-drafter must be a whole number or a file such as {EXAMPLE}, got "
            f"{str(path)!r:.200} ({error!s:.160})"
        ) from None
    every = [group for groups in clusters.values() for group in groups]
    twice = sorted({group for group in every if every.count(group) > 1})
    if twice or not all(clusters.values()) or not clusters:
        problem = f"{twice[0]!r:.60} is in two" if twice else "a cluster has no group"
        raise ConfigError(f"{path}: expected each group in one cluster, as in {EXAMPLE}: {problem}")
    if bad := next((name for name in clusters if not _is_folder_name(name)), None):
        raise ConfigError(
            f"{path}: a cluster's name becomes a folder's: expected letters, digits, - and _, got "
            f"{bad!r:.60}"
        )
    return clusters


def _is_folder_name(name: str) -> bool:
    return name.replace("-", "").replace("_", "").isalnum() and len(name) <= 100


def _some(names: Collection[str]) -> str:
    listed = sorted(names)
    return ", ".join(listed[:8]) + (", ..." if len(listed) > 8 else "")
