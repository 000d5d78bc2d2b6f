"""A policy of drafters and draft lengths, and what is expected of it, as text, JSON and CSV."""

import dataclasses
from typing import Any

from lm_eval_specfair.groups.assign import display_name
from lm_eval_specfair.metrics.draft_length.cross_fit import NUM_FOLDS
from lm_eval_specfair.metrics.routing.drafter_texts import PLAIN, Route
from lm_eval_specfair.metrics.routing.route_selection import RoutePolicy
from lm_eval_specfair.metrics.statistics.intervals import MIN_DOCUMENTS
from lm_eval_specfair.reporting.format import (
    csv_text,
    estimate_text,
    listed,
    shortened,
)
from lm_eval_specfair.reporting.tables import Table, estimate_cell, in_form, row_of

SCHEMA_VERSION = 2
"""Of the JSON that is printed; 1 has draft lengths alone."""

_REASONS = {
    "faster": "faster",
    "kept": "kept",
    "above_plain": "above plain",
    "plain_is_faster": "plain is faster",
    "not_above_plain": "none shown above plain",
}
_MOST_LISTED = 8


def render_routes(policy: RoutePolicy, format: str) -> str:
    """A policy and the gain expected of it, as `table`, `md`, `json` or `csv`.

    Raises:
        ValueError: If there is no such format.
    """
    changed = sum(choice.chosen != policy.incumbent for choice in policy.choices.values())
    title = (
        f"Drafters by {policy.group_by}: {changed} of {len(policy.choices)} groups leave "
        f"{shown(policy.incumbent)}"
    )
    return in_form(
        format, title, _table(policy), _notes(policy),
        as_json=lambda: _as_json(policy), as_csv=lambda: _as_csv(policy),
    )  # fmt: skip


def shown(route: Route) -> str:
    """A drafter and its draft length; `plain` for none."""
    return "plain" if route == PLAIN else f"{shortened(route.drafter)}, {route.length}"


def _table(policy: RoutePolicy) -> Table:
    header = [
        policy.group_by.capitalize(),
        "n",
        "Drafter,\nlength",
        "Best\nfound",
        f"Modelled speed-up\nwith {shown(policy.incumbent)}",
        "Expected speed-up\nas chosen",
        "Expected gain",
        "Why",
    ]
    rows = []
    for group, choice in policy.choices.items():
        expected = choice.expected
        rows.append(
            row_of(
                shortened(display_name(group, policy.group_by)),
                str(expected.gain.n),
                shown(choice.chosen),
                shown(choice.best),
                estimate_cell(expected.current_speedup),
                estimate_cell(expected.chosen_speedup),
                "" if choice.reason == "kept" else estimate_cell(expected.gain, "+.0%"),
                _REASONS[choice.reason],
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
        "",
    )
    return Table(title="Drafters", header=header, sections=[rows, [last]])


def _notes(policy: RoutePolicy) -> list[str]:
    level = f"{policy.level:.0%}"
    costs = "; ".join(
        f"{shortened(name)} "
        + ", ".join(f"{cost:.2f} with {drafted:.1f} drafted" for drafted, cost in points)
        for name, points in policy.costs.items()
    )
    notes = [
        "Plain: decoding without a drafter, whose step is the unit of costs. Speed-ups are "
        "modelled: tokens over the cost of their steps, in plain steps. Steps are counted by "
        "replaying each drafter's accepted and rejected tokens with drafts of another length.",
        "Expected, not measured: speed-ups and gains of what is chosen are those on documents that "
        f"had no part in the choice ({NUM_FOLDS} folds); in brackets 95% intervals from "
        f"{policy.num_resamples:,} resamples of documents, costs among them.",
        f"A group leaves {shown(policy.incumbent)} where another is shown to be faster, after "
        "correction for all drafters and lengths and Holm's over groups. In the same way, whatever "
        "is chosen or kept is shown to be faster than plain decoding; where nothing is, the group "
        "is decoded plainly. So no group named ends below plain decoding, but for a chance of at "
        f"most {level} over all of them, at these costs and for texts like these.",
        _default_note(policy),
        f"Cost of a step, in plain steps: {costs}. Shorter drafts than measured are taken to save "
        "drafting alone. Costs are those of rows that draft alike; of noise between two runs on "
        "one machine the intervals know nothing.",
        f"Memory: {listed(policy.needed, _MOST_LISTED)} beside the target."
        if policy.needed
        else "No group is shown to gain from drafting: drafter=none serves all.",
    ]
    if policy.served:
        among = ", ".join(f"({shown(route)})" for route in policy.served)
        notes.append(f"Chosen among what is served: {among}.")
    beyond = [
        f"{shortened(name)} above {max(measured)}"
        for name, measured in policy.drafters.items()
        if policy.longest[name] > max(measured)
    ]
    if beyond:
        notes.append(
            f"Lengths that were not measured: {', '.join(beyond)}; tokens after a draft that was "
            "kept whole are taken as kept like those at the deepest position examined, and the "
            "cost of a step as still rising. Run with such a length before you rely on it."
        )
    if policy.differing_texts:
        notes.append(
            f"Greedy texts that differ between runs, which rounding can do in these numbers: "
            f"{policy.differing_texts}."
        )
    if policy.not_reported:
        small = ", ".join(f"{group} ({n})" for group, n in policy.not_reported.items())
        notes.append(
            f"With fewer than {MIN_DOCUMENTS} documents, too few requests or no name, and so at "
            f"the default (n): {small}."
        )
    return notes


def _default_note(policy: RoutePolicy) -> str:
    who = "Groups that are not named get the default"
    if policy.default == PLAIN:
        return (
            f"{who}: plain, as no drafter was shown to be above it in the mean over these groups."
        )
    expected = estimate_text(policy.default_speedup, ".2f")
    return (
        f"{who}: {shown(policy.default)}, the best in the geometric mean over these groups "
        f"(expected {expected}). Of a group of its own nothing is promised there."
    )


def _as_json(policy: RoutePolicy) -> dict[str, Any]:
    return {
        "schema_version": SCHEMA_VERSION,
        "group_by": policy.group_by,
        "incumbent": _route(policy.incumbent),
        "default": {
            **_route(policy.default),
            "expected_speedup": dataclasses.asdict(policy.default_speedup)
            if policy.default != PLAIN
            else None,
        },
        "level": policy.level,
        "drafters": {
            name: {
                "measured": list(measured),
                "longest": policy.longest[name],
                "step_costs": [
                    {"drafted_per_step": at, "plain_steps": cost} for at, cost in policy.costs[name]
                ],
                "needed": name in policy.needed,
            }
            for name, measured in policy.drafters.items()
        },
        "overall": dataclasses.asdict(policy.overall),
        "groups": {
            group: {
                **_route(choice.chosen),
                "best": _route(choice.best),
                "reason": choice.reason,
                **dataclasses.asdict(choice.expected),
                "p_gain": choice.p_gain,
                "p_above_plain": choice.p_above_plain,
                "num_documents": choice.documents,
            }
            for group, choice in policy.choices.items()
        },
        "num_differing_texts": policy.differing_texts,
        "not_reported": dict(policy.not_reported),
    }


def _route(route: Route) -> dict[str, Any]:
    return {"drafter": route.drafter, "draft_length": route.length}


def _as_csv(policy: RoutePolicy) -> str:
    rows = [
        (
            group,
            *choice.chosen,
            *choice.best,
            choice.reason,
            name,
            *dataclasses.astuple(getattr(choice.expected, name)),
        )
        for group, choice in policy.choices.items()
        for name in ("current_speedup", "chosen_speedup", "gain")
    ]
    chosen = ["drafter", "draft_length", "best_drafter", "best_draft_length", "reason"]
    numbers = ["value", "low", "high", "num_requests"]
    return csv_text(["group", *chosen, "metric", *numbers], rows)
