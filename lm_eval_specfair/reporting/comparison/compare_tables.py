"""The tables of a comparison, for every form they are shown in, with title and footnotes."""

from lm_eval_specfair.groups.assign import display_name
from lm_eval_specfair.metrics.comparison.change import Candidate, Change
from lm_eval_specfair.metrics.comparison.verdict import GateVerdict
from lm_eval_specfair.metrics.statistics.power import POWER
from lm_eval_specfair.reporting.comparison.build_comparison import ComparisonReport
from lm_eval_specfair.reporting.comparison.detection_notes import detection_notes
from lm_eval_specfair.reporting.format import NOT_MEASURED, count, listed, prose
from lm_eval_specfair.reporting.tables import Cell, Table, estimate_cell, p_cell, row_of

_MOST_NAMES = 4
_CHECKED = ("Loss, or spread", "Observed", "At most", "p broken", "p kept", "Limit is")


def title(report: ComparisonReport) -> str:
    """What the comparison is about, in one line."""
    comparison = report.comparison
    base, *others = (run.name for run in comparison.runs)
    return (
        f"{listed(others, _MOST_NAMES)} compared with {base}: {prose(report.metric.name)} by "
        f"{comparison.group_by}, {count(len(comparison.groups), 'group')}"
    )


def tables(report: ComparisonReport) -> list[Table]:
    """The runs, what each candidate changes, and the gate's verdicts."""
    shown = [runs_table(report)]
    for candidate in report.comparison.candidates:
        shown += candidate_tables(report, candidate)
    return [*shown, *(check_table(report, verdict) for verdict in report.verdicts)]


def candidate_tables(report: ComparisonReport, candidate: Candidate) -> list[Table]:
    """What a candidate changes: in each group, and in the spread across groups."""
    shown = [_changes(report, candidate)]
    if any(candidate.spreads.get(report.metric.name, {})):
        shown.append(_spreads(report, candidate))
    return shown


def footnotes(report: ComparisonReport) -> list[str]:
    """What a reader must know to use the tables."""
    comparison, metric = report.comparison, report.metric
    together = " (the same in all groups, as translations)" if comparison.is_parallel else ""
    of = " of all candidates" if comparison.family_wise else " of one candidate"
    lines = [
        f"{prose(metric.name).capitalize()}: {metric.description}."
        f"{' Lower is better.' if metric.lower_is_better else ''} n: the base's requests that it "
        "rests on.",
        f"In brackets: 95% intervals from {comparison.num_resamples:,} resamples of documents, the "
        f"same ones in all runs{together}. A change has an interval of its own; it is "
        "not the overlap of the runs'.",
        f"p: two-sided, after Holm's correction over the groups{of}; of spreads, over the measures "
        "shown. All requests are one claim, without correction.",
        "Spreads are as observed; noise drives groups apart, so intervals and p of their changes "
        "are of spreads less what noise adds.",
        "Mean and worst weigh groups equally. A run is on the Pareto front if no other is as good "
        "in both, as observed.",
    ]
    if report.verdicts and report.gate is not None:
        who = "a candidate that keeps all limits is called broken"
        if report.gate.family_wise:
            who = "of candidates that keep all limits any is called broken"
        lines.append(
            f"Gate: a limit is broken, or kept, where the evidence suffices; {who} at a rate of at "
            f"most {report.gate.false_alarm_rate:g}. What stays undecided counts as "
            f"{report.gate.when_undecided}. Found in {POWER:.0%}: the loss that these documents "
            "show as broken in so many cases; a smaller one takes more documents (specfair plan)."
        )
    found = detection_notes(
        comparison.group_by, report.detections, family_wise=comparison.family_wise
    )
    return [*lines, *found, *report.notes]


def runs_table(report: ComparisonReport) -> Table:
    """Each run's mean over groups and its extremes."""
    comparison, name = report.comparison, report.metric.name
    rows = []
    for run in comparison.runs:
        about = report.runs[run.name]
        drafter, drafted = about.get("drafter"), about.get("num_speculative_tokens")
        cells = [Cell()] * 4
        if (standing := comparison.standings[run.name].get(name)) is not None:
            dominated = f"no: {', '.join(standing.beaten_by)}" if standing.beaten_by else "yes"
            cells = [
                estimate_cell(standing.mean),
                estimate_cell(standing.worst, name=standing.worst_group),
                estimate_cell(standing.best, name=standing.best_group),
                Cell(dominated),
            ]
        length = Cell(str(drafted), drafted) if isinstance(drafted, int) else Cell()
        if drafted and not isinstance(drafted, int):
            length = Cell("policy")
        rows.append(row_of(run.name, str(drafter or NOT_MEASURED), length, *cells))
    header = ["Run", "Drafter", "Drafted", "Mean over groups", "Worst group", "Best group"]
    return Table(
        title=f"Runs by {prose(name)}", header=[*header, "On the Pareto front"], sections=[rows]
    )


def _changes(report: ComparisonReport, candidate: Candidate) -> Table:
    comparison, name = report.comparison, report.metric.name
    sign = -1 if report.metric.lower_is_better else 1

    def order(group: str) -> float:
        change = candidate.groups[group][name]
        return float("inf") if change is None else sign * change.difference.value

    def row(text: str, change: Change | None, n: int | None, *, corrected: bool) -> list[Cell]:
        number = n if change is None else change.base.n
        count = Cell("") if number is None else Cell(str(number), number)
        if change is None:
            return row_of(text, count, *[Cell()] * 5)
        relative = change.relative
        return row_of(
            text,
            count,
            estimate_cell(change.base),
            estimate_cell(change.candidate),
            estimate_cell(change.difference, "+.2f"),
            Cell() if relative is None else Cell(f"{relative.value:+.1%}", relative.value),
            p_cell(change.p_adjusted if corrected else change.p_value),
        )

    groups = [
        row(
            display_name(group, comparison.group_by),
            candidate.groups[group][name],
            comparison.group_requests[group],
            corrected=True,
        )
        for group in sorted(comparison.groups, key=order)
    ]
    overall = row("All requests", candidate.overall[name], None, corrected=False)
    return Table(
        title=f"{candidate.name}: change in {prose(name)}, greatest loss first",
        header=[comparison.group_by.capitalize(), "n", "Base", "Candidate", "Change", "Share", "p"],
        sections=[part for part in (groups, [overall]) if part],
    )


def _spreads(report: ComparisonReport, candidate: Candidate) -> Table:
    rows = [
        row_of(
            prose(name).capitalize(),
            estimate_cell(change.base, ".3f"),
            estimate_cell(change.candidate, ".3f"),
            estimate_cell(change.difference, "+.3f"),
            p_cell(change.p_adjusted),
        )
        for name, change in candidate.spreads[report.metric.name].items()
    ]
    return Table(
        title=f"{candidate.name}: spread of {prose(report.metric.name)} across groups",
        header=["Measure", "Base", "Candidate", "Change", "p"],
        sections=[rows],
    )


def check_table(report: ComparisonReport, verdict: GateVerdict) -> Table:
    """A candidate's limits."""
    rows = []
    found = report.detections[verdict.candidate].limits
    for check in verdict.checks:
        observed = estimate_cell(check.observed, "+.3f")
        if check.observed.low is None and check.p_kept is None and check.limit.is_integer():
            number = check.observed.value
            observed = Cell(f"{number:.0f} of {check.observed.n}", number)
        limit = Cell(f"{check.limit:g}", check.limit)
        evidence = (p_cell(check.p_broken), p_cell(check.p_kept))
        loss = found[check.name].loss if check.name in found else None
        finds = Cell() if loss is None else Cell(f"{loss:+.3f}", loss)
        rows.append(row_of(check.name, observed, limit, *evidence, check.state, finds))
    outcome = "passes" if verdict.passed else "FAILS"
    return Table(
        title=f"Gate: {verdict.candidate} {outcome} ({verdict.state})",
        header=[*_CHECKED, f"Found in {POWER:.0%}"],
        sections=[rows],
    )
