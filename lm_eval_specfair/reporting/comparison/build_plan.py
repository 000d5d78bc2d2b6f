"""From the folders of one or two runs to the documents that a comparison needs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from msgspec import structs

from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.groups.assign import DEFAULT_MIN_REQUESTS
from lm_eval_specfair.groups.user_file import UserGroups
from lm_eval_specfair.metrics.comparison.gate import DisparityLimit, Gate, Margins
from lm_eval_specfair.metrics.comparison.loss_limits import refuse_unmeasured
from lm_eval_specfair.metrics.comparison.planning import PlannedLimit, pilot, plan_limits
from lm_eval_specfair.metrics.definitions.metric import Metric
from lm_eval_specfair.metrics.statistics.bootstrap import NUM_RESAMPLES
from lm_eval_specfair.metrics.statistics.power import POWER
from lm_eval_specfair.reporting.comparison.build_comparison import metric_named, usual_metric
from lm_eval_specfair.reporting.comparison.paired_runs import read_paired
from lm_eval_specfair.reporting.runs import group_notes

DEFAULT_LOSS = 0.05
"""The share of the base's value that a plan is for, where none is asked for."""

_NO_SPREAD = DisparityLimit(max_increase=None)


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """How many documents a group are needed, by limit.

    Without a gate, `limits` are those of a gate on each group, and `mean` is that of a gate on the
    mean alone.
    """

    group_by: str
    metric: Metric
    runs: Sequence[str]  # one, or the base and a candidate
    loss: float  # to be found, as a share of the base's value
    power: float
    false_alarm_rate: float
    gate: Gate | None
    limits: Sequence[PlannedLimit]
    mean: PlannedLimit | None
    not_reported: Mapping[str, int]  # groups with too few requests, and how many
    min_requests: int
    notes: Sequence[str]

    @property
    def is_paired(self) -> bool:
        """Whether the pilot is a pair of runs."""
        return len(self.runs) > 1


def check_plan(*, loss: float, power: float, allowed: float, false_alarm_rate: float) -> None:
    """Raise ConfigError for numbers that no plan can be made for."""
    for flag, value, low, high in (
        ("--margin", loss, 0, 1),
        ("--power", power, 0, 1),
        ("--false-alarm-rate", false_alarm_rate, 0, 0.5),
    ):
        if not (low < value < high or value == high == 0.5):  # so that NaN is refused, too
            raise ConfigError(f"{flag} must lie between {low:g} and {high:g}, got {value:g}")
    if not 0 <= allowed < loss:
        raise ConfigError(
            f"--allowed must be at least 0 and below --margin {loss:g}, got {allowed:g}: a loss "
            "is found if it is above what is allowed"
        )


def build_plan(
    run_dirs: Sequence[Path],
    *,
    loss: float = DEFAULT_LOSS,
    power: float = POWER,
    allowed: float = 0.0,
    false_alarm_rate: float | None = None,
    gate: Gate | None = None,
    metric: str | None = None,
    group_by: str = "language",
    mapping: UserGroups | None = None,
    min_requests: int = DEFAULT_MIN_REQUESTS,
    num_resamples: int = NUM_RESAMPLES,
) -> Plan:
    """Read a pilot, one run or the base and a candidate, and plan.

    A `gate` says what is allowed, its metric and its rate of false alarms; without one, each group
    may lose `allowed`.

    Raises:
        ConfigError: If a number is out of range, a folder cannot be read, or the runs differ in
            what must be equal.
    """
    rate = false_alarm_rate
    if rate is None:
        rate = (gate or Gate()).false_alarm_rate
    check_plan(loss=loss, power=power, allowed=allowed, false_alarm_rate=rate)
    asked = None if metric is None else metric_named(metric)
    paired = read_paired(run_dirs, group_by=group_by, mapping=mapping)
    base_name = next(iter(paired.runs))
    counted = {name: each.aggregate(min_requests) for name, each in paired.aggregators.items()}
    base, candidate = pilot(counted, num_resamples)
    judged = asked or (gate.judged if gate is not None else usual_metric([base, candidate]))
    common: dict[str, Any] = {"metric": judged.name, "false_alarm_rate": rate}
    off = Margins(mean=None, worst_group=None, dominant_group=None)
    if gate is None:
        of_mean, each = (structs.replace(off, **{name: allowed}) for name in ("mean", "any_group"))
        gates = [Gate(margins=one, disparity=_NO_SPREAD, **common) for one in (each, of_mean)]
    else:
        gates = [structs.replace(gate, **common)]
    refuse_unmeasured(gates[0], [base, candidate])
    limits, *means = (plan_limits(one, base, candidate, loss=loss, power=power) for one in gates)
    return Plan(
        group_by=counted[base_name].group_by,
        metric=judged,
        runs=list(paired.runs),
        loss=loss,
        power=power,
        false_alarm_rate=rate,
        gate=gate,
        limits=limits,
        mean=means[0][0] if means and len(base.numbers) > 1 else None,
        not_reported={
            group: n
            for group, n in sorted(counted[base_name].requests.items())
            if group not in base.numbers
        },
        min_requests=min_requests,
        notes=group_notes(paired.aggregators[base_name]),
    )
