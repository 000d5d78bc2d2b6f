"""The tables of a comparison, for every form they are shown in, with title and footnotes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from lm_eval_specfair.escape import one_line
from lm_eval_specfair.groups.assign import display_name
from lm_eval_specfair.metrics.comparison.change import Candidate, Change
from lm_eval_specfair.metrics.comparison.verdict import GateVerdict
from lm_eval_specfair.reporting.comparison.build_comparison import ComparisonReport
from lm_eval_specfair.reporting.format import NOT_MEASURED, count, estimate_text, p_text, prose


@dataclass(frozen=True, kw_only=True, slots=True)
class TitledTable:
    """Text in rows and columns, under a title.

    Attributes:
        title: What it shows.
        header: The columns' names; the first column names the row, the others hold numbers.
        rows: Their cells.
        num_totals: How many rows at the end are of everything together; sorting leaves them there.
    """

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    num_totals: int = 0


def title(report: ComparisonReport) -> str:
    """What the comparison is about, in one line."""
    comparison = report.comparison
    base, *others = (run.name for run in comparison.runs)
    return (
        f"{', '.join(others)} compared with {base}: {prose(report.metric.name)} by "
        f"{comparison.group_by}, {count(len(comparison.groups), 'group')}"
    )


def tables(report: ComparisonReport) -> list[TitledTable]:
    """The runs, what each candidate changes, and the gate's verdicts."""
    shown = [_runs(report)]
    for candidate in report.comparison.candidates:
        shown.append(_changes(report, candidate))
        if any(candidate.spreads.get(report.metric.name, {})):
            shown.append(_spreads(report, candidate))
    return [*shown, *(_checks(verdict) for verdict in report.verdicts)]


def footnotes(report: ComparisonReport) -> list[str]:
    """What a reader must know to use the tables."""
    comparison, metric = report.comparison, report.metric
    together = " (the same in all groups, as translations)" if comparison.is_parallel else ""
    lines = [
        f"{prose(metric.name).capitalize()}: {metric.description}."
        f"{' Lower is better.' if metric.lower_is_better else ''}",
        f"In brackets: 95% intervals from {comparison.num_resamples:,} resamples of documents, the "
        f"same ones in all runs{together}. A change has an interval of its own; it is "
        "not the overlap of the runs'.",
        "p: two-sided, after Holm's correction over all groups and candidates of this metric; of "
        "spreads, over all measures and candidates.",
        "Spreads are as observed; noise drives groups apart, so intervals and p of their changes "
        "are of spreads less what noise adds.",
        "Mean and worst weigh groups equally. A run is on the Pareto front if no other is as good "
        "in both, as observed.",
    ]
    if report.verdicts and report.gate is not None:
        lines.append(
            "Gate: a limit is broken, or kept, where the evidence suffices for the whole gate to "
            f"raise a false alarm at a rate of at most {report.gate.false_alarm_rate:g}. What "
            f"stays undecided counts as {report.gate.when_undecided}."
        )
    return [*lines, *report.notes]


def _runs(report: ComparisonReport) -> TitledTable:
    comparison, name = report.comparison, report.metric.name
    rows = []
    for run in comparison.runs:
        about = report.runs[run.name]
        standing = comparison.standings[run.name].get(name)
        cells = [NOT_MEASURED] * 4
        if standing is not None:
            cells = [
                estimate_text(standing.mean),
                f"{estimate_text(standing.worst)} {standing.worst_group}",
                f"{estimate_text(standing.best)} {standing.best_group}",
                f"no: {', '.join(standing.beaten_by)}" if standing.beaten_by else "yes",
            ]
        drafted = about.get("num_speculative_tokens")
        rows.append(
            [
                run.name,
                one_line(about.get("drafter") or NOT_MEASURED),
                f"{drafted}" if isinstance(drafted, int) else "policy" if drafted else NOT_MEASURED,
                *cells,
            ]
        )
    header = ["Run", "Drafter", "Drafted", "Mean over groups", "Worst group", "Best group"]
    return TitledTable(
        title=f"Runs by {prose(name)}", header=[*header, "On the Pareto front"], rows=rows
    )


def _changes(report: ComparisonReport, candidate: Candidate) -> TitledTable:
    comparison, name = report.comparison, report.metric.name
    changes = {group: candidate.groups[group][name] for group in comparison.groups}
    measured = sorted(
        (group for group in changes if changes[group] is not None),
        key=lambda group: _lost_most_first(changes[group], report.metric.lower_is_better),
    )
    unmeasured = [group for group in changes if changes[group] is None]
    rows = [
        [
            display_name(group, comparison.group_by),
            str(comparison.group_requests[group] if change is None else change.base.n),
            *_cells(change),
        ]
        for group in [*measured, *unmeasured]
        for change in [changes[group]]
    ]
    overall = candidate.overall[name]
    requests = "" if overall is None else f"{overall.base.n}"
    rows.append(["All requests", requests, *_cells(overall, corrected=False)])
    return TitledTable(
        title=f"{candidate.name}: change in {prose(name)}, greatest loss first",
        header=[comparison.group_by.capitalize(), "n", "Base", "Candidate", "Change", "Share", "p"],
        rows=rows,
        num_totals=1,
    )


def _lost_most_first(change: Change | None, lower_is_better: bool) -> float:
    assert change is not None
    return -change.difference.value if lower_is_better else change.difference.value


def _cells(change: Change | None, *, corrected: bool = True) -> Iterator[str]:
    if change is None:
        yield from [NOT_MEASURED] * 5
        return
    yield estimate_text(change.base)
    yield estimate_text(change.candidate)
    yield estimate_text(change.difference, "+.2f")
    yield NOT_MEASURED if change.relative is None else f"{change.relative.value:+.1%}"
    yield p_text(change.p_adjusted if corrected else change.p_value)


def _spreads(report: ComparisonReport, candidate: Candidate) -> TitledTable:
    rows = [
        [
            prose(name).capitalize(),
            estimate_text(change.base, ".3f"),
            estimate_text(change.candidate, ".3f"),
            estimate_text(change.difference, "+.3f"),
            p_text(change.p_adjusted),
        ]
        for name, change in candidate.spreads[report.metric.name].items()
    ]
    return TitledTable(
        title=f"{candidate.name}: spread of {prose(report.metric.name)} across groups",
        header=["Measure", "Base", "Candidate", "Change", "p"],
        rows=rows,
    )


def _checks(verdict: GateVerdict) -> TitledTable:
    rows = [
        [
            check.name,
            f"{check.observed.value:.0f} of {check.observed.n}"
            if check.observed.low is None and check.p_kept is None and check.limit.is_integer()
            else estimate_text(check.observed, "+.3f"),
            f"{check.limit:g}",
            p_text(check.p_broken),
            p_text(check.p_kept),
            check.state,
        ]
        for check in verdict.checks
    ]
    said = "passes" if verdict.passed else "FAILS"
    return TitledTable(
        title=f"Gate: {verdict.candidate} {said} ({verdict.state})",
        header=["Loss, or spread", "Observed", "At most", "p broken", "p kept", "Limit is"],
        rows=rows,
    )
