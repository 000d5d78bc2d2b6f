"""A comparison as one page that needs nothing else: plots, tables, no request to anywhere."""

from lm_eval_specfair.groups.assign import display_name
from lm_eval_specfair.metrics.comparison.change import Candidate
from lm_eval_specfair.reporting.comparison.build_comparison import ComparisonReport
from lm_eval_specfair.reporting.comparison.compare_headline import comparison_headline
from lm_eval_specfair.reporting.comparison.compare_tables import footnotes, tables, title
from lm_eval_specfair.reporting.format import prose
from lm_eval_specfair.reporting.page import drawings
from lm_eval_specfair.reporting.page import forest_plot as charts
from lm_eval_specfair.reporting.page.shell import page
from lm_eval_specfair.reporting.viewer.page_data import RequestViewer


def as_html(report: ComparisonReport, viewer: RequestViewer | None = None) -> str:
    """The page, with the requests that `viewer` reads."""
    forests = [_forest(report, candidate) for candidate in report.comparison.candidates]
    return page(
        "compare.html.j2",
        title=title(report),
        group_by=report.comparison.group_by,
        viewer=None if viewer is None else viewer.content(),
        verdict=comparison_headline(report),
        verdicts=report.verdicts,
        pareto=_pareto(report),
        forests=[forest for forest in forests if forest is not None],
        tables=tables(report),
        footnotes=footnotes(report),
    )


def _forest(report: ComparisonReport, candidate: Candidate) -> charts.PlotRows | None:
    """Each group's change with its interval; None if none is known."""
    name = report.metric.name
    return charts.changes(
        {
            display_name(group, report.comparison.group_by): change.difference
            for group, changes in candidate.groups.items()
            if (change := changes[name]) is not None
        },
        caption=f"{candidate.name}: change in {prose(name)} against the base",
        lower_is_better=report.metric.lower_is_better,
    )


def _pareto(report: ComparisonReport) -> drawings.Scatter | None:
    """Each run's mean over groups against its worst group; None with fewer than two groups."""
    name = report.metric.name
    standings = {
        run: standing
        for run, each in report.comparison.standings.items()
        if (standing := each.get(name)) is not None
    }
    if len(report.comparison.groups) < 2:
        return None
    return drawings.plane(
        {run: (each.mean, each.worst) for run, each in standings.items()},
        {run: run for run in standings},
        labels=("Mean over groups", "Worst group"),
        caption=f"{prose(name).capitalize()} by run: mean over groups against the worst group",
        series=("on the Pareto front", "dominated"),
        second={run for run, each in standings.items() if each.beaten_by},
    )
