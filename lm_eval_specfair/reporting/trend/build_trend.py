"""From a folder of measurements to series under like conditions, and their breaks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.groups.assign import DEFAULT_MIN_REQUESTS, canonical_key
from lm_eval_specfair.groups.user_file import UserGroups
from lm_eval_specfair.metrics.definitions.metric import Metric
from lm_eval_specfair.metrics.definitions.speedup import MEAN_ACCEPTANCE_LENGTH
from lm_eval_specfair.metrics.statistics.intervals import Estimate
from lm_eval_specfair.metrics.statistics.level_breaks import (
    FALSE_ALARM_RATE,
    LevelBreak,
    level_breaks,
)
from lm_eval_specfair.reporting.comparison.build_comparison import metric_named
from lm_eval_specfair.reporting.leaderboard.conditions import differences
from lm_eval_specfair.reporting.trend.trend_points import TrendPoint, read_points

_OF_TIME = ("speedup", "cost", "seconds")


@dataclass(frozen=True, kw_only=True, slots=True)
class Series:
    """Measurements under like conditions, the oldest first, and what broke in them."""

    points: Sequence[TrendPoint]
    groups: Mapping[str, Sequence[Estimate | None]]  # a figure for each point
    breaks: Sequence[LevelBreak]
    apart: Sequence[str]  # in what its conditions differ from the first series'

    def last_break(self, group: str) -> LevelBreak | None:
        """The latest break of a group."""
        return next((each for each in reversed(self.breaks) if each.group == group), None)


@dataclass(frozen=True, kw_only=True, slots=True)
class Trend:
    """Everything that a trend shows; the longest series is first."""

    group_by: str
    metric: Metric
    series: Sequence[Series]
    left_out: Mapping[str, str]  # what could not be read, and why
    rate: float  # chance of a false break in each series


def build_trend(
    folder: Path,
    *,
    metric: str | None = None,
    group_by: str = "language",
    mapping: UserGroups | None = None,
    min_requests: int = DEFAULT_MIN_REQUESTS,
    rate: float = FALSE_ALARM_RATE,
) -> Trend:
    """Read a folder's measurements and find where each group left its level.

    `metric` is by default the mean acceptance length, in which greedy decoding has no clock.
    Measurements that differ in target, tasks, requests or settings make series of their own, those
    of times in hardware too.

    Raises:
        ConfigError: If nothing can be read, or nothing has the metric.
    """
    shown = MEAN_ACCEPTANCE_LENGTH if metric is None else metric_named(metric)
    key = canonical_key(group_by)
    found = read_points(folder, group_by=key, mapping=mapping, min_requests=min_requests)
    by_conditions: dict[tuple[tuple[str, str], ...], list[TrendPoint]] = {}
    left_out = dict(found.left_out)
    for point in found.points:
        if any(point.figures.get(shown.name, {}).values()):
            by_conditions.setdefault(_key(point, shown), []).append(point)
        else:
            left_out[point.name] = f"no group of it has {shown.name}"
    if not by_conditions:
        reasons = "; ".join(f"{name}: {why}" for name, why in left_out.items())
        raise ConfigError(f"nothing below {folder} has {shown.name} in any group: {reasons:.600}")
    parts = sorted(by_conditions.values(), key=lambda points: (-len(points), points[0].date))
    first = dict(_key(parts[0][0], shown))
    return Trend(
        group_by=key,
        metric=shown,
        series=[
            _series(points, shown, differences(first, dict(_key(points[0], shown))), rate)
            for points in parts
        ],
        left_out=left_out,
        rate=rate,
    )


def _key(point: TrendPoint, metric: Metric) -> tuple[tuple[str, str], ...]:
    """What points of one series share."""
    is_timed = any(word in metric.name for word in _OF_TIME)
    conditions = {
        name: value
        for name, value in point.conditions.items()
        if is_timed or not name.startswith("hardware: ")
    }
    return tuple(sorted({**conditions, "kind": point.kind}.items()))


def _series(
    points: Sequence[TrendPoint], metric: Metric, apart: Sequence[str], rate: float
) -> Series:
    runs = [point.figures.get(metric.name, {}) for point in points]
    names = sorted({group for run in runs for group, one in run.items() if one is not None})
    breaks = level_breaks(runs, rate)
    broken = {each.group for each in breaks}

    def order(group: str) -> tuple[bool, float]:
        last = next((one.value for run in reversed(runs) if (one := run.get(group))), 0.0)
        return group not in broken, last if metric.lower_is_better else -last

    return Series(
        points=points,
        groups={name: [run.get(name) for run in runs] for name in sorted(names, key=order)},
        breaks=breaks,
        apart=apart,
    )
