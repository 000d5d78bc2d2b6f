"""A gate's verdict on one candidate as a sentence that a person can repeat."""

from lm_eval_specfair.escape import one_line
from lm_eval_specfair.metrics.comparison.verdict import GateVerdict, LimitCheck
from lm_eval_specfair.metrics.statistics.intervals import Estimate
from lm_eval_specfair.reporting.claims import (
    MOST_NAMED,
    name_of,
    noun_of,
    nouns_of,
    series,
    share,
)
from lm_eval_specfair.reporting.comparison.build_comparison import ComparisonReport
from lm_eval_specfair.reporting.format import isolated, listed, prose, shortened


def run_name(run: str) -> str:
    """A run as a sentence names it."""
    return isolated(shortened(one_line(run)))


def gate_sentence(report: ComparisonReport, verdict: GateVerdict) -> str:
    """What the gate says of one candidate, and what of its limits it rests on."""
    name = run_name(verdict.candidate)
    states = {
        state: [check for check in verdict.checks if check.state == state]
        for state in ("kept", "broken", "undecided")
    }
    kept, broken, undecided = states.values()
    if broken:
        found = listed([_broken(report, check) for check in broken], MOST_NAMED, "; ")
        return f"The gate turns {name} down: {found}."
    if not undecided:
        all_kept = f"its {len(kept)} limits are all" if len(kept) > 1 else "its one limit is"
        return f"The gate lets {name} pass: {all_kept} shown to be kept."
    open_ones = series([_limit(report, check.name) for check in undecided])
    number = f"{len(undecided)} of {len(verdict.checks)} limits"
    rest = f"{number} {'is' if len(undecided) == 1 else 'are'} undecided ({open_ones})"
    if verdict.passed:
        return f"The gate lets {name} pass, as no limit is shown to be broken, but {rest}."
    return f"The gate turns {name} down for want of proof: {rest}."


def _broken(report: ComparisonReport, check: LimitCheck) -> str:
    limit = _limit(report, check.name)
    if check.name == "max_differing_texts":
        return (
            f"{check.observed.value:.0f} of {check.observed.n} {limit}, where {check.limit:.0f} may"
        )
    if check.name.startswith("disparity."):
        more = "rises by" if check.name.endswith("increase") else "is"
        return f"{limit} {more} {check.observed.value:.3g}, where {check.limit:g} is allowed"
    return (
        f"{limit} loses {share(max(check.observed.value, 0.0))}{_range(check.observed)}, where "
        f"{share(check.limit)} is allowed"
    )


def _range(loss: Estimate) -> str:
    if loss.low is None or loss.high is None:
        return ""
    if loss.low < 0:  # the correction over limits may find what one interval does not show
        return f" ({-loss.low:.0%} gained to {share(max(loss.high, 0.0))} lost)"
    return f" ({share(loss.low)} to {share(loss.high)})"


def _limit(report: ComparisonReport, name: str) -> str:
    """What a limit is about, in words."""
    group_by = report.comparison.group_by
    noun, nouns = noun_of(group_by), nouns_of(group_by)
    key, _, group = name.partition(": ")
    if group:
        return name_of(group, group_by)
    statistic = "spread" if report.gate is None else prose(report.gate.disparity.statistic)
    return {
        "mean": f"the mean over {nouns}",
        "worst_group": f"the worst-served {noun}",
        "dominant_group": f"the best-served {noun}",
        "disparity.max_increase": f"the {statistic} across {nouns}",
        "disparity.at_most": f"the {statistic} across {nouns}",
        "max_differing_texts": "greedy texts differ from the base's",
    }.get(key, one_line(name))
