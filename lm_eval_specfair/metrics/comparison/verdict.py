"""What a gate says of each candidate, from the evidence of a comparison.

Every limit is two claims, each with a one-sided p-value: that it is broken, and that it is kept.
Claims of the first kind are corrected together (Holm, over all limits of all candidates): if all
candidates keep their limits, a limit is called broken at most as often as the gate's false alarm
rate says. A candidate keeps all limits only if it keeps each, so claims of the second kind need no
correction within a candidate; over candidates they are Bonferroni's: a candidate that breaks a
limit is shown to keep them all at most at the same rate.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np

from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.metrics.comparison.gate import Gate
from lm_eval_specfair.metrics.comparison.measured_run import (
    Run,
    best_of,
    is_measured,
    mean_of,
    worst_of,
)
from lm_eval_specfair.metrics.comparison.pairing import TextAgreement
from lm_eval_specfair.metrics.statistics.bootstrap import Estimate
from lm_eval_specfair.metrics.statistics.bootstrap_estimate import BootstrapEstimate, combined
from lm_eval_specfair.metrics.statistics.multiple_testing import holm

State = Literal["kept", "broken", "undecided"]


@dataclass(frozen=True, kw_only=True, slots=True)
class LimitCheck:
    """One limit and one candidate.

    Attributes:
        name: The limit's key in the gate, with the group behind a colon where it is of one.
        observed: What is limited, as observed: the loss as a share of the base's figure, a
            measure of spread or its increase, or a number of requests (without interval).
        limit: What it may be at most.
        p_broken: Of the claim that the limit is broken, after Holm's correction; None where there
            is too little to tell.
        p_kept: Of the claim that it is kept, after Bonferroni's correction over candidates.
        state: What the evidence says.
    """

    name: str
    observed: Estimate
    limit: float
    p_broken: float | None
    p_kept: float | None
    state: State


@dataclass(frozen=True, kw_only=True, slots=True)
class GateVerdict:
    """What the gate says of one candidate.

    Attributes:
        candidate: Its name.
        checks: Each limit.
        state: `broken` if one limit is, `kept` if all are, else `undecided`.
        passed: Whether it may replace the base.
    """

    candidate: str
    checks: Sequence[LimitCheck]
    state: State
    passed: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class _Claim:
    """A limit before it is judged; `estimate` is what `limit` bounds, both on the scale tested."""

    name: str
    estimate: BootstrapEstimate
    limit: float
    observed: Estimate
    shown_limit: float


def judge(
    gate: Gate,
    runs: Sequence[Run],
    texts: Sequence[TextAgreement],
    *,
    texts_must_agree: bool = True,
) -> list[GateVerdict]:
    """Judge candidates.

    Args:
        gate: The limits.
        runs: The base and the candidates, resampled together.
        texts: For each candidate, how its greedy texts agree with the base's.
        texts_must_agree: What `max_differing_texts: auto` stands for: 0, or no limit.

    Returns:
        One verdict for each candidate.

    Raises:
        ConfigError: If the runs cannot be judged by this gate: a figure that is missing, or a
            group that is not there.
    """
    _require(gate, runs)
    base, *candidates = runs
    claims = [list(_claims(gate, base, candidate)) for candidate in candidates]
    broken = iter(holm([claim.estimate.p_above(claim.limit) for each in claims for claim in each]))
    verdicts = []
    for candidate, each, agreement in zip(candidates, claims, texts, strict=True):
        checks = [
            _checked(claim, next(broken), len(candidates), gate.false_alarm_rate) for claim in each
        ]
        checks += _text_check(gate, agreement, texts_must_agree=texts_must_agree)
        states = {check.state for check in checks}
        state: State = (
            "broken" if "broken" in states else "undecided" if "undecided" in states else "kept"
        )
        passed = state == "kept" or (state == "undecided" and gate.when_undecided == "pass")
        verdicts.append(
            GateVerdict(candidate=candidate.name, checks=checks, state=state, passed=passed)
        )
    return verdicts


def _require(gate: Gate, runs: Sequence[Run]) -> None:
    base = runs[0]
    if not base.numbers:
        raise ConfigError(
            "a gate needs at least one group with enough requests to be compared, got none; run "
            "more documents"
        )
    for run in runs:
        if not is_measured(run, gate.judged):
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
            f"the gate's dominant_group {gate.dominant_group!r:.60} is none of the compared "
            f"groups: {', '.join(base.numbers)}"
        )


def _claims(gate: Gate, base: Run, candidate: Run) -> Iterator[_Claim]:
    metric, margins, dominant = gate.judged, gate.margins, gate.dominant_group
    worst, best = worst_of(metric), best_of(metric)

    def loss(name: str, margin: float, read: Callable[[Run], BootstrapEstimate]) -> _Claim:
        return _loss(name, gate, read(base), read(candidate), margin)

    if margins.mean is not None:
        yield loss("mean", margins.mean, lambda r: r.across(metric, mean_of, is_smooth=True))
    if margins.worst_group is not None:
        yield loss(
            "worst_group", margins.worst_group, lambda r: r.across(metric, worst, is_smooth=False)
        )
    if margins.dominant_group is not None and dominant is not None:
        yield loss(
            f"dominant_group: {dominant}",
            margins.dominant_group,
            lambda r: r.estimate(metric, dominant),
        )
    elif margins.dominant_group is not None:
        yield loss(
            "dominant_group",
            margins.dominant_group,
            lambda r: r.across(metric, best, is_smooth=False),
        )
    if margins.any_group is not None:
        for group in base.numbers:
            yield loss(
                f"any_group: {group}",
                margins.any_group,
                partial(Run.estimate, metric=metric, group=group),
            )
    if len(base.numbers) > 1:
        yield from _spread_claims(gate, base, candidate)


def _loss(
    name: str, gate: Gate, base: BootstrapEstimate, candidate: BootstrapEstimate, margin: float
) -> _Claim:
    """A share that may be lost: tested as a logarithm, where gains and losses are alike."""
    sign = -1 if gate.judged.lower_is_better else 1
    logarithm = combined(lambda one, other: sign * np.log(one / other), base, candidate)
    figure = logarithm.figure
    assert figure is not None

    def share(value: float | None) -> float | None:
        return None if value is None else float(-sign * np.expm1(-sign * value))

    return _Claim(
        name=name,
        estimate=logarithm,
        limit=float(-sign * np.log1p(-sign * margin)),
        observed=Estimate(
            value=float(-sign * np.expm1(-sign * figure.value)),
            low=share(figure.low),
            high=share(figure.high),
            n=figure.n,
        ),
        shown_limit=margin,
    )


def _spread_claims(gate: Gate, base: Run, candidate: Run) -> Iterator[_Claim]:
    limits, metric = gate.disparity, gate.judged
    # Less what noise adds, which is more where groups lie close: of spreads as observed, an
    # increase from equal groups would look too small, and be shown to be kept where it is not.
    corrected = candidate.corrected_spread(metric, limits.statistic)
    if limits.max_increase is not None:
        before, after = base.corrected_spread(metric, limits.statistic), corrected
        if not np.isfinite([before.value, after.value]).all():  # too little to tell the noise
            before, after = (run.spread(metric, limits.statistic) for run in (base, candidate))
        increase = combined(np.subtract, after, before, is_smooth=False)
        yield _spread("disparity.max_increase", increase, limits.max_increase)
    if limits.at_most is not None:
        yield _spread("disparity.at_most", corrected, limits.at_most)


def _spread(name: str, estimate: BootstrapEstimate, limit: float) -> _Claim:
    figure = estimate.figure
    if figure is None:
        raise ConfigError(
            f"the gate's {name} needs at least two documents in every group; run more, or switch "
            "it off with null"
        )
    return _Claim(name=name, estimate=estimate, limit=limit, observed=figure, shown_limit=limit)


def _checked(
    claim: _Claim, p_broken: float | None, num_candidates: int, false_alarm_rate: float
) -> LimitCheck:
    p_kept = claim.estimate.p_below(claim.limit)
    if p_kept is not None:
        p_kept = min(1.0, num_candidates * p_kept)
    state: State = "undecided"
    if p_broken is not None and p_broken <= false_alarm_rate:
        state = "broken"
    elif p_kept is not None and p_kept <= false_alarm_rate:
        state = "kept"
    return LimitCheck(
        name=claim.name,
        observed=claim.observed,
        limit=claim.shown_limit,
        p_broken=p_broken,
        p_kept=p_kept,
        state=state,
    )


def _text_check(
    gate: Gate, agreement: TextAgreement, *, texts_must_agree: bool
) -> list[LimitCheck]:
    limit = gate.max_differing_texts
    if limit == "auto":
        limit = 0 if texts_must_agree else None
    if limit is None or agreement.compared == 0:
        return []
    differing = float(agreement.differing)
    return [
        LimitCheck(
            name="max_differing_texts",
            observed=Estimate(value=differing, low=None, high=None, n=agreement.compared),
            limit=float(limit),
            p_broken=None,
            p_kept=None,
            state="broken" if differing > limit else "kept",
        )
    ]
