"""A gate: the limits that a candidate must keep to replace the base.

The chance that any limit of a candidate that keeps them all is called broken is at most the gate's
false alarm rate; with `family_wise`, that of any limit of any candidate. Between "broken" and
"kept", each shown at that rate, is "undecided"; the gate's owner says what that means.
"""

import sys
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct, structs

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
_STATISTICS = tuple(
    name
    for name, measure in SPREAD_MEASURES.items()
    if not measure.falls and not measure.only_speedups and name != RELATIVE_UNFAIRNESS
)
_METRICS = {metric.name: metric for metric in METRICS}
_EXPECTED = {
    "version": f"{GATE_VERSION}",
    "metric": f"one of {', '.join(_METRICS)}",
    "false_alarm_rate": "a number between 0 and 0.5",
    "when_undecided": "pass or fail",
    "family_wise": "true or false",
    "margins": "a share from 0 to 1, or null",
    "dominant_group": "a group's name in quotes, or null",  # no: Norwegian, in YAML
    "disparity": "a number of at least 0, or null",
    "disparity.statistic": f"one of {', '.join(_STATISTICS)}",
    "max_differing_texts": "auto, a whole number of at least 0, or null",
}
"""What a key must be, for messages; a section's entry is for its keys that have none."""

_Share = Annotated[float, Meta(ge=0, lt=1)]
_Limit = Annotated[float, Meta(ge=0, le=sys.float_info.max)]


class Margins(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How much a candidate may lose, as a share of the base's value; None for no limit."""

    mean: _Share | None = 0.02  # over groups
    worst_group: _Share | None = 0.05  # of each run, whichever that is
    dominant_group: _Share | None = 0.05  # of `Gate.dominant_group`, else of each run's best group
    any_group: _Share | None = None  # each group by itself


class DisparityLimit(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How uneven a candidate may be across groups; None for no limit."""

    statistic: str = "coefficient_of_variation"  # a measure of spread that grows with it
    max_increase: _Limit | None = 0.05  # over the base's
    at_most: _Limit | None = None


class Gate(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Limits for candidates; the false alarm rate is that of all limits of one candidate.

    `family_wise` makes it the rate of all candidates together: each is then judged the more
    cautiously the more there are, so that losses must be larger to be found.
    `max_differing_texts` are greedy requests whose tokens may differ from the base's; `auto` is 0
    where both runs computed in float32 or wider and no limit elsewhere; None is no limit.
    """

    metric: str = "modelled_speedup"
    false_alarm_rate: Annotated[float, Meta(gt=0, le=0.5)] = 0.05  # all limits together
    family_wise: bool = False  # and all candidates
    when_undecided: Literal["pass", "fail"] = "pass"  # neither kept nor broken
    margins: Margins = Margins()
    dominant_group: Annotated[str, Meta(min_length=1)] | None = None
    disparity: DisparityLimit = DisparityLimit()
    max_differing_texts: Annotated[int, Meta(ge=0)] | Literal["auto"] | None = "auto"

    @property
    def judged(self) -> Metric:
        return _METRICS[self.metric]

    @property
    def has_limits(self) -> bool:
        limits = [*structs.astuple(self.margins), self.disparity.max_increase]
        limits += [self.disparity.at_most, self.max_differing_texts]
        return any(limit is not None for limit in limits)


_SECTIONS: dict[str, type[Struct]] = {"": Gate, "margins": Margins, "disparity": DisparityLimit}


def parse_gate(data: object, where: str = "gate") -> Gate:
    """A gate from what a YAML file holds: the attributes of `Gate`, with defaults, and `version`.

    Raises:
        ConfigError: If a key is unknown or a value is not of its kind or range.
    """
    values = dict(data) if isinstance(data, dict) else data
    version = values.pop("version", GATE_VERSION) if isinstance(values, dict) else GATE_VERSION
    if version != GATE_VERSION or isinstance(version, bool):
        raise _wrong(where, "version", version)
    try:
        gate = msgspec.convert(values, Gate)
    # The second: a key with half a surrogate pair.
    except (msgspec.ValidationError, UnicodeEncodeError) as error:
        raise _explained(error, values, where) from None
    if gate.metric not in _METRICS:
        raise _wrong(where, "metric", gate.metric)
    if gate.disparity.statistic not in _STATISTICS:
        raise _wrong(where, "disparity.statistic", gate.disparity.statistic)
    if gate.disparity.statistic == UNFAIRNESS and not gate.judged.has_unfairness:
        having = ", ".join(metric.name for metric in METRICS if metric.has_unfairness)
        raise ConfigError(
            f"{where}: metric must be one of {having} for unfairness, got {gate.metric}"
        )
    if not gate.has_limits:
        raise ConfigError(
            f"{where}: expected a limit, got null for all of margins, disparity.max_increase, "
            "disparity.at_most and max_differing_texts; a gate without any lets everything pass"
        )
    return gate


def _explained(error: Exception, data: Any, where: str) -> ConfigError:
    """What does not fit, as one line with the key where it is."""
    reason, _, place = str(error).partition(" - at `$")
    path = place.strip(".`")
    for key in filter(None, path.split(".")):
        data = data[key]
    if path not in _SECTIONS:
        return _wrong(where, path, data)
    known = ", ".join((*(["version"] if not path else []), *_SECTIONS[path].__struct_fields__))
    section = f"{where}: {path}" if path else where
    if not isinstance(data, dict):
        return ConfigError(f"{section} must hold {known}, got {_shown(data)}")
    unknown = next((key for key in data if key not in known.split(", ")), reason)
    return ConfigError(f"{section}: unknown key {_shown(unknown)}; known: {known}")


def _wrong(where: str, path: str, value: object) -> ConfigError:
    expected = _EXPECTED.get(path) or _EXPECTED[path.partition(".")[0]]
    return ConfigError(f"{where}: {path} must be {expected}, got {_shown(value)}")


def _shown(value: object) -> str:
    # Not a container's own text: a few lines of YAML can stand for gigabytes of it.
    if isinstance(value, (str, int, float)) or value is None:
        return f"{value!r:.60}"
    return f"a {type(value).__name__}"
