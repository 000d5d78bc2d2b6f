"""How many documents a group a gate needs to find a loss, from the variance between a pilot's.

The pilot is a pair of runs, or one: then as many documents are taken to be drawn anew for the
second, as if pairing took nothing out of the difference, which asks for more than a pair mostly
needs.
"""

from dataclasses import dataclass

import numpy as np
from scipy import special

from lm_eval_specfair.metrics.aggregate.aggregator import Aggregate
from lm_eval_specfair.metrics.comparison.detection import Precision
from lm_eval_specfair.metrics.comparison.gate import Gate
from lm_eval_specfair.metrics.comparison.loss_limits import LossLimit, loss_limits
from lm_eval_specfair.metrics.comparison.measured_run import MeasuredRun, resample_together
from lm_eval_specfair.metrics.statistics.bootstrap import NUM_RESAMPLES, SEED
from lm_eval_specfair.metrics.statistics.intervals import CONFIDENCE


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedLimit:
    """A gate's limit on a loss, and the documents that it needs."""

    name: str  # its key in the gate, with the group after a colon where it is of one
    group: str | None  # None where it is about all
    allowed: float  # what the limit allows, as a share
    documents: int  # of the pilot, of the group with fewest
    found: float | None  # the loss that as many documents find; None where there is too little
    needed: int | None  # documents a group; None where too many, or no number, suffices
    low: int | None  # 95% interval, as the pilot's variance is an estimate
    high: int | None


def pilot(runs: dict[str, Aggregate], num_resamples: int = NUM_RESAMPLES) -> list[MeasuredRun]:
    """Two runs to plan from: drawn together where two are given, one of them twice otherwise."""
    if len(runs) > 1:
        return resample_together(runs, np.random.default_rng(SEED), num_resamples=num_resamples)
    # Two generators: documents of the second draw are others.
    return [
        run
        for seed in (SEED, SEED + 1)
        for run in resample_together(runs, np.random.default_rng(seed), num_resamples=num_resamples)
    ]


def plan_limits(
    gate: Gate, base: MeasuredRun, candidate: MeasuredRun, *, loss: float, power: float
) -> list[PlannedLimit]:
    """Each loss that a gate limits, with the documents that find it with a power.

    The level is that of the first step of Holm's correction over the gate's limits, on a loss and
    on spread.
    """
    limits = list(loss_limits(gate, base, candidate))
    on_spread = (gate.disparity.max_increase, gate.disparity.at_most)
    count = len(limits) + (len(base.numbers) > 1) * sum(each is not None for each in on_spread)
    level = gate.false_alarm_rate / max(1, count)
    return [_planned(gate, limit, base, loss, level, power) for limit in limits]


def _planned(
    gate: Gate, limit: LossLimit, base: MeasuredRun, loss: float, level: float, power: float
) -> PlannedLimit:
    precision = Precision.of(gate.judged, base, limit.groups, limit.logarithm)
    # Between which factors of the pilot's standard deviation the true one is, for normal values.
    freedom, tail = precision.num_units - 1, (1 - CONFIDENCE) / 2
    factors = np.sqrt(freedom / special.chdtri(freedom, [0.5, tail, 1 - tail]))
    factors[0] = 1.0
    needed, low, high = (
        precision.scaled(factor).documents_needed(loss, limit.margin, level, power)
        for factor in factors.tolist()
    )
    return PlannedLimit(
        name=limit.name,
        group=limit.groups[0] if len(limit.groups) == 1 else None,
        allowed=limit.margin,
        documents=precision.documents,
        found=precision.detectable_loss(limit.margin, level, power),
        needed=needed,
        low=low,
        high=high,
    )
