"""Sentences about the records that a report rests on: what is invalid, missing or pooled."""

from lm_eval_specfair.groups.assign import NO_GROUP, display_name
from lm_eval_specfair.metrics.aggregate.sums import MAX_SETTINGS
from lm_eval_specfair.metrics.summary import Flag, Summary


def flag_text(flag: Flag, group_by: str) -> str:
    """Why a value is invalid."""
    who = "all requests" if flag.group is None else display_name(flag.group, group_by)
    return (
        f"{who}: measured speed-up {flag.value:.2f} exceeds the {flag.limit:.2f} tokens per step "
        "of the same requests, which cannot be; measure again on a quiet machine"
    )


def record_notes(summary: Summary) -> list[str]:
    """What a reader must know of groups, settings and baselines."""
    notes, counts, num_settings = [], summary.counts, len(summary.settings)
    if summary.ungrouped:
        tasks = sorted(summary.ungrouped)
        shown = ", ".join(tasks[:5]) + (", ..." if len(tasks) > 5 else "")
        notes.append(
            f"{NO_GROUP}: nothing names the {summary.group_by} of "
            f"{sum(summary.ungrouped.values())} requests ({shown}), so no comparison holds them. "
            f"Add a field `{summary.group_by}` to the documents or to `metadata` in the task's "
            "YAML, or name it in a --groups file."
        )
    if num_settings > 1:
        notes.append(
            f"Requests were decoded with {num_settings} different settings; each estimate pools "
            "them, and the modelled speed-up takes the cost of a step from requests of the same "
            "settings."
        )
    if num_settings > MAX_SETTINGS:
        notes.append(
            f"Only {MAX_SETTINGS} combinations of settings have a cost of their own; the last "
            f"{num_settings - MAX_SETTINGS + 1} of them share one."
        )
    if summary.has_bounds and summary.greedy_requests and summary.overall["overlap"] is not None:
        notes.append(
            f"{summary.greedy_requests:,} requests were decoded greedily, where a token is "
            "accepted if both models find it most likely: bounds of the speed-up, which assume "
            "sampling, don't hold for these."
        )
    if counts.infinite_requests:
        notes.append(
            f"In {counts.infinite_requests} requests top-k or top-p left the drafter without a "
            "token of the target: KL and cross-entropy are infinite there, and not reported."
        )
    if counts.differing_baselines:
        decoded_twice = counts.differing_baselines + counts.agreeing_baselines
        notes.append(
            f"{counts.differing_baselines} of {decoded_twice} greedy requests that were decoded "
            "both ways differ in their tokens."
        )
    return notes
