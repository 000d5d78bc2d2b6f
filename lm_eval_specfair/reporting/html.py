"""A summary as one page that needs nothing else: no script, no network, no other file."""

import base64
import json

import jinja2

from lm_eval_specfair.metrics.figures import METRICS
from lm_eval_specfair.metrics.groups import display_name
from lm_eval_specfair.metrics.summary import Summary
from lm_eval_specfair.metrics.uncertainty import Figure
from lm_eval_specfair.reporting.notes import footnotes, title
from lm_eval_specfair.reporting.plots import plot
from lm_eval_specfair.reporting.tables import NOT_MEASURED, main_table

_STATISTICS = (
    "difference",
    "ratio",
    "standard_deviation",
    "coefficient_of_variation",
    "gini",
    "unfairness",
)
_PAGES = jinja2.Environment(
    loader=jinja2.PackageLoader("lm_eval_specfair.reporting"),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def as_html(summary: Summary, image: bytes | None = None) -> str:
    """The page.

    Args:
        summary: The numbers.
        image: The plot as PNG, where it was made already.
    """
    encoded = base64.b64encode(plot(summary) if image is None else image).decode()
    shown = [metric for metric in METRICS if summary.overall[metric.name] is not None]
    return _PAGES.get_template("report.html.j2").render(
        title=title(summary),
        group_by=summary.group_by,
        table=main_table(summary),
        footnotes=footnotes(summary),
        flags=[flag.message for flag in summary.flags],
        image=encoded,
        metrics=shown,
        details=[
            (
                display_name(group, summary.group_by),
                [_precise(figures[metric.name]) for metric in shown],
            )
            for group, figures in summary.groups.items()
        ],
        statistics=[name.replace("_", " ") for name in _STATISTICS],
        spreads=[
            (
                metric,
                display_name(disparity.best, summary.group_by),
                display_name(disparity.worst, summary.group_by),
                [_precise(disparity.statistics.get(name)) for name in _STATISTICS],
            )
            for metric, disparity in summary.disparity.items()
            if disparity is not None
        ],
        provenance=json.dumps(summary.run, indent=2, ensure_ascii=False),
    )


def _precise(figure: Figure | None) -> str:
    if figure is None:
        return NOT_MEASURED
    interval = ""
    if figure.low is not None and figure.high is not None:
        interval = f" [{figure.low:.4g}, {figure.high:.4g}]"
    return f"{figure.value:.4g}{interval}"
