"""From the folders of runs to a summary, and from a summary to text."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lm_eval_specfair.files import write_files
from lm_eval_specfair.groups.assign import DEFAULT_MIN_REQUESTS
from lm_eval_specfair.groups.user_file import UserGroups
from lm_eval_specfair.metrics.aggregate.aggregator import Aggregator
from lm_eval_specfair.metrics.summary import Summary, summarise
from lm_eval_specfair.reporting.format import json_text
from lm_eval_specfair.reporting.places.build_places import build_places
from lm_eval_specfair.reporting.report.answer_quality import find_samples, read_quality
from lm_eval_specfair.reporting.report.record_notes import record_notes, run_notes
from lm_eval_specfair.reporting.report.report_text import as_csv, as_json, as_markdown, as_table
from lm_eval_specfair.reporting.runs import (
    RunReader,
    contradiction_notes,
    group_notes,
    group_sources,
    open_runs,
    refuse_empty,
    refuse_unknown_field,
    unchecked_notes,
)
from lm_eval_specfair.reporting.viewer.page_data import RequestViewer

PLOT_FILE = "acceptance.svg"

_LONGEST_TEXT = 300
_LONGEST_LIST = 50


def build_summary(
    run_dirs: Sequence[Path],
    *,
    group_by: str = "language",
    mapping: UserGroups | None = None,
    min_requests: int = DEFAULT_MIN_REQUESTS,
    samples: Path | None = None,
    quality_metric: str | None = None,
    all_measures: bool = False,
    bounds: bool = False,
    where: bool = False,
) -> Summary:
    """Read runs and estimate every metric, all runs together.

    `group_by` and `mapping` make the groups (`groups.assign.groups_of`); those below `min_requests`
    are not reported. `samples` is a folder or file of lm-eval's samples, by default those below the
    runs' folders; `quality_metric` is theirs that is the answer quality (`read_quality`). `where`
    reads the records' tokens too, for where drafts are lost.

    Raises:
        ConfigError: If a folder cannot be read, holds a request twice or is named twice, if there
            are no records, or if samples belong to another run.
    """
    readers = open_runs(run_dirs)
    quality = read_quality(find_samples(run_dirs, samples), quality_metric)
    aggregator = Aggregator(group_by, mapping, also_by_language=True)
    aggregator.quality = quality.scores
    costs = {str(reader.folder): reader.costs for reader in readers}
    if all(costs.values()):  # else plain steps would be added to seconds
        aggregator.costs = {run: cost for run, cost in costs.items() if cost}
    for reader in readers:
        run = str(reader.folder)
        if quality.samples:  # joined record by record
            for record, facts in reader.records():
                quality.join(record)
                aggregator.add(record, facts, run=run)
        else:
            for batch in reader.batches():
                aggregator.add_batch(batch, reader.tasks, run=run)
    refuse_empty(readers)
    quality.refuse_strangers()
    refuse_unknown_field(aggregator, group_by)
    summary = summarise(
        aggregator,
        {**_provenance(readers), "group_sources": group_sources(aggregator)},
        notes=[*run_notes(readers, quality), *group_notes(aggregator)],
        min_requests=min_requests,
        all_measures=all_measures,
        bounds=bounds,
    )
    places, token_names = None, dict[int, str]()
    if where:
        places, token_names = build_places(readers, group_by, mapping, min_requests)
    return dataclasses.replace(
        summary,
        where=places,
        token_names=token_names,
        notes=[*summary.notes, *record_notes(summary)],
        contradictions=contradiction_notes(readers),
        unchecked=unchecked_notes(readers),
    )


def render(summary: Summary, format: str, viewer: RequestViewer | None = None) -> str:
    """A report as text: `table` (for a terminal), `md`, `json`, `csv` or `html` (one page).

    `viewer` reads the requests that the page shows.

    Raises:
        ValueError: If there is no such format.
    """
    if format == "html":
        # Only here: it loads the templates.
        from lm_eval_specfair.reporting.report.report_html import as_html

        return as_html(summary, viewer)
    if format == "json":
        return json_text(as_json(summary))
    forms = {"table": as_table, "md": as_markdown, "csv": as_csv}
    if format not in forms:
        raise ValueError(f"format must be table, md, json, csv or html, got {format!r}")
    return forms[format](summary)


def write_report(
    summary: Summary, directory: Path, viewer: RequestViewer | None = None
) -> list[Path]:
    """Write `report.md`, `.json`, `.csv`, `.html` and the plot; files of these names are replaced.

    `viewer` reads the requests that the page shows.

    Raises:
        ConfigError: If the folder cannot be made or written.
    """
    from lm_eval_specfair.reporting.report.report_plots import as_svg

    contents = {
        "report.md": as_markdown(summary, plot=PLOT_FILE),
        "report.json": f"{render(summary, 'json')}\n",
        "report.csv": as_csv(summary),
        "report.html": render(summary, "html", viewer),
        PLOT_FILE: as_svg(summary),
    }
    return write_files(directory, contents)


def _provenance(readers: Sequence[RunReader]) -> dict[str, Any]:
    """One run's own description; of several, what they share and in what they differ."""
    runs: list[Mapping[str, Any]] = [
        {key: _trimmed(_shown(key, value)) for key, value in reader.info.items()}
        for reader in readers
    ]
    values = {
        key: [run.get(key) for run in runs]
        for key in dict.fromkeys(key for run in runs for key in run)
    }
    shared = {key: each[0] for key, each in values.items() if each.count(each[0]) == len(each)}
    differing = {key: each for key, each in values.items() if key not in shared}
    names = [reader.folder.resolve().name for reader in readers]
    return {"folders": names, **shared, **({"differing": differing} if differing else {})}


def _shown(key: str, value: Any) -> Any:
    """Of tasks their names, of totals those that people read."""
    if key == "tasks" and isinstance(value, dict):
        return sorted(value)
    if key == "totals" and isinstance(value, dict):
        return {name: each for name, each in value.items() if name != "records"}
    return value


def _trimmed(value: Any) -> Any:
    """Without what is too long for a report."""
    if isinstance(value, str):
        return value if len(value) <= _LONGEST_TEXT else value[:_LONGEST_TEXT] + "..."
    if isinstance(value, dict):
        return {key: _trimmed(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_trimmed(each) for each in value[:_LONGEST_LIST]]
    return value
