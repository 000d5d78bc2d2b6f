"""A gate's verdict on each candidate.

Every limit is two claims, each with a one-sided p-value: that it is broken, and that it is kept.
Claims of the first kind are corrected together (Holm, over all limits of one candidate): if it
keeps them, any of them is called broken at most at the gate's false alarm rate. It keeps all limits
only if it keeps each, so claims of the second kind need no correction. Candidates do not know of
one another, unless the gate is `family_wise`: then all limits of all candidates are one family, and
claims of the second kind are corrected over candidates (Bonferroni).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.metrics.comparison.change import change_of_spread
from lm_eval_specfair.metrics.comparison.gate import Gate
from lm_eval_specfair.metrics.comparison.loss_limits import (
    LossLimit,
    as_logarithm,
    as_share,
    loss_limits,
    refuse_unmeasured,
)
from lm_eval_specfair.metrics.comparison.measured_run import MeasuredRun
from lm_eval_specfair.metrics.comparison.pairing import TextAgreement
from lm_eval_specfair.metrics.statistics.intervals import Estimate
from lm_eval_specfair.metrics.statistics.multiple_testing import holm

State = Literal["kept", "broken", "undecided"]


@dataclass(frozen=True, kw_only=True, slots=True)
class LimitCheck:
    """One limit and one candidate.

    Attributes:
        observed: What is limited, as observed: the loss as a share of the base's value, a
            measure of spread or its increase, or a number of requests (without interval).
        p_broken: Of the claim that the limit is broken, after Holm's correction; None where there
            is too little to tell.
        p_kept: Of the claim that it is kept; corrected where the gate is family-wise.
    """

    name: str  # its key in the gate, with the group after a colon where it is of one
    observed: Estimate
    limit: float
    p_broken: float | None
    p_kept: float | None
    state: State = "undecided"


@dataclass(frozen=True, kw_only=True, slots=True)
class GateVerdict:
    """What the gate says of one candidate."""

    candidate: str
    checks: Sequence[LimitCheck]
    state: State  # `broken` if one limit is, `kept` if all are, else (also of none) `undecided`
    passed: bool  # whether it may replace the base

    @property
    def num_tested(self) -> int:
        """Limits for which there is a p-value, and which are corrected together."""
        return sum(check.p_broken is not None for check in self.checks)


def judge(
    gate: Gate,
    runs: Sequence[MeasuredRun],
    texts: Sequence[TextAgreement],
    *,
    texts_must_agree: Sequence[bool] | None = None,
) -> list[GateVerdict]:
    """One verdict for each candidate, from its own evidence unless the gate is family-wise.

    `runs` are the base and the candidates, resampled together; `texts` say for each candidate how
    its greedy texts agree with the base's. `max_differing_texts: auto` stands for 0 where
    `texts_must_agree` (by default for all), else for no limit.

    Raises:
        ConfigError: If a metric is missing that the gate judges, or a group that it names.
    """
    refuse_unmeasured(gate, runs)
    base, *candidates = runs
    limits = [list(_limits(gate, base, candidate)) for candidate in candidates]
    families, in_family = [[own] for own in limits], 1
    if gate.family_wise:
        families, in_family = [limits], len(candidates)
    broken = iter(
        p_value
        for family in families
        for p_value in holm([limit.p_broken for own in family for limit in own])
    )
    verdicts = []
    for candidate, own, agreement, must_agree in zip(
        candidates, limits, texts, texts_must_agree or [True] * len(candidates), strict=True
    ):
        checks = [_judged(limit, next(broken), in_family, gate) for limit in own]
        checks += _text_check(gate, agreement, texts_must_agree=must_agree)
        states = {check.state for check in checks}
        state: State = "kept" if states == {"kept"} else "undecided"  # also where none was judged
        state = "broken" if "broken" in states else state
        passed = state == "kept" or (state == "undecided" and gate.when_undecided == "pass")
        verdicts.append(
            GateVerdict(candidate=candidate.name, checks=checks, state=state, passed=passed)
        )
    return verdicts


def _limits(gate: Gate, base: MeasuredRun, candidate: MeasuredRun) -> Iterator[LimitCheck]:
    """Each limit before it is judged, with p-values before correction."""
    for loss in loss_limits(gate, base, candidate):
        yield _loss(gate, loss)
    if len(base.numbers) > 1:
        yield from _spread_limits(gate, base, candidate)


def _loss(gate: Gate, loss: LossLimit) -> LimitCheck:
    metric, estimate = gate.judged, loss.logarithm.estimate
    assert estimate is not None
    ends = (estimate.low, estimate.high)
    low, high = (None if end is None else as_share(metric, end) for end in ends)
    limit = as_logarithm(metric, loss.margin)
    return LimitCheck(
        name=loss.name,
        observed=Estimate(value=as_share(metric, estimate.value), low=low, high=high, n=estimate.n),
        limit=loss.margin,
        p_broken=loss.logarithm.p_above(limit),
        p_kept=loss.logarithm.p_below(limit),
    )


def _spread_limits(gate: Gate, base: MeasuredRun, candidate: MeasuredRun) -> Iterator[LimitCheck]:
    limits, metric = gate.disparity, gate.judged
    measure, spread = limits.statistic, candidate.spread(metric)
    if (limit := limits.max_increase) is not None:
        changed = change_of_spread(base.spread(metric), spread, measure)
        p_values = changed.without_noise.p_below(limit), changed.without_noise.p_above(limit)
        yield _spread_limit("disparity.max_increase", changed.estimate, limit, p_values)
    if (limit := limits.at_most) is not None:
        p_values = spread.p_values(measure, limit)
        yield _spread_limit("disparity.at_most", spread.estimate(measure), limit, p_values)


def _spread_limit(
    name: str,
    observed: Estimate | None,
    limit: float,
    p_values: tuple[float | None, float | None],
) -> LimitCheck:
    if observed is None:
        raise ConfigError(
            f"the gate's {name} is not defined for these runs: it needs values above 0 in every "
            "group; name another statistic, or switch the limit off with null"
        )
    p_kept, p_broken = p_values
    return LimitCheck(name=name, observed=observed, limit=limit, p_broken=p_broken, p_kept=p_kept)


def _judged(limit: LimitCheck, p_broken: float | None, in_family: int, gate: Gate) -> LimitCheck:
    p_kept = None if limit.p_kept is None else min(1.0, in_family * limit.p_kept)
    checked = replace(limit, p_broken=p_broken, p_kept=p_kept)
    if p_broken is not None and p_broken <= gate.false_alarm_rate:
        return replace(checked, state="broken")
    is_kept = p_kept is not None and p_kept <= gate.false_alarm_rate
    return replace(checked, state="kept") if is_kept else checked


def _text_check(
    gate: Gate, agreement: TextAgreement, *, texts_must_agree: bool
) -> list[LimitCheck]:
    limit = gate.max_differing_texts
    if limit == "auto":
        limit = 0 if texts_must_agree else None
    if limit is None or agreement.compared == 0:
        return []
    observed = Estimate(value=float(agreement.differing), n=agreement.compared)
    state: State = "broken" if observed.value > limit else "kept"
    return [
        LimitCheck(
            name="max_differing_texts",
            observed=observed,
            limit=float(limit),
            p_broken=None,
            p_kept=None,
            state=state,
        )
    ]
