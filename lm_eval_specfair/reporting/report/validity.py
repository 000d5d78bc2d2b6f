"""Whether a report may be believed: values that cannot be, and texts that are not the target's."""

from collections.abc import Mapping
from typing import Any

from lm_eval_specfair.groups.assign import display_name
from lm_eval_specfair.metrics.aggregate.aggregator import RunCounts
from lm_eval_specfair.metrics.summary import Flag, Summary
from lm_eval_specfair.reporting.format import count


def invalid_texts(summary: Summary) -> list[str]:
    """What is invalid in a report, and why; a clause each."""
    flags = [flag_text(flag, summary.group_by) for flag in summary.flags]
    return [*_unfaithful(summary.counts), *flags]


def flag_text(flag: Flag, group_by: str) -> str:
    """Why a value is invalid."""
    who = "all requests" if flag.group is None else display_name(flag.group, group_by)
    return (
        f"{who}: measured speed-up {flag.value:.2f} exceeds the {flag.limit:.2f} tokens per step "
        "of the same requests, which cannot be; measure again on a quiet machine"
    )


def lossless_notes(counts: RunCounts) -> list[str]:
    """Whether greedy texts were those of plain decoding, and of the target's own plain pass."""
    notes = []
    if counts.differing_baselines:
        decoded_twice = counts.differing_baselines + counts.agreeing_baselines
        ties, faults = counts.tied_baselines, counts.faulty_baselines
        known = f"{ties} of these at ties"
        if ties == counts.differing_baselines:
            known = "all at ties"
        elif not ties + faults:
            known = "which was not looked into"
        elif faults:
            known += f", {faults} NOT: the engine is at fault"
        notes.append(
            f"{counts.differing_baselines} of {decoded_twice} greedy requests that were decoded "
            f"both ways differ in their tokens, {known}"
            + (" (two tokens nearer to each other than the type rounds)." if ties else ".")
        )
    if counts.checked_requests:
        found = f"{counts.tied_tokens:,} tie with it within rounding"
        if counts.differing_tokens:
            found += f", {counts.differing_tokens:,} do NOT: the texts are not the target's"
        equal = counts.checked_tokens - counts.tied_tokens - counts.differing_tokens
        notes.append(
            f"{count(counts.checked_requests, 'greedy text')} held against the target's own pass "
            f"without a cache: {equal:,} of {counts.checked_tokens:,} tokens are its most likely, "
            f"{found}."
        )
    return notes


def fitted_notes(name: str, run: Mapping[str, Any]) -> list[str]:
    """Whether a run's drafter was fitted on the very requests that it was measured on."""
    totals = run.get("totals")
    number = totals.get("num_fitted_requests") if isinstance(totals, dict) else None
    if not isinstance(number, int) or not number:
        return []
    return [
        f"The drafter of {name} was fitted on the texts of {count(number, 'request')} that it was "
        "measured on: expect less of new ones (specfair fit and replay take --documents)."
    ]


def _unfaithful(counts: RunCounts) -> list[str]:
    """Why no figure of a run may be used, where its texts are not the target's."""
    if not counts.unfaithful_requests + counts.faulty_baselines:
        return []
    return [
        f"not lossless: {counts.unfaithful_requests} of {counts.checked_requests} checked texts, "
        f"and {count(counts.faulty_baselines, 'baseline')}, differ from what the target itself "
        "chooses by more than rounding, so the engine does not decode this model exactly"
    ]
