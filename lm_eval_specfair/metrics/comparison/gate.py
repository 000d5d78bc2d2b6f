"""May this drafter replace that one? Limits for a candidate, and what the evidence says of each.

A claim that a limit is broken must be sure: the chance that any such claim about candidates that
keep all limits is made, whatever their number, is at most the gate's false alarm rate. Between
"broken" and "kept", each shown at that rate, lies "undecided"; the gate's owner says what that
means. Knows no files.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.metrics.definitions.metric import Metric
from lm_eval_specfair.metrics.definitions.registry import METRICS
from lm_eval_specfair.metrics.statistics.spread_measures import (
    RELATIVE_UNFAIRNESS,
    SPREAD_MEASURES,
    UNFAIRNESS,
)

GATE_VERSION = 1

# Those that grow with the spread, so that a limit is an upper one.
_DISPARITIES = tuple(
    name
    for name, measure in SPREAD_MEASURES.items()
    if not measure.falls and not measure.only_speedups and name != RELATIVE_UNFAIRNESS
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Margins:
    """How much a candidate may lose against the base, as a share of the base's figure.

    Attributes:
        mean: In the mean over groups; None for no limit.
        worst_group: In the worst-served group of each run, whichever that is.
        dominant_group: In the group that `Gate.dominant_group` names; in the best-served group of
            each run where it names none.
        any_group: In each group by itself.
    """

    mean: float | None = 0.02
    worst_group: float | None = 0.05
    dominant_group: float | None = 0.05
    any_group: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class DisparityLimit:
    """How uneven a candidate's figures may be across groups.

    Attributes:
        statistic: A measure of spread: `difference`, `standard_deviation`,
            `coefficient_of_variation`, `gini`, `theil`, `atkinson`, or `unfairness` where the
            metric has it.
        max_increase: How much larger than the base's it may be; None for no limit.
        at_most: How large it may be; None for no limit.
    """

    statistic: str = "coefficient_of_variation"
    max_increase: float | None = 0.05
    at_most: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Gate:
    """Limits for candidates.

    Attributes:
        metric: The figure that is judged.
        false_alarm_rate: Of the whole gate, all candidates and limits together.
        when_undecided: What a limit that is neither shown to be kept nor to be broken means for
            the candidate.
        margins: How much may be lost.
        dominant_group: The group that most of the drafter's training data is for, if one is meant.
        disparity: How uneven figures may be.
        max_differing_texts: Greedy requests whose tokens may differ from the base's; `auto` is 0
            where both runs computed in float32 or wider and no limit elsewhere; None for no limit.
    """

    metric: str = "modelled_speedup"
    false_alarm_rate: float = 0.05
    when_undecided: Literal["pass", "fail"] = "pass"
    margins: Margins = dataclasses.field(default_factory=Margins)
    dominant_group: str | None = None
    disparity: DisparityLimit = dataclasses.field(default_factory=DisparityLimit)
    max_differing_texts: int | Literal["auto"] | None = "auto"

    @property
    def judged(self) -> Metric:
        """What `metric` names."""
        return next(metric for metric in METRICS if metric.name == self.metric)


def parse_gate(data: object, where: str = "gate") -> Gate:
    """A gate from what a YAML file holds.

    Args:
        data: A mapping with the attributes of `Gate`, each with a default, and `version`.
        where: The file, for error messages.

    Raises:
        ConfigError: If a key is unknown or a value is not of its kind or range.
    """
    values = _section(data, where, Gate, more=("version",))
    version = values.pop("version", GATE_VERSION)
    if version != GATE_VERSION or isinstance(version, bool):
        raise _wrong(where, "version", f"{GATE_VERSION}", version)
    if "margins" in values:
        margins = _section(values["margins"], f"{where}: margins", Margins)
        for name, value in margins.items():
            _check(where, f"margins.{name}", "a share from 0 to 1, or null", value, _is_share)
        values["margins"] = Margins(**margins)
    if "disparity" in values:
        values["disparity"] = _disparity_limit(values["disparity"], where)
    for name, (expected, fits) in _KINDS.items():
        if name in values:
            _check(where, name, expected, values[name], fits)
    gate = Gate(**values)
    if gate.disparity.statistic == UNFAIRNESS and not gate.judged.has_unfairness:
        having = ", ".join(metric.name for metric in METRICS if metric.has_unfairness)
        raise _wrong(where, "metric", f"one of {having} for unfairness", gate.metric)
    return gate


def _disparity_limit(data: object, where: str) -> DisparityLimit:
    limits = _section(data, f"{where}: disparity", DisparityLimit)
    for name in ("max_increase", "at_most"):
        if name in limits:
            _check(
                where,
                f"disparity.{name}",
                "a number of at least 0, or null",
                limits[name],
                lambda value: value is None or (_is_number(value) and 0 <= value < math.inf),
            )
    if "statistic" in limits:
        _check(
            where,
            "disparity.statistic",
            f"one of {', '.join(_DISPARITIES)}",
            limits["statistic"],
            lambda value: isinstance(value, str) and value in _DISPARITIES,
        )
    return DisparityLimit(**limits)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_share(value: Any) -> bool:
    return value is None or (_is_number(value) and 0 <= value < 1)


_KINDS: Mapping[str, tuple[str, Callable[[Any], bool]]] = {
    "metric": (
        f"one of {', '.join(metric.name for metric in METRICS)}",
        lambda value: isinstance(value, str) and value in {metric.name for metric in METRICS},
    ),
    "false_alarm_rate": (
        "a number between 0 and 0.5",
        lambda value: _is_number(value) and 0 < value <= 0.5,
    ),
    "when_undecided": (
        "pass or fail",
        lambda value: isinstance(value, str) and value in ("pass", "fail"),
    ),
    "dominant_group": (
        "a group's name in quotes, or null",  # no: Norwegian, in YAML
        lambda value: value is None or (isinstance(value, str) and value != ""),
    ),
    "max_differing_texts": (
        "auto, a whole number of at least 0, or null",
        lambda value: (
            value is None
            or value == "auto"
            or (isinstance(value, int) and not isinstance(value, bool) and value >= 0)
        ),
    ),
}


def _section(data: object, where: str, kind: type, more: tuple[str, ...] = ()) -> dict[str, Any]:
    names = [*more, *(field.name for field in dataclasses.fields(kind))]
    if not isinstance(data, dict):
        raise ConfigError(f"{where} must hold {', '.join(names)}, got {_shown(data)}")
    unknown = [key for key in data if key not in names]
    if unknown:
        raise ConfigError(f"{where}: unknown key {_shown(unknown[0])}; known: {', '.join(names)}")
    return dict(data)


def _check(
    where: str, name: str, expected: str, value: object, fits: Callable[[Any], bool]
) -> None:
    if not fits(value):
        raise _wrong(where, name, expected, value)


def _wrong(where: str, name: str, expected: str, value: object) -> ConfigError:
    return ConfigError(f"{where}: {name} must be {expected}, got {_shown(value)}")


def _shown(value: object) -> str:
    # Not a container's own text: a few lines of YAML can stand for gigabytes of it.
    if isinstance(value, (str, int, float)) or value is None:
        return f"{value!r:.60}"
    return f"a {type(value).__name__}"
