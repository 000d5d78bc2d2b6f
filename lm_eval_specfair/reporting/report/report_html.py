"""A summary as one page that needs nothing else: no network, no other file.

Its one script sorts tables; without it the page says the same (`reporting.page.shell`).
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from lm_eval_specfair.groups.assign import display_name
from lm_eval_specfair.metrics.definitions.bounds import BOUNDS
from lm_eval_specfair.metrics.definitions.rates import POSITIONS
from lm_eval_specfair.metrics.definitions.registry import COSTS, METRICS
from lm_eval_specfair.metrics.disparity import Disparity
from lm_eval_specfair.metrics.percentiles import PERCENTILES
from lm_eval_specfair.metrics.statistics.bootstrap import Estimate
from lm_eval_specfair.metrics.summary import Figures, Summary
from lm_eval_specfair.reporting.page import report_plots as page_plots
from lm_eval_specfair.reporting.page.shell import page, precise
from lm_eval_specfair.reporting.report.bound_tables import HEADING, promises
from lm_eval_specfair.reporting.report.notes import footnotes, title
from lm_eval_specfair.reporting.report.report_tables import main_table, shown_columns

_COLUMNS_A_TABLE = 6
_STATISTICS = (
    "difference",
    "ratio",
    "standard_deviation",
    "coefficient_of_variation",
    "gini",
    "unfairness",
)
"""In the first table of spreads; all others are below."""
_DESCRIPTIONS = {
    metric.name: metric.description for metric in (*METRICS, *COSTS, *POSITIONS, *BOUNDS)
} | {percentile.name: percentile.description for percentile in PERCENTILES}

_Name = TypeVar("_Name")


@dataclass(frozen=True, kw_only=True, slots=True)
class _Cell:
    value: float
    interval: str


def as_html(summary: Summary) -> str:
    """The page of a report."""
    shown = [
        {"name": name, "description": _DESCRIPTIONS[name]}
        for name, figure in summary.overall.items()
        if figure is not None and any(figures.get(name) for figures in summary.groups.values())
    ]
    spreads = {name: each for name, each in summary.disparity.items() if each is not None}
    columns = {column.metric for column in shown_columns(summary)}
    main = {
        name: each
        for name, each in spreads.items()
        if name in columns or each.statistics.get("unfairness") is not None
    }
    statistics = list(dict.fromkeys(key for each in spreads.values() for key in each.statistics))
    return page(
        "report.html.j2",
        title=title(summary),
        group_by=summary.group_by,
        table=main_table(summary),
        footnotes=footnotes(summary),
        flags=[flag.message for flag in summary.flags],
        forests=page_plots.forests(summary),
        drawings=page_plots.fixed(summary),
        spreads=_spreads(summary, main, [name for name in _STATISTICS if name in statistics]),
        num_figures=len(shown),
        figures=[
            {"metrics": part, "rows": _rows(summary, [metric["name"] for metric in part])}
            for part in _parts(shown)
        ],
        associations=[
            (
                each.figure.replace("_", " "),
                each.other.replace("_", " "),
                (each.num_groups, each.spearman, each.spearman_p_adjusted),
                (each.kendall, each.kendall_p_adjusted),
            )
            for each in summary.associations
        ],
        concordances=[
            (
                each.figure.replace("_", " "),
                f"{len(each.names)} {each.over}: {', '.join(each.names)}",
                (len(each.groups), each.w, each.p_value),
            )
            for each in summary.concordances
        ],
        promises=promises(summary),
        promises_heading=HEADING,
        all_spreads=[_spreads(summary, spreads, part) for part in _parts(statistics)],
        provenance=json.dumps(summary.run, indent=2, ensure_ascii=False),
    )


def _parts(names: Sequence[_Name]) -> list[Sequence[_Name]]:
    """Columns of tables that fit a page."""
    return [
        names[first : first + _COLUMNS_A_TABLE] for first in range(0, len(names), _COLUMNS_A_TABLE)
    ]


def _spreads(
    summary: Summary, spreads: Mapping[str, Disparity], statistics: Sequence[str]
) -> dict[str, Any]:
    return {
        "statistics": [name.replace("_", " ") for name in statistics],
        "rows": [
            (
                metric.replace("_", " "),
                display_name(each.best, summary.group_by),
                display_name(each.worst, summary.group_by),
                _cells(each.statistics, statistics),
            )
            for metric, each in spreads.items()
        ],
    }


def _rows(summary: Summary, metrics: Sequence[str]) -> list[tuple[str, list[_Cell | None]]]:
    return [
        (display_name(group, summary.group_by), _cells(figures, metrics))
        for group, figures in summary.groups.items()
    ]


def _cells(
    figures: Figures | Mapping[str, Estimate | None], names: Sequence[str]
) -> list[_Cell | None]:
    return [_cell(figures.get(name)) for name in names]


def _cell(figure: Estimate | None) -> _Cell | None:
    if figure is None:
        return None
    interval = ""
    if figure.low is not None and figure.high is not None:
        interval = f"{precise(figure.low)} to {precise(figure.high)}"
    return _Cell(value=figure.value, interval=interval)
