"""The losses that a comparison's documents would show, and the documents that a loss needs.

From the standard error of a loss, resampled in pairs, and the test that gate and table make:
Student's t at the first step of Holm's correction. Where several limits are broken at once, later
steps are easier, so the stated share is the least.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from lm_eval_specfair.metrics.comparison.gate import Gate
from lm_eval_specfair.metrics.comparison.loss_limits import (
    as_logarithm,
    as_share,
    log_loss,
    loss_limits,
)
from lm_eval_specfair.metrics.comparison.measured_run import MeasuredRun
from lm_eval_specfair.metrics.definitions.metric import Metric
from lm_eval_specfair.metrics.statistics.bootstrap_estimate import BootstrapEstimate
from lm_eval_specfair.metrics.statistics.intervals import CONFIDENCE
from lm_eval_specfair.metrics.statistics.power import POWER, detectable_effect, documents_needed


@dataclass(frozen=True, kw_only=True, slots=True)
class Precision:
    """How surely a loss is known: a share of the base's value, in one group or over several."""

    metric: Metric
    documents: int  # that it rests on, of the group with fewest
    num_units: int  # the same as they are drawn (`aggregate.clusters`)
    error: float  # of the loss as a logarithm; NaN where there is too little to tell

    @classmethod
    def of(
        cls, metric: Metric, base: MeasuredRun, groups: Sequence[str], loss: BootstrapEstimate
    ) -> "Precision":
        """From a loss as a logarithm (`log_loss`) that is about some groups."""
        units, error = loss.num_documents, float("nan")
        if loss.is_known:
            error = float(np.nanstd(loss.replicates) * np.sqrt(units / (units - 1)))
        per_unit = min(base.documents_per_unit(group) for group in groups)
        return cls(metric=metric, documents=round(units * per_unit), num_units=units, error=error)

    def scaled(self, factor: float) -> "Precision":
        """The same with another error."""
        return replace(self, error=factor * self.error)

    def detectable_loss(self, allowed: float, level: float, power: float = POWER) -> float | None:
        """The loss that is shown, at a one-sided level, to be above an allowed one with a power."""
        effect = detectable_effect(self.error, self.num_units, level, power)
        if effect is None:
            return None
        return as_share(self.metric, as_logarithm(self.metric, allowed) + effect)

    def documents_needed(
        self, loss: float, allowed: float, level: float, power: float = POWER
    ) -> int | None:
        """The documents of a group that show such a loss, where groups grow alike."""
        effect = as_logarithm(self.metric, loss) - as_logarithm(self.metric, allowed)
        return documents_needed(effect, self.error * float(np.sqrt(self.documents)), level, power)


@dataclass(frozen=True, kw_only=True, slots=True)
class Detection:
    """The loss that is found in 80% of cases, as a share; None where there is too little to tell.

    `alone` is the same if there were no other candidate.
    """

    documents: int  # of the group; of the one with fewest where it is about several
    loss: float | None
    alone: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Detections:
    """What a comparison of one candidate with the base can find."""

    groups: Mapping[str, Detection]  # that a group differs (p below 0.05 after correction)
    limits: Mapping[str, Detection]  # that a gate's limit is broken, by its name


def detections(
    metric: Metric,
    runs: Sequence[MeasuredRun],
    *,
    gate: Gate | None,
    num_limits: Mapping[str, int],
    family_wise: bool,
) -> dict[str, Detections]:
    """What the comparison of each candidate with the base, the first of the runs, can find.

    `num_limits` are the limits of the gate that are tested, by candidate.
    """
    base, *candidates = runs
    in_family = len(candidates) if family_wise else 1

    def detection(precision: Precision, allowed: float, level: float) -> Detection:
        return Detection(
            documents=precision.documents,
            loss=precision.detectable_loss(allowed, level / in_family),
            alone=precision.detectable_loss(allowed, level),
        )

    found = {}
    for candidate in candidates:
        groups, limits = {}, {}
        for group in base.numbers:
            before, after = (run.estimate(metric, group) for run in (base, candidate))
            if before.value > 0 and after.value > 0:
                precision = Precision.of(metric, base, [group], log_loss(metric, before, after))
                level = (1 - CONFIDENCE) / 2 / len(base.numbers)
                groups[group] = detection(precision, 0.0, level)
        if gate is not None:
            level = gate.false_alarm_rate / max(1, num_limits[candidate.name])
            for limit in loss_limits(gate, base, candidate):
                precision = Precision.of(gate.judged, base, limit.groups, limit.logarithm)
                limits[limit.name] = detection(precision, limit.margin, level)
        found[candidate.name] = Detections(groups=groups, limits=limits)
    return found
