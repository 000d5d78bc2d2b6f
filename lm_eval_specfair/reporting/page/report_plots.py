"""Which plots the page of a report has."""

from lm_eval_specfair.metrics.summary import Summary
from lm_eval_specfair.reporting.page import drawings
from lm_eval_specfair.reporting.page import forest_plot as charts


def forests(summary: Summary) -> list[charts.PlotRows]:
    """Each group's figures with their intervals, a row a group."""
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
            caption="Mean acceptance length (tokens per step), with 95% intervals",
            reference=(overall.value, f"all requests, {overall.value:.2f}") if overall else None,
        ),
        charts.forest(
            summary,
            speedups,
            caption="Speed-up over plain decoding, with 95% intervals",
            reference=(1.0, "plain decoding"),
        )
        if speedups
        else None,
    ]
    return [plot for plot in plots if plot is not None]


def fixed(summary: Summary) -> list[tuple[str, drawings.Scatter | drawings.Lines]]:
    """Plots of a fixed size, as far as their figures are measured; each with its kind."""
    speedup = "measured_speedup" if summary.disparity["measured_speedup"] else "modelled_speedup"
    plots = [
        (
            "scatter",
            drawings.scatter(
                summary,
                "modelled_speedup",
                "measured_speedup",
                labels=("Modelled speed-up", "Measured speed-up"),
                caption="Modelled against measured speed-up; broken line: equal",
                diagonal=True,
            ),
        ),
        ("lines", drawings.by_position(summary)),
        *(
            (
                "scatter",
                drawings.scatter(
                    summary,
                    figure,
                    speedup,
                    labels=(label, f"{speedup.split('_')[0].capitalize()} speed-up"),
                    caption=f"Speed-up against {label.lower()}",
                    diagonal=False,
                ),
            )
            for figure, label in (
                ("answer_quality", "Answer quality"),
                ("drafter_misfit", "Drafter's misfit on references"),
                ("target_misfit", "Target's misfit on references"),
            )
        ),
    ]
    return [(kind, plot) for kind, plot in plots if plot is not None]
