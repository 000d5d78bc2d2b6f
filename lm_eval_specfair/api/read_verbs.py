"""The verbs that read, as functions: `ConfigError` is raised where a verb ends with one line."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from lm_eval_specfair.api.frames import LoadedRun, Report, RunComparison, StrPath, run_folder
from lm_eval_specfair.api.trend_frames import RunTrend
from lm_eval_specfair.groups.assign import DEFAULT_MIN_REQUESTS
from lm_eval_specfair.groups.user_file import read_mapping
from lm_eval_specfair.records import read_run

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lm_eval_specfair.reporting.comparison.build_plan import Plan
    from lm_eval_specfair.reporting.viewer.trace_text import ShownTrace


def load_run(path: StrPath) -> LoadedRun:
    """A run's folder, as `lm_eval --model specfair` leaves it.

    Args:
        path: The folder with `run.json` and records.

    Raises:
        ConfigError: If there is no run in it.
    """
    folder = Path(path)
    return LoadedRun(path=folder, info=read_run(folder))


def report(
    *runs: StrPath | LoadedRun,
    group_by: str = "language",
    groups: StrPath | None = None,
    min_requests: int = DEFAULT_MIN_REQUESTS,
    samples: StrPath | None = None,
    quality_metric: str | None = None,
    where: bool = False,
) -> Report:
    """The disparity report of one run, or of several read together (`specfair report`).

    Args:
        runs: Folders, or what `load_run` gave.
        group_by: What makes a group: `language`, `script`, `family`, `task`, or any field of the
            documents or of the tasks' metadata.
        groups: A file with your own groups of tasks and languages.
        min_requests: Groups with fewer requests are not reported.
        samples: lm-eval's samples, for the answer quality of groups; by default those in the runs'
            folders.
        quality_metric: Which metric of the samples is the answer quality.
        where: Whether to read where drafts are lost, too (`Report.summary.where`).

    Raises:
        ConfigError: If a run cannot be read, or nothing in it can be reported.
    """
    from lm_eval_specfair.reporting.report.build_report import build_summary
    from lm_eval_specfair.reporting.viewer.page_data import RequestViewer

    folders = [run_folder(run) for run in runs]
    mapping = None if groups is None else read_mapping(Path(groups))
    summary = build_summary(
        folders,
        group_by=group_by,
        mapping=mapping,
        min_requests=min_requests,
        samples=None if samples is None else Path(samples),
        quality_metric=quality_metric,
        where=where,
    )
    return Report(summary, RequestViewer(run_dirs=folders, group_by=group_by, mapping=mapping))


def trace(
    run: StrPath | LoadedRun,
    *,
    request: str | None = None,
    worst: int = 1,
    tokenizer: str | None = None,
) -> Sequence[ShownTrace]:
    """Single requests token by token (`specfair trace`); each prints itself.

    Args:
        run: A folder, or what `load_run` gave.
        request: The id of one request, or how it begins.
        worst: Without that, how many of those with the fewest tokens a step.
        tokenizer: A folder or hub id, for runs that did not note what their tokens spell.

    Raises:
        ConfigError: If the run cannot be read, or there is no such request.
    """
    from lm_eval_specfair.reporting.viewer.traced_requests import traced_requests

    return traced_requests(run_folder(run), request=request, worst=worst, tokenizer=tokenizer)


def compare(
    base: StrPath | LoadedRun,
    *candidates: StrPath | LoadedRun,
    group_by: str = "language",
    groups: StrPath | None = None,
    metric: str | None = None,
    gate: StrPath | None = None,
    min_requests: int = DEFAULT_MIN_REQUESTS,
    family_wise: bool = False,
) -> RunComparison:
    """What other drafters change on the same requests (`specfair compare`).

    Args:
        base: The run to compare with.
        candidates: The other runs.
        group_by: What makes a group.
        groups: A file with your own groups of tasks and languages.
        metric: The metric that tables show; data frames hold all.
        gate: A YAML file of limits, or `default`.
        min_requests: Groups with fewer requests are not compared.
        family_wise: Whether all candidates share one rate of false alarms.

    Raises:
        ConfigError: If the runs differ in what must be equal, such as tasks or target.
    """
    from lm_eval_specfair.reporting.comparison.build_comparison import build_comparison, read_gate
    from lm_eval_specfair.reporting.viewer.page_data import RequestViewer

    first, *others = folders = [run_folder(run) for run in (base, *candidates)]
    mapping = None if groups is None else read_mapping(Path(groups))
    comparison = build_comparison(
        first,
        others,
        group_by=group_by,
        mapping=mapping,
        metric=metric,
        gate=None if gate is None else read_gate(str(gate)),
        min_requests=min_requests,
        family_wise=family_wise,
    )
    viewer = RequestViewer(run_dirs=folders, group_by=group_by, mapping=mapping, compares=True)
    return RunComparison(comparison, viewer)


def plan(
    base: StrPath | LoadedRun,
    other: StrPath | LoadedRun | None = None,
    *,
    margin: float = 0.05,
    power: float = 0.8,
    gate: StrPath | None = None,
    metric: str | None = None,
    group_by: str = "language",
    groups: StrPath | None = None,
    min_requests: int = DEFAULT_MIN_REQUESTS,
) -> Plan:
    """How many documents a group a gate needs to find a loss (`specfair plan`).

    Args:
        base: A small run, the pilot.
        other: Another drafter's run of the same requests; without it the plan is unpaired.
        margin: The loss to be found, as a share of the base's value.
        power: In which share of cases.
        gate: A YAML file of limits, or `default`; without it, one on each group.
        metric: What is lost.
        group_by: What makes a group.
        groups: A file with your own groups of tasks and languages.
        min_requests: Groups with fewer requests are left out.

    Raises:
        ConfigError: If a number is out of range, or the runs differ in what must be equal.
    """
    from lm_eval_specfair.reporting.comparison.build_comparison import read_gate
    from lm_eval_specfair.reporting.comparison.build_plan import build_plan

    return build_plan(
        [run_folder(run) for run in (base, other) if run is not None],
        loss=margin,
        power=power,
        gate=None if gate is None else read_gate(str(gate)),
        metric=metric,
        group_by=group_by,
        mapping=None if groups is None else read_mapping(Path(groups)),
        min_requests=min_requests,
    )


def trend(
    directory: StrPath,
    *,
    metric: str | None = None,
    group_by: str = "language",
    groups: StrPath | None = None,
    min_requests: int = DEFAULT_MIN_REQUESTS,
    false_alarm_rate: float = 0.05,
) -> RunTrend:
    """Each group over time, and where it left its level (`specfair trend`).

    Args:
        directory: A folder of runs, of comparisons as JSON, or of submissions.
        metric: The metric shown; by default the mean acceptance length.
        group_by: What makes a group.
        groups: A file with your own groups of tasks and languages.
        min_requests: Of runs, groups with fewer requests are left out.
        false_alarm_rate: Chance that a series in which nothing changes has any break.

    Raises:
        ConfigError: If nothing in the folder can be read, or nothing has the metric.
    """
    from lm_eval_specfair.reporting.trend.build_trend import build_trend

    return RunTrend(
        build_trend(
            Path(directory),
            metric=metric,
            group_by=group_by,
            mapping=None if groups is None else read_mapping(Path(groups)),
            min_requests=min_requests,
            rate=false_alarm_rate,
        )
    )
