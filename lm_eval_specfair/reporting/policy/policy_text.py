"""A policy, and what is expected of it, as text."""

import csv
import dataclasses
import io
import json
import textwrap
from typing import Any

from tabulate import SEPARATING_LINE, tabulate

from lm_eval_specfair.escape import csv_cell, markdown
from lm_eval_specfair.groups.assign import display_name
from lm_eval_specfair.metrics.draft_length.cross_fit import NUM_FOLDS
from lm_eval_specfair.metrics.draft_length.selection import LengthPolicy
from lm_eval_specfair.metrics.statistics.intervals import Estimate
from lm_eval_specfair.reporting.format import TERMINAL_WIDTH, estimate_text, shortened

SCHEMA_VERSION = 1
"""Of the JSON that is printed."""


def render_policy(policy: LengthPolicy, format: str) -> str:
    """A policy and what is expected of it, as text.

    Args:
        policy: What was chosen.
        format: `table`, `md`, `json` or `csv`.

    Raises:
        ValueError: If there is no such format.
    """
    if format == "json":
        return json.dumps(_as_json(policy), indent=2, ensure_ascii=False, allow_nan=False)
    if format == "csv":
        return _as_csv(policy)
    if format not in ("table", "md"):
        raise ValueError(f"format must be table, md, json or csv, got {format!r}")
    header, rows, last = _table(policy)
    if format == "md":
        cells = [[markdown(cell) for cell in row] for row in (*rows, last)]
        text = tabulate(
            cells, [name.replace("\n", " ") for name in header], "github", disable_numparse=True
        )
        notes = "\n".join(f"- {markdown(note)}" for note in _notes(policy))
        return f"# {_title(policy)}\n\n{text}\n\n{notes}\n"
    text = tabulate(
        [*rows, SEPARATING_LINE, last], header, tablefmt="simple", disable_numparse=True
    )
    notes = "\n".join(
        textwrap.fill(note, TERMINAL_WIDTH, subsequent_indent="  ", break_on_hyphens=False)
        for note in _notes(policy)
    )
    return f"{_title(policy)}\n\n{text}\n\n{notes}"


def _title(policy: LengthPolicy) -> str:
    changed = sum(choice.chosen != policy.default for choice in policy.choices.values())
    return (
        f"Draft lengths by {policy.group_by}: {changed} of {len(policy.choices)} groups leave the "
        f"runs' {policy.default}"
    )


def _table(policy: LengthPolicy) -> tuple[list[str], list[list[str]], list[str]]:
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
        found, changed = choice.expected, choice.chosen != policy.default
        rows.append(
            [
                shortened(display_name(group, policy.group_by), 40),
                str(found.gain.n),
                str(choice.chosen),
                str(choice.best),
                estimate_text(found.current_speedup),
                estimate_text(found.chosen_speedup if changed else found.current_speedup),
                estimate_text(found.gain, "+.0%") if changed else "kept",
            ]
        )
    all_groups = policy.overall
    last = [
        "These groups",
        str(all_groups.gain.n),
        "",
        "",
        estimate_text(all_groups.current_speedup),
        estimate_text(all_groups.chosen_speedup),
        estimate_text(all_groups.gain, "+.0%"),
    ]
    return header, rows, last


def _notes(policy: LengthPolicy) -> list[str]:
    points = ", ".join(f"{cost:.2f} with {drafted:.1f} drafted" for drafted, cost in policy.costs)
    notes = [
        "Draft length: tokens drafted per step, 0 for plain decoding. Modelled speed-up: tokens "
        "over the cost of the steps that they take, in plain steps. Steps are counted by reading "
        "the runs' accepted and rejected tokens again with drafts of another length.",
        f"Expected gain: in modelled speed-up over length {policy.default}, on documents that had "
        f"no part in the choice ({NUM_FOLDS} folds); in brackets 95% intervals from "
        f"{policy.num_resamples:,} resamples of documents, costs among them. A group whose "
        "interval holds 0 keeps its length.",
        f"Cost of a step, in plain steps: {points}. Shorter drafts than measured are taken to save "
        "drafting alone; verifying and the rest cost what they cost there. To measure it, name "
        "runs with several draft lengths.",
        "Costs are those of rows that draft alike. In a batch of several groups a step is as wide "
        "as its longest draft.",
    ]
    if policy.longest > max(policy.measured):
        notes.append(
            f"Lengths above {max(policy.measured)} were not measured: tokens behind a draft that "
            "was kept whole are taken as kept like those at the deepest position examined, and a "
            "step's cost as rising on. Run with such a length before you rely on it."
        )
    at_the_end = [
        group
        for group, choice in policy.choices.items()
        if choice.best == policy.longest == max(policy.measured)
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
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(
        ["group", "draft_length", "best", "metric", "value", "low", "high", "num_requests"]
    )
    for group, choice in policy.choices.items():
        for name in ("current_speedup", "chosen_speedup", "gain"):
            figure: Estimate = getattr(choice.expected, name)
            numbers = [figure.value, figure.low, figure.high, figure.n]
            writer.writerow([csv_cell(group), choice.chosen, choice.best, name, *numbers])
    return file.getvalue()
