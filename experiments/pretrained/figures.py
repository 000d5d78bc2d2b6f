"""Figures of results/pretrained: acceptance by language, and what it goes with."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from run_values import Measured

mpl.use("Agg")
import matplotlib.pyplot as plt

from lm_eval_specfair.groups.languages import languages

RATE = "conditional_acceptance_rate"
COLOURS = {
    "prompt_lookup": "#0072b2", "layers": "#999999", "8bit": "#009e73", "4bit": "#e69f00",
    "3bit": "#d55e00", "ngram": "#56b4e9", "answers": "#f0e442",
    "smollm2": "#cc79a7", "tuned": "#000000",
}  # fmt: skip


def draw(found: Sequence[Measured], output: Path) -> None:
    """Write `acceptance.svg` and `repetition.svg`; with references read, `references.svg`."""
    mpl.rcParams["svg.hashsalt"] = "pretrained"  # the same figure is the same file
    _by_language(found, output / "acceptance.svg")
    _scatter(
        found,
        output / "repetition.svg",
        x="repeated_4grams",
        label="share of repeated 4-grams in the target's texts",
    )
    if any(len(one.values["scored_agreement"].groups) for one in found):
        _scatter(
            found, output / "references.svg", x="scored_agreement", label="agreement on references"
        )


def _colour(kind: str) -> str:
    return next((each for name, each in COLOURS.items() if kind.startswith(name)), "black")


def _by_language(found: Sequence[Measured], path: Path) -> None:
    """Dots with intervals, a panel for each target and data set."""
    panels = list(dict.fromkeys((one.target, one.data) for one in found))
    columns = min(len(panels), 2)
    rows = -(-len(panels) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(6.5 * columns, 3.2 * rows), squeeze=False, layout="constrained"
    )
    for axis in axes.flat[len(panels) :]:
        axis.axis("off")
    for axis, (target, data) in zip(axes.flat, panels, strict=False):
        own = [
            one
            for one in found
            if (one.target, one.data) == (target, data)
            and one.values[RATE].groups
            # Of its own tokens, no common measure.
            and one.kind != "smollm2"
        ]
        names = sorted(
            own[0].values[RATE].groups,
            key=lambda name: (-int(languages()[name].resource_class), name),
        )
        for number, one in enumerate(own):
            places = np.arange(len(names)) + 0.13 * (number - (len(own) - 1) / 2)
            parts = [one.summary.groups[name][RATE] for name in names]
            values = np.array([np.nan if part is None else part.value for part in parts])
            ends = [
                (np.nan, np.nan) if part is None or part.low is None else (part.low, part.high)
                for part in parts
            ]
            low, high = np.array(ends).T
            axis.errorbar(
                places, values, [values - low, high - values], fmt="o", markersize=3.5,
                elinewidth=1, color=_colour(one.kind), label=one.kind,
            )  # fmt: skip
        axis.set_xticks(range(len(names)), names)
        axis.set(title=f"{target}, {data}", ylabel="conditional acceptance", ylim=(0, 1))
        axis.legend(fontsize=7, ncols=3)
    _save(figure, path)


def _scatter(found: Sequence[Measured], path: Path, *, x: str, label: str) -> None:
    """A language is a point; a panel for each target, a colour for each drafter."""
    targets = list(dict.fromkeys(one.target for one in found))
    figure, axes = plt.subplots(
        1, len(targets), figsize=(6 * len(targets), 4), squeeze=False, layout="constrained"
    )
    for axis, target in zip(axes.flat, targets, strict=True):
        for one in found:
            if one.target != target or one.data != "demo" or one.kind == "smollm2":
                continue
            across, up = one.values[x], one.values[RATE]
            names = [name for name in up.groups if name in across.groups]
            if not names:
                continue
            axis.scatter(
                across.of(names).values, up.of(names).values, s=14, color=_colour(one.kind),
                label=one.kind,
            )  # fmt: skip
            for name, *place in zip(
                names, across.of(names).values, up.of(names).values, strict=True
            ):
                axis.annotate(name, place, fontsize=6, xytext=(2, 2), textcoords="offset points")
        axis.set(title=f"{target}, demo", xlabel=label, ylabel="conditional acceptance")
        if axis.collections:
            axis.legend(fontsize=7)
    _save(figure, path)


def _save(figure: plt.Figure, path: Path) -> None:
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
