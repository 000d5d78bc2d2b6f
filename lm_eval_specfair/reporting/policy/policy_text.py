"""A policy of draft lengths, and the gain that is expected of it, as text, JSON and CSV."""

import dataclasses
from typing import Any

from lm_eval_specfair.groups.assign import display_name
from lm_eval_specfair.metrics.draft_length.cross_fit import NUM_FOLDS
from lm_eval_specfair.metrics.draft_length.selection import LengthPolicy
from lm_eval_specfair.metrics.routing.route_selection import RoutePolicy
from lm_eval_specfair.reporting.format import (
    csv_text,
    shortened,
)
from lm_eval_specfair.reporting.policy.routes_text import render_routes
from lm_eval_specfair.reporting.tables import Table, estimate_cell, in_form, row_of

SCHEMA_VERSION = 1
"""Of the JSON that is printed."""


def render_policy(policy: LengthPolicy | RoutePolicy, format: str) -> str:
    """A policy and the gain expected of it, as `table`, `md`, `json` or `csv`.

    Raises:
        ValueError: If there is no such format.
    """
    if isinstance(policy, RoutePolicy):
        return render_routes(policy, format)
    changed = sum(choice.chosen != policy.default for choice in policy.choices.values())
    title = (
        f"Draft lengths by {policy.group_by}: {changed} of {len(policy.choices)} groups leave the "
        f"runs' {policy.default}"
    )
    return in_form(
        format, title, _table(policy), _notes(policy),
        as_json=lambda: _as_json(policy), as_csv=lambda: _as_csv(policy),
    )  # fmt: skip


def _table(policy: LengthPolicy) -> Table:
    header = [
        policy.group_by.capitalize(),
        "n",
        "Draft\nlength",
        "Best\nfound",
        f"Modelled speed-up\nwith {policy.default}",
        "Modelled speed-up\nas chosen",
        "Expected gain",
    ]
    rows = []
    for group, choice in policy.choices.items():
        expected, changed = choice.expected, choice.chosen != policy.default
        rows.append(
            row_of(
                shortened(display_name(group, policy.group_by)),
                str(expected.gain.n),
                str(choice.chosen),
                str(choice.best),
                estimate_cell(expected.current_speedup),
                estimate_cell(expected.chosen_speedup if changed else expected.current_speedup),
                estimate_cell(expected.gain, "+.0%") if changed else "kept",
            )
        )
    overall = policy.overall
    last = row_of(
        "These groups",
        str(overall.gain.n),
        "",
        "",
        estimate_cell(overall.current_speedup),
        estimate_cell(overall.chosen_speedup),
        estimate_cell(overall.gain, "+.0%"),
    )
    return Table(title="Draft lengths", header=header, sections=[rows, [last]])


def _notes(policy: LengthPolicy) -> list[str]:
    points = ", ".join(f"{cost:.2f} with {drafted:.1f} drafted" for drafted, cost in policy.costs)
    notes = [
        "Draft length: tokens drafted per step, 0 for plain decoding. Modelled speed-up: tokens "
        "over the cost of their steps, in plain steps. Steps are counted by replaying the runs' "
        "accepted and rejected tokens with drafts of another length.",
        f"Expected gain: in modelled speed-up over length {policy.default}, on documents that had "
        f"no part in the choice ({NUM_FOLDS} folds); in brackets 95% intervals from "
        f"{policy.num_resamples:,} resamples of documents, costs among them. A group whose "
        "interval holds 0 keeps its length.",
        f"Cost of a step, in plain steps: {points}. Shorter drafts than measured are taken to save "
        "drafting alone; verifying and the rest cost as much as there. To measure it, name runs "
        "with several draft lengths.",
        "Costs are those of rows that draft alike. In a batch of several groups a step is as wide "
        "as its longest draft.",
    ]
    if policy.candidates:
        among = ", ".join(map(str, policy.candidates))
        notes.append(f"Chosen among the draft lengths that are served: {among}.")
    if policy.longest > max(policy.measured):
        notes.append(
            f"Lengths above {max(policy.measured)} were not measured: tokens after a draft that "
            "was kept whole are taken as kept like those at the deepest position examined, and the "
            "cost of a step as still rising. Run with such a length before you rely on it."
        )
    at_the_end = [
        group
        for group, choice in policy.choices.items()
        if choice.best == policy.longest == max(policy.measured) and not policy.candidates
    ]
    if at_the_end:
        notes.append(
            f"Longer drafts than {policy.longest} may serve {', '.join(at_the_end[:8])}"
            f"{', ...' if len(at_the_end) > 8 else ''} better still: ask with --longest, or "
            "measure with a larger num_speculative_tokens."
        )
    if not any(policy.groups.values()):
        notes.append("No group gains from drafting at these costs: drafter=none serves all.")
    if policy.not_reported:
        small = ", ".join(f"{group} ({n})" for group, n in policy.not_reported.items())
        notes.append(f"Left at {policy.default}, with too few requests or no name (n): {small}.")
    return notes


def _as_json(policy: LengthPolicy) -> dict[str, Any]:
    return {
        "schema_version": SCHEMA_VERSION,
        "group_by": policy.group_by,
        "default": policy.default,
        "longest": policy.longest,
        "measured": list(policy.measured),
        "step_costs": [{"drafted_per_step": at, "plain_steps": cost} for at, cost in policy.costs],
        "overall": dataclasses.asdict(policy.overall),
        "groups": {
            group: {
                "draft_length": choice.chosen,
                "best": choice.best,
                **dataclasses.asdict(choice.expected),
            }
            for group, choice in policy.choices.items()
        },
        "not_reported": dict(policy.not_reported),
    }


def _as_csv(policy: LengthPolicy) -> str:
    rows = [
        (
            group,
            choice.chosen,
            choice.best,
            name,
            *dataclasses.astuple(getattr(choice.expected, name)),
        )
        for group, choice in policy.choices.items()
        for name in ("current_speedup", "chosen_speedup", "gain")
    ]
    numbers = ["value", "low", "high", "num_requests"]
    return csv_text(["group", "draft_length", "best", "metric", *numbers], rows)
