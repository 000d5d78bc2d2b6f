"""The losses that a gate limits, as logarithms of ratios, where gains and losses are alike."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.metrics.comparison.gate import Gate
from lm_eval_specfair.metrics.comparison.measured_run import MeasuredRun
from lm_eval_specfair.metrics.definitions.metric import Metric
from lm_eval_specfair.metrics.statistics.bootstrap_estimate import BootstrapEstimate, combined

_Reader: TypeAlias = Callable[[MeasuredRun], BootstrapEstimate]


@dataclass(frozen=True, kw_only=True, slots=True)
class LossLimit:
    """A loss of one candidate and the share of the base's value that it may be."""

    name: str  # its key in the gate, with the group after a colon where it is of one
    margin: float
    groups: Sequence[str]  # that it is about
    logarithm: BootstrapEstimate  # above 0 where the candidate is worse


def refuse_unmeasured(gate: Gate, runs: Sequence[MeasuredRun]) -> None:
    """Raise ConfigError where the gate's metric is missing, or a group that it names."""
    base = runs[0]
    if not base.numbers:
        raise ConfigError(
            "a gate needs at least one group with enough requests to be compared, got none; run "
            "more documents, or allow smaller groups with --min-requests"
        )
    for run in runs:
        if not run.is_measured(gate.judged):
            raise ConfigError(
                f"the gate judges {gate.metric}, which {run.name} does not have in every group; "
                "for speed-ups, measure every task with a plain baseline (baseline=8), or name "
                "another metric in the gate, such as mean_acceptance_length"
            )
        if any(run.estimate(gate.judged, group).value <= 0 for group in run.numbers):
            raise ConfigError(
                f"the gate judges losses as shares of {gate.metric}, which must be above 0 in "
                f"every group and is not in {run.name}; name another metric in the gate"
            )
    if gate.dominant_group is not None and gate.dominant_group not in base.numbers:
        raise ConfigError(
            f"the gate's dominant_group {gate.dominant_group!r:.60} is not one of the "
            f"compared groups: {', '.join(base.numbers)}"
        )


def loss_limits(gate: Gate, base: MeasuredRun, candidate: MeasuredRun) -> Iterator[LossLimit]:
    """Each loss that the gate limits."""
    metric, margins, dominant = gate.judged, gate.margins, gate.dominant_group

    def of_group(group: str) -> _Reader:
        return lambda run: run.estimate(metric, group)

    def worst(run: MeasuredRun) -> BootstrapEstimate:
        return run.extreme(metric, worst=True)

    def best(run: MeasuredRun) -> BootstrapEstimate:
        return run.extreme(metric, worst=False)

    every = list(base.numbers)
    losses: list[tuple[str, float | None, list[str], _Reader]] = [
        ("mean", margins.mean, every, lambda run: run.mean(metric)),
        ("worst_group", margins.worst_group, every, worst),
        ("dominant_group", margins.dominant_group, every, best)
        if dominant is None
        else (
            f"dominant_group: {dominant}",
            margins.dominant_group,
            [dominant],
            of_group(dominant),
        ),
        *((f"any_group: {group}", margins.any_group, [group], of_group(group)) for group in every),
    ]
    for name, margin, groups, read in losses:
        if margin is not None:
            logarithm = log_loss(metric, read(base), read(candidate))
            yield LossLimit(name=name, margin=margin, groups=groups, logarithm=logarithm)


def log_loss(
    metric: Metric, base: BootstrapEstimate, candidate: BootstrapEstimate
) -> BootstrapEstimate:
    """What the candidate loses, as a logarithm."""
    sign = -1 if metric.lower_is_better else 1
    return combined(lambda one, other: sign * np.log(one / other), base, candidate)


def as_logarithm(metric: Metric, share: float) -> float:
    """The logarithm that a share of the base's value is, gained where it is negative."""
    return float(np.log1p(share) if metric.lower_is_better else -np.log1p(-share))


def as_share(metric: Metric, logarithm: float) -> float:
    """The share of the base's value that a logarithm is; inverts `as_logarithm`."""
    return float(np.expm1(logarithm) if metric.lower_is_better else -np.expm1(-logarithm))
