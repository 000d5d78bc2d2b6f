"""The plots of a report: those of its page, and the one that is a file of its own."""

from lm_eval_specfair.escape import xml
from lm_eval_specfair.metrics.summary import Summary
from lm_eval_specfair.reporting.format import count, estimate_text
from lm_eval_specfair.reporting.page import drawings
from lm_eval_specfair.reporting.page import forest_plot as charts
from lm_eval_specfair.reporting.page.drawings import text_width
from lm_eval_specfair.reporting.page.shell import render_template

_NAMES, _TRACK, _VALUES = 160, 210, 110  # widths in pixels; two panels make 800
_TOP, _ROW, _BOTTOM = 70, 18, 10


def forests(summary: Summary) -> list[charts.PlotRows]:
    """Mean acceptance length and speed-up with their intervals, a row a group."""
    speedups = {
        name: label
        for name, label in (("measured_speedup", "measured"), ("modelled_speedup", "modelled"))
        if summary.overall.get(name) is not None
    }
    overall = summary.overall.get("mean_acceptance_length")
    plots = [
        charts.forest(
            summary,
            {"mean_acceptance_length": "tokens per step"},
            caption="Mean acceptance length (tokens per step)",
            reference=(overall.value, f"all requests, {overall.value:.2f}") if overall else None,
        ),
        charts.forest(
            summary,
            speedups,
            caption="Speed-up over plain decoding",
            reference=(1.0, "plain decoding"),
        ),
    ]
    return [plot for plot in plots if plot is not None]


def fixed(summary: Summary) -> list[drawings.Drawing]:
    """Plots of a fixed size, as far as their metrics were measured."""
    speedup = "measured_speedup" if summary.disparity["measured_speedup"] else "modelled_speedup"
    kind = speedup.split("_")[0].capitalize()
    plots = [
        drawings.scatter(
            summary,
            "modelled_speedup",
            "measured_speedup",
            labels=("Modelled speed-up", "Measured speed-up"),
            caption="Modelled against measured speed-up; broken line: equal",
            diagonal=True,
        ),
        drawings.by_position(summary),
    ]
    for metric, label in (
        ("answer_quality", "Answer quality"),
        ("drafter_misfit", "Drafter's misfit on references"),
        ("target_misfit", "Target's misfit on references"),
    ):
        caption, labels = f"Speed-up against {label.lower()}", (label, f"{kind} speed-up")
        plots.append(
            drawings.scatter(
                summary, metric, speedup, labels=labels, caption=caption, diagonal=False
            )
        )
    return [plot for plot in plots if plot is not None]


def as_svg(summary: Summary) -> str:
    """`acceptance.svg`: mean acceptance length and speed-up by group, in light and dark.

    Two panels of one row a group, their rows matched by name; title and description (the main
    values as text) are for screen readers.
    """
    plots = forests(summary)
    parts = [
        f"{label} of all requests {estimate_text(estimate)}"
        for label, metric in (
            ("mean acceptance length", "mean_acceptance_length"),
            ("measured speed-up", "measured_speedup"),
            ("modelled speed-up", "modelled_speedup"),
        )
        if (estimate := summary.overall.get(metric)) is not None
    ]
    number = count(len(summary.groups), "group")
    description = f"{number} with 95% intervals; {', '.join(parts)}. The tables have the values."
    names = list(dict.fromkeys(row.name for plot in plots for row in plot.rows))
    return render_template(
        "forest.svg.j2",
        title=xml(f"Mean acceptance length and speed-up by {summary.group_by}"),
        description=xml(description if plots else "No group has a mean acceptance length."),
        names=[_fitted(xml(name)) for name in names],
        panels=[
            {"plot": plot, "rows": [(names.index(row.name), row) for row in plot.rows]}
            for plot in plots
        ],
        width=_NAMES + max(len(plots), 1) * (_TRACK + _VALUES),
        height=_TOP + max(len(names), 1) * _ROW + _BOTTOM,
        names_width=_NAMES,
        track=_TRACK,
        values=_VALUES,
        top=_TOP,
        row=_ROW,
    )


def _fitted(name: str) -> str:
    """A name cut to the width of its column."""
    cut = name
    while text_width(cut) * 12 / 11 > _NAMES - 12:
        cut = cut[:-1]
    return name if cut == name else f"{cut[:-1]}\u2026"
