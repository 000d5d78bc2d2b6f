"""The verdict of a report: a few sentences that a person can repeat.

A group counts as faster or slower only where its whole interval is on one side of 1.
"""

from lm_eval_specfair.groups.assign import NO_GROUP, display_name
from lm_eval_specfair.machine_load import is_busy, load_sentence
from lm_eval_specfair.metrics.statistics.intervals import CONFIDENCE
from lm_eval_specfair.metrics.summary import Summary
from lm_eval_specfair.reporting.format import estimate_text, interval_text
from lm_eval_specfair.reporting.report.notes import differing_groups
from lm_eval_specfair.reporting.report.repetition_notes import repetition_verdict
from lm_eval_specfair.reporting.report.validity import invalid_texts

_SPEEDUPS = (("measured_speedup", "measured"), ("modelled_speedup", "modelled"))
_LENGTH = "mean_acceptance_length"


def headline(summary: Summary) -> list[str]:
    """The verdict, most important sentence first; empty where nothing was decoded."""
    speedup = next(
        ((name, kind) for name, kind in _SPEEDUPS if summary.overall.get(name) is not None), None
    )
    sentences = list(summary.contradictions)
    sentences += [] if speedup is None else [_overall(summary, *speedup)]
    if summary.overall.get("measured_speedup") is not None and is_busy(summary.run.get("load")):
        sentences.append(load_sentence(summary.run["load"], "it"))
    sentences += _extremes(summary)
    if speedup is not None:
        sentences += _sides(summary, *speedup)
    sentences += _differing(summary)
    sentences += repetition_verdict(summary)
    sentences += [f"Not valid: {text}." for text in invalid_texts(summary)[:1]]
    return sentences


def _overall(summary: Summary, metric: str, kind: str) -> str:
    estimate = summary.overall[metric]
    assert estimate is not None
    interval = f" {interval_text(estimate)}".rstrip()
    return (
        f"Over all requests decoding with the drafter is {estimate.value:.2f} times as fast as "
        f"without it{interval}, {kind}."
    )


def _extremes(summary: Summary) -> list[str]:
    """Who gets most and who gets least, in tokens per target pass."""
    spread = summary.disparity.get(_LENGTH)
    if spread is None:
        return []
    best, worst = (summary.groups[group][_LENGTH] for group in (spread.best, spread.worst))
    assert best is not None
    assert worst is not None
    most = f"{best.value:.2f} tokens per target pass {interval_text(best)}".rstrip()
    return [
        f"{_name(summary, spread.best)} gets {most}, "
        f"{_name(summary, spread.worst)} {estimate_text(worst)}."
    ]


def _sides(summary: Summary, metric: str, kind: str) -> list[str]:
    """How many groups gain and how many lose, as far as their intervals tell."""
    groups = [
        estimate
        for group, estimates in summary.groups.items()
        if group != NO_GROUP and (estimate := estimates.get(metric)) is not None
    ]
    if len(groups) < 2:
        return []
    faster = sum(each.low is not None and each.low > 1 for each in groups)
    slower = sum(
        each.low is not None and each.high is not None and each.high < 1 for each in groups
    )
    rest = len(groups) - faster - slower
    return [
        f"By {kind} speed-up, {faster} of {len(groups)} groups are faster with the drafter and "
        f"{slower} slower, each by its whole {CONFIDENCE:.0%} interval; {rest} cannot be told."
    ]


def _differing(summary: Summary) -> list[str]:
    """Which groups differ from the mean by more than noise, after correction for many tests."""
    spread = summary.disparity.get(_LENGTH)
    if spread is None or not spread.deviations:
        return []
    above, below = differing_groups(summary, _LENGTH)
    after = f"After Holm's correction for {len(spread.deviations)} tests"
    if not above and not below:
        return [
            f"{after} no group differs from the mean in tokens per target pass: these documents "
            "cannot tell the groups apart."
        ]
    sides = [
        f"{', '.join(_name(summary, group) for group in side)} {word}"
        for word, side in (("above", above), ("below", below))
        if side
    ]
    return [f"{after}, these differ from the mean in tokens per target pass: {'; '.join(sides)}."]


def _name(summary: Summary, group: str) -> str:
    """The group as people call it, without its code."""
    return display_name(group, summary.group_by).removesuffix(f" ({group})")
