"""The plot of a report: tokens per step and speed-up, by group."""

import io
from collections.abc import Sequence

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as Canvas
from matplotlib.font_manager import FontProperties, findfont, get_font

from lm_eval_specfair.groups.assign import display_name
from lm_eval_specfair.metrics.statistics.bootstrap import Estimate
from lm_eval_specfair.metrics.summary import Summary
from lm_eval_specfair.reporting.report.report_tables import shortened

# Readable for colour-blind people, and on paper (Okabe and Ito 2008).
_BLUE, _ORANGE, _GREY = "#0072b2", "#d55e00", "#555555"
_INCHES_PER_GROUP = 0.21
_LONGEST_LABEL = 32


def plot(summary: Summary, *, dots_per_inch: int = 130) -> bytes:
    """Mean acceptance length by group, longest first, and the speed-ups beside it.

    Args:
        summary: The numbers.
        dots_per_inch: Resolution.

    Returns:
        A PNG file. Where no mean acceptance length was measured, it says so.
    """
    groups = [
        group
        for group, figures in summary.groups.items()
        if figures["mean_acceptance_length"] is not None
    ]
    speedups = [name for name in ("measured_speedup", "modelled_speedup") if summary.overall[name]]
    height = max(2.6, 1.5 + _INCHES_PER_GROUP * len(groups))
    # Text is text: a group called $x$ is not a formula.
    with matplotlib.rc_context({"text.parse_math": False, "font.family": "DejaVu Sans"}):
        canvas = Canvas(figsize=(10 if speedups and groups else 7, height), layout="constrained")
        FigureCanvasAgg(canvas)
        if not groups:
            canvas.text(0.5, 0.5, "No group has a mean acceptance length.", ha="center")
        else:
            panels = canvas.subplots(1, 2 if speedups else 1, sharey=True, squeeze=False)[0]
            _lengths(panels[0], summary, groups)
            if speedups:
                _speedups(panels[1], summary, groups, speedups)
            _name_groups(panels[0], summary, groups)
        file = io.BytesIO()
        canvas.savefig(file, format="png", dpi=dots_per_inch, metadata={"Software": None})
    return file.getvalue()


def _lengths(axes: Axes, summary: Summary, groups: Sequence[str]) -> None:
    figures = [summary.groups[group]["mean_acceptance_length"] for group in groups]
    for place, figure in enumerate(figures):
        assert figure is not None
        # From 1, which is what plain decoding gives.
        axes.barh(place, figure.value - 1, left=1, height=0.7, color=_BLUE, alpha=0.55)
        _interval(axes, place, figure, colour="black")
    overall = summary.overall["mean_acceptance_length"]
    if overall is not None:
        label = f"all requests: {overall.value:.2f}"
        axes.axvline(overall.value, color=_ORANGE, linestyle="--", linewidth=1.2, label=label)
    axes.set_xlim(left=1)
    _finish(axes, "Mean acceptance length (tokens per step)")


def _speedups(axes: Axes, summary: Summary, groups: Sequence[str], speedups: Sequence[str]) -> None:
    looks = {
        "measured_speedup": ("measured", _ORANGE, "o"),
        "modelled_speedup": ("modelled", _BLUE, "D"),
    }
    for name in speedups:
        label, colour, marker = looks[name]
        shift = 0.0 if len(speedups) == 1 else 0.16 if name == "modelled_speedup" else -0.16
        shown = [
            (place + shift, figure)
            for place, group in enumerate(groups)
            if (figure := summary.groups[group][name]) is not None
        ]
        for place, figure in shown:
            _interval(axes, place, figure, colour=colour)
        values = [figure.value for _, figure in shown]
        places = [place for place, _ in shown]
        axes.plot(values, places, marker, color=colour, markersize=4, label=label)
    axes.axvline(1, color=_GREY, linestyle="--", linewidth=1.2, label="plain decoding")
    _finish(axes, "Speed-up over plain decoding")


def _interval(axes: Axes, place: float, figure: Estimate, *, colour: str) -> None:
    if figure.low is not None and figure.high is not None:
        axes.hlines(place, figure.low, figure.high, color=colour, linewidth=1.2)


def _finish(axes: Axes, label: str) -> None:
    axes.set_xlabel(f"{label}, with 95% intervals", fontsize=9)
    axes.grid(axis="x", alpha=0.3)
    axes.tick_params(axis="x", labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    # Above the panel, where it hides no group however many there are.
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, fontsize=8, frameon=False)


def _name_groups(axes: Axes, summary: Summary, groups: Sequence[str]) -> None:
    labels = [_drawable(display_name(group, summary.group_by)) for group in groups]
    axes.set_yticks(range(len(groups)), labels, fontsize=8)
    axes.set_ylim(len(groups) - 0.4, -0.6)  # the longest on top


def _drawable(label: str) -> str:
    """With a question mark for what the font lacks, and not longer than a label may be."""
    font = get_font(findfont(FontProperties(family="DejaVu Sans")))
    text = "".join(c if font.get_char_index(ord(c)) else "?" for c in label)
    return shortened(text, _LONGEST_LABEL)
