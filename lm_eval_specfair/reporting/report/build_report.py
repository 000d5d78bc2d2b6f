"""From the folders of runs to a summary, and from a summary to text."""

import dataclasses
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec

from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.escape import one_line
from lm_eval_specfair.groups.assign import DEFAULT_MIN_REQUESTS, display_name
from lm_eval_specfair.groups.task_facts import TaskFacts, facts_of_task
from lm_eval_specfair.groups.user_file import Mapped
from lm_eval_specfair.metrics.aggregate.aggregator import Aggregator
from lm_eval_specfair.metrics.disparity import Disparity
from lm_eval_specfair.metrics.statistics.bootstrap import CONFIDENCE, Estimate
from lm_eval_specfair.metrics.summary import Summary, summarise
from lm_eval_specfair.records import TEXTS, read_records, read_run
from lm_eval_specfair.reporting.refusals import refuse_empty, refuse_unknown_field
from lm_eval_specfair.reporting.report.answer_quality import (
    Quality,
    find_samples,
    read_quality,
)
from lm_eval_specfair.reporting.report.report_text import as_csv, as_markdown, as_table

SCHEMA_VERSION = 1
"""Of the JSON report."""

Format = Literal["table", "md", "json", "csv", "html"]

_LONGEST_TEXT = 300
_LONGEST_LIST = 50


def build_summary(
    run_dirs: Sequence[Path],
    *,
    group_by: str = "language",
    mapping: Mapped | None = None,
    min_requests: int = DEFAULT_MIN_REQUESTS,
    samples: Path | None = None,
    quality_metric: str | None = None,
    all_measures: bool = False,
    bounds: bool = False,
) -> Summary:
    """Read runs and turn their records into figures, all runs together.

    Args:
        run_dirs: Folders with `run.json` and records.
        group_by: What makes a group (`groups.assign.groups_of`).
        mapping: The user's own groups (`groups.user_file.read_mapping`).
        min_requests: The smallest group that is reported.
        samples: lm-eval's samples, a folder or a file; by default those below the runs' folders.
        quality_metric: What of them is the answer quality
            (`reporting.report.answer_quality.read_quality`).
        all_measures: Whether to give every measure of spread.
        bounds: Whether to give the theorems' bounds.

    Raises:
        ConfigError: If a folder cannot be read, holds a request twice or is named twice, if there
            are no records at all, or if samples belong to another run.
    """
    if not run_dirs:
        raise ConfigError("expected at least one folder of a run, got none")
    resolved = Counter(run_dir.resolve() for run_dir in run_dirs)
    for run_dir in run_dirs:
        if resolved[run_dir.resolve()] > 1:
            raise ConfigError(f"{run_dir} is named twice; its requests would count double")
    runs = [read_run(run_dir) for run_dir in run_dirs]
    aggregator, notes = Aggregator(group_by, mapping), []
    quality = read_quality(find_samples(run_dirs, samples), quality_metric)
    aggregator.quality = quality.scores
    all_ids: set[str] = set()
    num_repeated = num_failed = 0
    for run_dir, run in zip(run_dirs, runs, strict=True):
        ids, failed, strange = _read(run_dir, run, aggregator, quality)
        num_failed += failed
        num_repeated += len(ids & all_ids)
        all_ids |= ids
        if "finished" in run and run["finished"] is None:
            notes.append(
                f"The run in {run_dir.name} did not finish; its figures rest on the {len(ids)} "
                "requests that did."
            )
        if strange:
            notes.append(
                f"{run_dir.name} holds records of tasks that its run.json does not name, such as "
                f"{one_line(strange[0])}: were two runs written into one folder?"
            )
    refuse_empty(run_dirs, len(all_ids), num_failed)
    refuse_unknown_field(aggregator, group_by)
    if num_failed:
        notes.append(
            f"{num_failed} of {len(all_ids)} requests failed and are left out; `failure` in their "
            "records says why."
        )
    if num_repeated:
        notes.append(f"{num_repeated} requests are in several runs; each figure pools them.")
    notes += _unlike(runs)
    if quality.scores:
        notes.append(
            "Answer quality: "
            + ", ".join(sorted({name.replace(",", " of ") for name in quality.metrics.values()}))
            + f", from lm-eval's samples; {quality.num_checked} texts agree with the records."
        )
    names = [run_dir.resolve().name for run_dir in run_dirs]
    return summarise(
        aggregator,
        _provenance(names, runs),
        notes=notes,
        min_requests=min_requests,
        all_measures=all_measures,
        bounds=bounds,
    )


def render(summary: Summary, format: Format | str) -> str:
    """A report as text.

    Args:
        summary: The numbers.
        format: `table` (for a terminal), `md`, `json`, `csv` or `html` (one page).

    Raises:
        ValueError: If there is no such format.
    """
    if format == "table":
        return as_table(summary)
    if format == "md":
        return as_markdown(summary)
    if format == "json":
        return json.dumps(as_json(summary), indent=2, ensure_ascii=False, allow_nan=False)
    if format == "csv":
        return as_csv(summary)
    if format == "html":
        # Only here: it loads matplotlib, which takes longer than all the rest.
        from lm_eval_specfair.reporting.report.report_html import as_html

        return as_html(summary)
    raise ValueError(f"format must be table, md, json, csv or html, got {format!r}")


def as_json(summary: Summary) -> dict[str, Any]:
    """The object that `--format json` prints; what was not measured is None."""
    return {
        "schema_version": SCHEMA_VERSION,
        "run": dict(summary.run),
        "settings": [msgspec.structs.asdict(settings) for settings in summary.settings],
        "group_by": summary.group_by,
        "overall": _figures(summary.overall),
        "groups": {group: _figures(figures) for group, figures in summary.groups.items()},
        "disparity": {
            metric: None if each is None else _spread(each)
            for metric, each in summary.disparity.items()
        },
        "deviations": {
            metric: dict(each.deviations)
            for metric, each in summary.disparity.items()
            if each is not None
        },
        "associations": [dataclasses.asdict(each) for each in summary.associations],
        "concordances": [dataclasses.asdict(each) for each in summary.concordances],
        "resource_classes": dict(summary.resource_classes),
        "figures_not_reported": {
            group: dict(names) for group, names in summary.figures_not_reported.items()
        },
        "group_names": {group: display_name(group, summary.group_by) for group in summary.groups},
        "group_requests": dict(summary.group_requests),
        "not_reported": dict(summary.not_reported),
        "min_requests": summary.min_requests,
        "counts": dataclasses.asdict(summary.counts),
        "intervals": {
            "confidence": CONFIDENCE,
            "num_resamples": summary.num_resamples,
            "documents_drawn_together": summary.is_parallel,
        },
        "flags": [dataclasses.asdict(flag) for flag in summary.flags],
        "notes": list(summary.notes),
    }


def _figures(figures: Mapping[str, Estimate | None]) -> dict[str, Any]:
    return {
        metric: None if figure is None else dataclasses.asdict(figure)
        for metric, figure in figures.items()
    }


def _spread(disparity: Disparity) -> dict[str, Any]:
    return {
        "worst": disparity.worst,
        "best": disparity.best,
        **_figures(disparity.statistics),
    }


def _read(
    run_dir: Path, run: Mapping[str, Any], aggregator: Aggregator, quality: Quality
) -> tuple[set[str], int, list[str]]:
    """Add a run's records to the aggregator.

    Returns:
        Their request ids, how many requests failed, and tasks that the run knows nothing of.
    """
    described: dict[str, TaskFacts] = {}
    ids: set[str] = set()
    num_failed = 0
    # Texts are looked at only to see that the samples are this run's.
    for record in read_records(run_dir, without=() if quality.texts else TEXTS):
        if record.request_id in ids:
            raise ConfigError(
                f"{run_dir}: request {record.request_id!r} was recorded twice; were two runs "
                "written into one folder?"
            )
        ids.add(record.request_id)
        if record.failure is not None:
            num_failed += 1
            continue
        if record.task not in described:
            described[record.task] = facts_of_task(run, record.task)
        quality.check(record)
        aggregator.add(record, described[record.task], run=str(run_dir))
    known = run.get("tasks")
    strange = sorted(set(described) - set(known)) if isinstance(known, dict) and known else []
    return ids, num_failed, strange


def _unlike(runs: Sequence[Mapping[str, Any]]) -> list[str]:
    """That figures pool runs of different models or settings, which may be what was meant."""
    all_settings = [
        dict(settings) if isinstance(settings := run.get("settings"), dict) else {} for run in runs
    ]
    for role in ("target", "drafter"):
        if all(settings.get(f"{role}_weights") for settings in all_settings):
            for settings in all_settings:  # the same weights may lie in several places
                settings.pop(role, None)
    names = {name for settings in all_settings for name in settings}
    differing = {
        one_line(name.removesuffix("_weights"))
        for name in names
        if any(settings.get(name) != all_settings[0].get(name) for settings in all_settings)
    }
    if not differing:
        return []
    return [
        f"The runs differ in {', '.join(sorted(differing))}: every figure pools them. "
        "`specfair compare` sets runs against each other."
    ]


def _provenance(names: Sequence[str], runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One run's own description; of several, what they share and in what they differ."""
    described = [
        {
            key: _trimmed(sorted(value) if key == "tasks" and isinstance(value, dict) else value)
            for key, value in run.items()
        }
        for run in runs
    ]
    keys = list(dict.fromkeys(key for run in described for key in run))
    shared = {
        key: described[0].get(key)
        for key in keys
        if all(run.get(key) == described[0].get(key) for run in described)
    }
    differing = {key: [run.get(key) for run in described] for key in keys if key not in shared}
    return {"folders": list(names), **shared, **({"differing": differing} if differing else {})}


def _trimmed(value: Any) -> Any:
    """Without what is too long for a report."""
    if isinstance(value, str):
        return value if len(value) <= _LONGEST_TEXT else value[:_LONGEST_TEXT] + "..."
    if isinstance(value, dict):
        return {key: _trimmed(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_trimmed(each) for each in value[:_LONGEST_LIST]]
    return value
