"""A summary as text: a table for the terminal, Markdown, CSV, JSON."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import msgspec

from lm_eval_specfair.escape import markdown
from lm_eval_specfair.groups.assign import display_name
from lm_eval_specfair.metrics.statistics.intervals import CONFIDENCE, Estimate
from lm_eval_specfair.metrics.summary import Summary
from lm_eval_specfair.reporting.format import as_dicts, csv_text, markdown_notes, terminal_notes
from lm_eval_specfair.reporting.places.places_text import HEADING as places_heading
from lm_eval_specfair.reporting.places.places_text import places_json, places_tables, sentences
from lm_eval_specfair.reporting.report.bound_tables import HEADING, bound_tables
from lm_eval_specfair.reporting.report.headline import headline, verdict
from lm_eval_specfair.reporting.report.notes import footnotes, title
from lm_eval_specfair.reporting.report.report_tables import latency_table, main_table
from lm_eval_specfair.reporting.report.validity import flag_text, invalid_texts

SCHEMA_VERSION = 2
"""Of the JSON report (`schemas/report-2.json`)."""


def as_table(summary: Summary) -> str:
    """For a terminal of some 120 columns."""
    warnings = [f"WARNING: {each}" for each in summary.contradictions]
    told = terminal_notes(verdict(summary))
    parts = [*warnings, title(summary), *([told] if told else []), main_table(summary).terminal()]
    invalid = [f"INVALID: {text}." for text in invalid_texts(summary)]
    notes = invalid + footnotes(summary)
    latency = latency_table(summary)
    for table in [*([latency] if latency else []), *bound_tables(summary)]:
        parts += [table.title, table.terminal()]
        notes.append(table.note)
    if summary.where is not None:
        found = sentences(summary.where, summary.group_by, summary.groups)
        parts += [places_heading, terminal_notes(found)]
        for table in places_tables(summary.where, summary.group_by, summary.token_names):
            parts += [table.title, table.terminal()]
            notes += [table.note] if table.note else []
    return "\n\n".join([*parts, terminal_notes(notes)])


def as_markdown(summary: Summary, plot: str | None = None) -> str:
    """For a README, an issue or a pull request; `plot` is the file name of the plot beside it."""
    warnings = [f"> **Warning:** {markdown(each)}" for each in summary.contradictions]
    told = markdown_notes(verdict(summary))
    heading = f"# {markdown(title(summary))}"
    parts = [heading, *warnings, *([told] if told else []), main_table(summary).markdown()]
    if plot:
        parts.append(f"![Mean acceptance length and speed-up by {summary.group_by}]({plot})")
    invalid = [f"- **Invalid:** {markdown(text)}." for text in invalid_texts(summary)]
    parts.append("\n".join([*invalid, markdown_notes(footnotes(summary))]))
    if latency := latency_table(summary):
        parts += [f"**{latency.title}**", latency.markdown(), markdown(latency.note)]
    if bounds := bound_tables(summary):
        parts.append(f"<details><summary>{HEADING}: bounds beside what was measured</summary>")
        for table in bounds:
            parts += [f"**{table.title}**", table.markdown(), markdown(table.note)]
        parts.append("</details>")
    if summary.where is not None:
        found = sentences(summary.where, summary.group_by, summary.groups)
        parts += [f"## {places_heading}", markdown_notes(found)]
        for table in places_tables(summary.where, summary.group_by, summary.token_names):
            parts += [f"<details><summary>{table.title}</summary>", table.markdown()]
            parts += [markdown(table.note)] if table.note else []
            parts.append("</details>")
    return "\n\n".join([*parts, ""])


def as_csv(summary: Summary) -> str:
    """One estimate a line, for a spreadsheet or a data frame."""
    return csv_text(
        ["section", "group", "metric", "statistic", "value", "low", "high", "num_requests"],
        (
            [*names, estimate.value, estimate.low, estimate.high, estimate.n]
            for *names, estimate in _lines(summary)
            if estimate is not None
        ),
    )


def _lines(summary: Summary) -> Iterator[tuple[str, str, str, str, Estimate | None]]:
    for metric, estimate in summary.overall.items():
        yield "overall", "", metric, "", estimate
    for group, estimates in summary.groups.items():
        for metric, estimate in estimates.items():
            yield "group", group, metric, "", estimate
    for metric, disparity in summary.disparity.items():
        if disparity is not None:
            for label, group in (("worst", disparity.worst), ("best", disparity.best)):
                yield "disparity", group, metric, label, summary.groups[group][metric]
            for statistic, estimate in disparity.statistics.items():
                yield "disparity", "", metric, statistic, estimate


def as_json(summary: Summary) -> dict[str, Any]:
    """The object that `--format json` prints; None, or nothing, where nothing was measured."""
    return {
        "schema_version": SCHEMA_VERSION,
        "verdict": headline(summary),
        "run": dict(summary.run),
        "settings": [msgspec.structs.asdict(settings) for settings in summary.settings],
        "group_by": summary.group_by,
        "overall": as_dicts(summary.overall),
        "groups": {group: as_dicts(estimates) for group, estimates in summary.groups.items()},
        "disparity": {
            metric: None
            if each is None
            else {"worst": each.worst, "best": each.best, **as_dicts(each.statistics)}
            for metric, each in summary.disparity.items()
        },
        "deviations": {
            metric: dict(each.deviations)
            for metric, each in summary.disparity.items()
            if each is not None
        },
        "associations": [dataclasses.asdict(each) for each in summary.associations],
        "explained": [
            dataclasses.asdict(each) | {"by": list(each.by)} for each in summary.explained
        ],
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
        "flags": [
            {
                "metric": flag.metric,
                "group": flag.group,
                "message": flag_text(flag, summary.group_by),
            }
            for flag in summary.flags
        ],
        "contradictions": list(summary.contradictions),
        "unchecked": list(summary.unchecked),
        "notes": list(summary.notes),
        "where": None
        if summary.where is None
        else places_json(summary.where, summary.group_by, summary.groups, summary.token_names),
    }
