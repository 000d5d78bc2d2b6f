"""A mixture, and the data set that was drawn by it, as text, JSON and CSV."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lm_eval_specfair.groups.assign import display_name
from lm_eval_specfair.mixtures.data_files import READERS
from lm_eval_specfair.mixtures.measured_misfit import ACCEPTANCE
from lm_eval_specfair.mixtures.next_shares import SETTLED, Mixture
from lm_eval_specfair.mixtures.weighted_draw import WeightedDraw
from lm_eval_specfair.reporting.format import csv_text, listed, prose, shortened
from lm_eval_specfair.reporting.tables import Cell, Table, estimate_cell, in_form, row_of

SCHEMA_VERSION = 1
"""Of the JSON that is printed."""
MANY_EPOCHS = 4.0
"""Passes over a group's rows up to which repeated text is about as good as new.

Source:
    Muennighoff et al. 2023, Scaling Data-Constrained Language Models (arXiv:2305.16264).
"""
_MOST = 8


def render_mixture(
    mixture: Mixture,
    format: str,
    *,
    draw: WeightedDraw | None = None,
    output: Path | None = None,
    data_files: Sequence[Path] = (),
) -> str:
    """A mixture as `table`, `md`, `json` or `csv`.

    `output` is where it was written, `draw` the data set in `data_files`.

    Raises:
        ValueError: If there is no such format.
    """
    title = (
        f"Mixture by {mixture.group_by}, round {mixture.number}: {len(mixture.groups)} groups "
        f"weighed by {mixture.weighting}"
    )
    return in_form(
        format, title, _table(mixture, draw), _notes(mixture, draw, output, data_files),
        as_json=lambda: _as_json(mixture, draw), as_csv=lambda: _as_csv(mixture, draw),
    )  # fmt: skip


def _table(mixture: Mixture, draw: WeightedDraw | None) -> Table:
    header = [
        mixture.group_by.capitalize(),
        "n",
        prose(mixture.figure).capitalize(),
        "Misfit",
        "Share\nbefore",
        "Share\nafter",
    ]
    header += (
        [f"{mixture.data.unit.capitalize()}\nof data", "Drawn", "Epochs"]
        if draw and mixture.data
        else []
    )
    rows = []
    for name, one in mixture.groups.items():
        rows.append(
            row_of(
                shortened(display_name(name, mixture.group_by)),
                str(one.measured.n),
                estimate_cell(one.measured, ".3f"),
                Cell(f"{one.misfit:.3f}", one.misfit),
                _share_cell(one.before),
                _share_cell(one.after),
                *_drawn_cells(mixture, draw, name),
            )
        )
    for name, share in mixture.kept.items():
        cell = _share_cell(share)
        shown = shortened(display_name(name, mixture.group_by))
        rows.append(
            row_of(shown, "0", Cell(), Cell(), cell, cell, *_drawn_cells(mixture, draw, name))
        )
    return Table(title="Mixture", header=header, sections=[rows])


def _share_cell(share: float | None) -> Cell:
    return Cell() if share is None else Cell(f"{share:.1%}", share)


def _drawn_cells(mixture: Mixture, draw: WeightedDraw | None, name: str) -> list[Cell]:
    if draw is None or mixture.data is None:
        return []
    one = draw.groups.get(name)
    if one is None:
        return [Cell("none"), Cell(), Cell()]
    return [
        Cell(f"{one.available:,.0f}", one.available),
        Cell(f"{one.drawn:,.0f}", one.drawn),
        Cell(f"{one.epochs:.2f}", one.epochs),
    ]


def _notes(
    mixture: Mixture, draw: WeightedDraw | None, output: Path | None, data_files: Sequence[Path]
) -> list[str]:
    notes = [
        f"{prose(mixture.figure).capitalize()}: with 95% intervals, of n requests. Misfit: what "
        "the rule weighs by, in its signal's unit"
        + ("." if mixture.number == 1 else ", a running mean over rounds.")
        + " Share: of the tokens that a drafter learns from.",
        *_doubts(mixture),
        *_about_data(mixture, draw),
    ]
    moved = mixture.moved
    if moved is not None and moved < SETTLED:
        notes.append(
            f"The shares have settled: {moved:.1%} of the data changes hands, and another round "
            "would change little."
        )
    elif moved is not None:
        notes.append(f"{moved:.1%} of the data changes hands.")
    return [*notes, *_next_steps(mixture, output, data_files)]


def _doubts(mixture: Mixture) -> list[str]:
    notes = []
    if mixture.figure == ACCEPTANCE:
        notes.append(
            "No distributions were measured: the share of examined drafts that were accepted "
            "stands for the overlap, which it estimates where texts are sampled."
        )
    if mixture.uncertain:
        notes.append(
            f"Too few documents to place {listed(list(mixture.uncertain), _MOST)} among the groups "
            "(the interval is wider than half of the spread between groups, or there is none): "
            "measure more before you rely on these shares."
        )
    if mixture.unmeasured:
        few = [f"{name} ({n})" for name, n in mixture.unmeasured.items()]
        notes.append(
            f"Not weighed, with too few requests or nothing that the rule reads (n): "
            f"{listed(few, _MOST)}."
        )
    if mixture.kept:
        notes.append(
            f"Never measured, so these keep their share: {listed(list(mixture.kept), _MOST)}. Add "
            "their documents to what you measure."
        )
    if mixture.restarted:
        notes.append(
            "The former mixture was weighed by another rule or figure: its shares are taken, its "
            "memory of earlier rounds is not."
        )
    return notes


def _about_data(mixture: Mixture, draw: WeightedDraw | None) -> list[str]:
    if mixture.data is None:
        return []
    notes = []
    if missing := mixture.without_data:
        asked = [f"{name} ({share:.1%})" for name, share in missing.items()]
        notes.append(
            f"No data: {listed(asked, _MOST)}. Their shares go to the others in proportion; add "
            "texts of them."
        )
    if strangers := sorted(mixture.data.by_group.keys() - mixture.shares.keys()):
        notes.append(
            f"Left out, with data and neither a measurement nor a share in the former mixture: "
            f"{listed(strangers, _MOST)}."
        )
    if mixture.data.unit == "rows":
        notes.append(
            "The data have no responses, so shares are of rows: weigh again once the target has "
            "answered them."
        )
    if mixture.data.unit in ("bytes", "estimated tokens"):
        means = (
            "divided by the bytes per token that were measured of each group"
            if mixture.data.unit == "estimated tokens"
            else "since nobody measured bytes per token"
        )
        notes.append(f"Sizes of data are bytes of text {means}; --tokenizer counts tokens.")
    if draw is not None:
        often = {name: one.epochs for name, one in draw.groups.items() if one.epochs > MANY_EPOCHS}
        if often:
            shown = [f"{name} ({epochs:.1f})" for name, epochs in often.items()]
            notes.append(
                f"Drawn more than {MANY_EPOCHS:.0f} times over (epochs): {listed(shown, _MOST)}. "
                "Text that is repeated so often teaches little more: add texts, or raise the "
                "rule's floor."
            )
    return notes


def _next_steps(mixture: Mixture, output: Path | None, data_files: Sequence[Path]) -> list[str]:
    notes = []
    readers = [(path, READERS[path.stem]) for path in data_files if path.stem in READERS]
    if readers:
        notes.append("Train on " + "; ".join(f"{path}: {who}" for path, who in readers) + ".")
    elif mixture.data is None:
        notes.append(
            "Next: name your training data with --data and --data-out to have it weighted."
        )
    former = output or Path("mixture.json")
    notes.append(
        "After training, measure the new drafter on the same documents and weigh again: specfair "
        f"mixture NEW_RUN --mixture {former} -o next.json"
    )
    return notes


def _as_json(mixture: Mixture, draw: WeightedDraw | None) -> dict[str, Any]:
    return {
        "schema_version": SCHEMA_VERSION,
        "group_by": mixture.group_by,
        "weighting": mixture.weighting,
        "figure": mixture.figure,
        "round": mixture.number,
        "moved": mixture.moved,
        "shares": dict(mixture.shares),
        "groups": {name: dataclasses.asdict(one) for name, one in mixture.groups.items()},
        "kept": dict(mixture.kept),
        "not_weighed": dict(mixture.unmeasured),
        "uncertain": list(mixture.uncertain),
        "without_data": mixture.without_data,
        "data": None
        if draw is None or mixture.data is None
        else {
            "unit": mixture.data.unit,
            "rows": len(draw.rows),
            "groups": {
                name: {**dataclasses.asdict(one), "epochs": one.epochs}
                for name, one in draw.groups.items()
            },
        },
    }


def _as_csv(mixture: Mixture, draw: WeightedDraw | None) -> str:
    header = ["group", "n", "metric", "value", "low", "high", "misfit"]
    header += ["share_before", "share_after", "available", "drawn", "epochs"]
    rows = []
    for name, one in mixture.groups.items():
        figure = one.measured
        drawn = draw.groups.get(name) if draw else None
        sizes = (
            (None, None, None) if drawn is None else (drawn.available, drawn.drawn, drawn.epochs)
        )
        numbers = (figure.value, figure.low, figure.high, one.misfit, one.before, one.after)
        rows.append((name, figure.n, mixture.figure, *numbers, *sizes))
    return csv_text(header, rows)
