"""A plan as text: for a terminal, Markdown, CSV, JSON."""

import dataclasses
import math
from typing import Any

import msgspec

from lm_eval_specfair.groups.assign import display_name
from lm_eval_specfair.metrics.comparison.detection import Detection
from lm_eval_specfair.metrics.comparison.planning import PlannedLimit
from lm_eval_specfair.metrics.statistics.intervals import MIN_DOCUMENTS
from lm_eval_specfair.reporting.claims import noun_of
from lm_eval_specfair.reporting.comparison.build_plan import Plan
from lm_eval_specfair.reporting.comparison.detection_notes import found_in_groups, percent
from lm_eval_specfair.reporting.format import (
    csv_text,
    listed,
    prose,
)
from lm_eval_specfair.reporting.tables import Cell, Table, in_form, row_of

SCHEMA_VERSION = 1
"""Of the JSON plan."""

_MOST_GROUPS = 8


def closing_line(plan: Plan) -> str | None:
    """What a run's documents can show of another drafter, in a sentence; None for nothing."""
    found = {
        limit.group: Detection(documents=limit.documents, loss=limit.found, alone=limit.found)
        for limit in plan.limits
        if limit.group is not None
    }
    sentence = found_in_groups(found, plan.group_by)
    if sentence is None:
        return None
    return (
        f"compared with another drafter's run, with {sentence} So it is if pairing takes nothing "
        "out of the difference; `specfair plan` says how many documents a smaller loss needs."
    )


def render_plan(plan: Plan, format: str) -> str:
    """A plan as `table`, `md`, `json` or `csv`.

    Raises:
        ValueError: If there is no such format.
    """
    title = (
        f"Documents that find a loss of {percent(plan.loss)} in {prose(plan.metric.name)} in "
        f"{plan.power:.0%} of cases"
    )
    return in_form(
        format, title, _table(plan), _notes(plan),
        as_json=lambda: _as_json(plan), as_csv=lambda: _as_csv(plan),
    )  # fmt: skip


def _table(plan: Plan) -> Table:
    def row(limit: PlannedLimit, name: str) -> list[Cell]:
        found = Cell() if limit.found is None else Cell(percent(limit.found), limit.found)
        return row_of(
            name,
            Cell(str(limit.documents), limit.documents),
            found,
            *([] if plan.gate is None else [Cell(percent(limit.allowed), limit.allowed)]),
            _needed(limit),
        )

    def name(limit: PlannedLimit) -> str:
        if limit.group is None or plan.gate is not None:
            return limit.name
        return display_name(limit.group, plan.group_by)

    rows = [row(limit, name(limit)) for limit in plan.limits]
    last = [] if plan.mean is None else [row(plan.mean, "Mean over groups")]
    first = "Limit" if plan.gate is not None else prose(plan.group_by).capitalize()
    allowed = [] if plan.gate is None else ["Allowed"]
    return Table(
        title="Plan",
        header=[first, "n", "Loss found\nwith these", *allowed, "Documents\nneeded"],
        sections=[part for part in (rows, last) if part],
    )


def _needed(limit: PlannedLimit) -> Cell:
    if limit.needed is None:
        return Cell()
    ends = [str(end) if end is not None else "" for end in (limit.low, limit.high)]
    return Cell(f"{limit.needed} [{', '.join(ends)}]", limit.needed)


def _notes(plan: Plan) -> list[str]:
    noun, base = noun_of(plan.group_by), plan.runs[0]
    of_gate = "the gate's limits, those on spread among them" if plan.gate else f"the {noun}s"
    notes = [
        f"n: documents of the pilot{'' if plan.gate is None else f', a {noun}'}. Loss: a share of "
        f"the base's {prose(plan.metric.name)}. Needed: documents a {noun}; in brackets the 95% "
        "interval that a pilot of n documents leaves, as their variance is an estimate.",
        f"Found: called broken by a gate with false_alarm_rate {plan.false_alarm_rate:g}, at the "
        f"first step of Holm's correction over {of_gate}"
        f"{'; the mean is planned as the only limit' if plan.mean else ''}.",
    ]
    if plan.is_paired:
        notes.append(
            f"From {base} and {plan.runs[1]}, document by document: what makes a document hard for "
            "both is not counted."
        )
    else:
        notes.append(
            f"From {base} alone, unpaired: as if the two runs to be compared shared no document. A "
            f"pair mostly needs fewer: name another drafter's run of the same requests too."
        )
    enough = [limit.needed for limit in plan.limits if limit.needed is not None]
    if enough and plan.gate is None and len(enough) > 1:
        half = sorted(enough)[math.ceil(len(enough) / 2) - 1]
        notes.append(
            f"{max(enough):,} documents a {noun} (--limit, where each {noun} is a task) are enough "
            f"for each of these {noun}s, {half:,} for half of them."
        )
    if any(plan.loss <= limit.allowed for limit in plan.limits):
        notes.append(
            f"A limit that allows {percent(plan.loss)} or more never calls such a loss broken: ask "
            "for a larger --margin, or allow less."
        )
    short = [limit for limit in plan.limits if limit.documents < MIN_DOCUMENTS]
    if short:
        names = [limit.group or limit.name for limit in short]
        notes.append(
            f"Pilot too small, with fewer than {MIN_DOCUMENTS} documents: "
            f"{listed(names, _MOST_GROUPS)}."
        )
    if plan.not_reported:
        small = [f"{group} ({n})" for group, n in plan.not_reported.items()]
        notes.append(
            f"Left out, without a name or with fewer than {plan.min_requests} requests (n; "
            f"--min-requests asks for smaller groups): {listed(small, _MOST_GROUPS)}."
        )
    return [*notes, *plan.notes]


def _as_json(plan: Plan) -> dict[str, Any]:
    limits = [dataclasses.asdict(limit) for limit in plan.limits]
    return {
        "schema_version": SCHEMA_VERSION,
        "group_by": plan.group_by,
        "metric": plan.metric.name,
        "runs": list(plan.runs),
        "is_paired": plan.is_paired,
        "margin": plan.loss,
        "power": plan.power,
        "false_alarm_rate": plan.false_alarm_rate,
        "gate": None if plan.gate is None else msgspec.to_builtins(plan.gate),
        "limits": limits,
        "groups": {one["group"]: one for one in limits if one["group"] and plan.gate is None},
        "mean": None if plan.mean is None else dataclasses.asdict(plan.mean),
        "not_reported": dict(plan.not_reported),
        "min_requests": plan.min_requests,
        "notes": _notes(plan),
    }


def _as_csv(plan: Plan) -> str:
    header = [field.name for field in dataclasses.fields(PlannedLimit)]
    limits = [*plan.limits, *([] if plan.mean is None else [plan.mean])]
    return csv_text(header, [dataclasses.astuple(limit) for limit in limits])
