"""A summary as one page that needs nothing else; its one script sorts tables."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from lm_eval_specfair.groups.assign import display_name
from lm_eval_specfair.metrics.definitions.bounds import BOUNDS
from lm_eval_specfair.metrics.definitions.rates import POSITIONS, UNCERTAIN
from lm_eval_specfair.metrics.definitions.registry import METRICS
from lm_eval_specfair.metrics.definitions.speedup import COSTS
from lm_eval_specfair.metrics.disparity import Disparity
from lm_eval_specfair.metrics.percentiles import PERCENTILES
from lm_eval_specfair.metrics.summary import Summary
from lm_eval_specfair.reporting.page.shell import page
from lm_eval_specfair.reporting.places.places_text import HEADING as places_heading
from lm_eval_specfair.reporting.places.places_text import places_tables, sentences
from lm_eval_specfair.reporting.report.bound_tables import HEADING, bound_tables
from lm_eval_specfair.reporting.report.headline import verdict
from lm_eval_specfair.reporting.report.notes import footnotes, title
from lm_eval_specfair.reporting.report.report_plots import fixed, forests
from lm_eval_specfair.reporting.report.report_tables import latency_table, main_table, shown_columns
from lm_eval_specfair.reporting.report.validity import invalid_texts
from lm_eval_specfair.reporting.viewer.page_data import RequestViewer

_COLUMNS_PER_TABLE = 6
_DESCRIPTIONS = {
    metric.name: metric.description
    for metric in (*METRICS, *COSTS, *POSITIONS, *UNCERTAIN, *BOUNDS)
} | {percentile.name: percentile.description for percentile in PERCENTILES}


def as_html(summary: Summary, viewer: RequestViewer | None = None) -> str:
    """The page of a report, with the requests that `viewer` reads."""
    measured = [
        name
        for name, estimate in summary.overall.items()
        if estimate is not None and any(groups.get(name) for groups in summary.groups.values())
    ]
    spreads = {name: each for name, each in summary.disparity.items() if each is not None}
    columns = {column.metric for column in shown_columns(summary)}
    main = {
        name: each
        for name, each in spreads.items()
        if name in columns or each.statistics.get("unfairness") is not None
    }
    measures = [
        name
        for name in dict.fromkeys(key for each in main.values() for key in each.statistics)
        if name != "difference_bias"
    ]
    every_measure = list(dict.fromkeys(key for each in spreads.values() for key in each.statistics))
    return page(
        "report.html.j2",
        title=title(summary),
        group_by=summary.group_by,
        verdict=verdict(summary),
        viewer=None if viewer is None else viewer.content(),
        table=main_table(summary),
        latency=latency_table(summary),
        footnotes=footnotes(summary),
        contradictions=summary.contradictions,
        flags=invalid_texts(summary),
        forests=forests(summary),
        drawings=fixed(summary),
        main_spreads=_spreads(summary, main, measures[:_COLUMNS_PER_TABLE]),
        num_measured=len(measured),
        metric_tables=[
            {
                "metrics": [(name, _DESCRIPTIONS[name]) for name in part],
                "rows": [
                    (display_name(group, summary.group_by), [estimates.get(name) for name in part])
                    for group, estimates in summary.groups.items()
                ],
            }
            for part in _parts(measured)
        ],
        associations=summary.associations,
        concordances=summary.concordances,
        where=[]
        if summary.where is None
        else sentences(summary.where, summary.group_by, summary.groups),
        where_heading=places_heading,
        where_tables=[]
        if summary.where is None
        else places_tables(summary.where, summary.group_by, summary.token_names),
        bounds=bound_tables(summary),
        bounds_heading=HEADING,
        all_spreads=[_spreads(summary, spreads, part) for part in _parts(every_measure)],
        provenance=json.dumps(summary.run, indent=2, ensure_ascii=False),
    )


def _parts(names: Sequence[str]) -> list[Sequence[str]]:
    """Columns of tables that fit a page."""
    starts = range(0, len(names), _COLUMNS_PER_TABLE)
    return [names[start : start + _COLUMNS_PER_TABLE] for start in starts]


def _spreads(
    summary: Summary, spreads: Mapping[str, Disparity], measures: Sequence[str]
) -> dict[str, Any]:
    """A table of metrics by measures of spread."""
    return {
        "measures": measures,
        "rows": [
            (
                metric,
                display_name(each.best, summary.group_by),
                display_name(each.worst, summary.group_by),
                [each.statistics.get(name) for name in measures],
            )
            for metric, each in spreads.items()
        ],
    }
