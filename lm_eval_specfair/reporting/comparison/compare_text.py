"""A comparison as text: for a terminal, Markdown, CSV, JSON, JUnit."""

import dataclasses
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from lm_eval_specfair.escape import one_line, xml
from lm_eval_specfair.files import write_files
from lm_eval_specfair.groups.assign import display_name
from lm_eval_specfair.metrics.comparison.change import Change
from lm_eval_specfair.metrics.statistics.intervals import CONFIDENCE
from lm_eval_specfair.metrics.statistics.power import POWER
from lm_eval_specfair.reporting.comparison.build_comparison import ComparisonReport
from lm_eval_specfair.reporting.comparison.compare_headline import comparison_headline
from lm_eval_specfair.reporting.comparison.compare_markdown import as_markdown
from lm_eval_specfair.reporting.comparison.compare_tables import footnotes, tables, title
from lm_eval_specfair.reporting.format import (
    as_dicts,
    csv_text,
    estimate_text,
    json_text,
    terminal_notes,
)
from lm_eval_specfair.reporting.viewer.page_data import RequestViewer

SCHEMA_VERSION = 1
"""Of the JSON comparison."""


def render(report: ComparisonReport, format: str, viewer: RequestViewer | None = None) -> str:
    """A comparison as text: `table` (for a terminal), `md`, `json`, `csv` or `html` (one page).

    `viewer` reads the requests that the page shows.

    Raises:
        ValueError: If there is no such format.
    """
    if format == "html":
        # Only here: it loads the templates.
        from lm_eval_specfair.reporting.comparison.compare_html import as_html

        return as_html(report, viewer)
    forms = {"table": as_table, "md": as_markdown, "csv": as_csv}
    if format == "json":
        return json_text(as_json(report))
    if format not in forms:
        raise ValueError(f"format must be table, md, json, csv or html, got {format!r}")
    return forms[format](report)


def write_comparison(
    report: ComparisonReport, directory: Path, viewer: RequestViewer | None = None
) -> list[Path]:
    """Write `comparison.md`, `.json`, `.csv` and `.html`; files of these names are replaced.

    `viewer` reads the requests that the page shows.

    Raises:
        ConfigError: If the folder cannot be made or written.
    """
    forms = {form: render(report, form, viewer) for form in ("md", "json", "csv", "html")}
    forms["json"] += "\n"
    return write_files(directory, {f"comparison.{form}": text for form, text in forms.items()})


def as_table(report: ComparisonReport) -> str:
    """For a terminal of some 120 columns."""
    told = terminal_notes(map(one_line, comparison_headline(report)))
    parts = [one_line(title(report)), *([told] if told else [])]
    for table in tables(report):
        parts += [one_line(table.title), table.terminal()]
    return "\n\n".join([*parts, terminal_notes(map(one_line, footnotes(report)))])


def as_csv(report: ComparisonReport) -> str:
    """One change a line, for a spreadsheet or a data frame; all metrics."""
    numbers = ["base", "value", "difference", "low", "high", "p_value", "p_adjusted"]
    rows = [
        [
            *names,
            change.base.value,
            change.candidate.value,
            *(change.difference.value, change.difference.low, change.difference.high),
            *(change.p_value, change.p_adjusted),
        ]
        for names, change in _lines(report)
    ]
    return csv_text(["candidate", "section", "group", "metric", "statistic", *numbers], rows)


def _lines(report: ComparisonReport) -> Iterator[tuple[list[str], Change]]:
    for candidate in report.comparison.candidates:
        groups = (("group", group, changes) for group, changes in candidate.groups.items())
        for section, group, changes in [("overall", "", candidate.overall), *groups]:
            for metric, each in changes.items():
                if each is not None:
                    yield [candidate.name, section, group, metric, ""], each
        for metric, spreads in candidate.spreads.items():
            for statistic, change in spreads.items():
                yield [candidate.name, "disparity", "", metric, statistic], change


def as_json(report: ComparisonReport) -> dict[str, Any]:
    """The object that `--format json` prints; what was not measured is None."""
    comparison = report.comparison
    return {
        "schema_version": SCHEMA_VERSION,
        "verdict": comparison_headline(report),
        "group_by": comparison.group_by,
        "metric": report.metric.name,
        "base": comparison.runs[0].name,
        "runs": {name: dict(about) for name, about in report.runs.items()},
        "candidates": {
            candidate.name: {
                "overall": as_dicts(candidate.overall),
                "groups": {group: as_dicts(changes) for group, changes in candidate.groups.items()},
                "disparity": {
                    metric: as_dicts(spreads) for metric, spreads in candidate.spreads.items()
                },
                "greedy_texts": dataclasses.asdict(candidate.texts),
                "detection": {
                    "power": POWER,
                    **dataclasses.asdict(report.detections[candidate.name]),
                },
            }
            for candidate in comparison.candidates
        },
        "standings": {
            name: as_dicts(standings) for name, standings in comparison.standings.items()
        },
        "group_names": {
            group: display_name(group, comparison.group_by) for group in comparison.groups
        },
        "group_requests": dict(comparison.group_requests),
        "not_reported": dict(comparison.not_reported),
        "min_requests": comparison.min_requests,
        "family_wise": comparison.family_wise,
        "intervals": {
            "confidence": CONFIDENCE,
            "num_resamples": comparison.num_resamples,
            "documents_drawn_together": comparison.is_parallel,
        },
        "gate": None if report.gate is None else msgspec.to_builtins(report.gate),
        "verdicts": [dataclasses.asdict(verdict) for verdict in report.verdicts],
        "notes": list(report.notes),
    }


def as_junit(report: ComparisonReport) -> str:
    """The gate's verdicts as CI systems read them: a suite a candidate, a case a limit."""
    suites = ET.Element("testsuites", name="specfair compare")
    outcomes = {"kept": None, "broken": "failure", "undecided": "skipped"}
    if report.gate is not None and report.gate.when_undecided == "fail":
        outcomes["undecided"] = "failure"
    for verdict in report.verdicts:
        reached = [outcomes[check.state] for check in verdict.checks]
        name = xml(verdict.candidate)
        suite = ET.SubElement(
            suites,
            "testsuite",
            name=name,
            tests=str(len(reached)),
            failures=str(reached.count("failure")),
            errors="0",
            skipped=str(reached.count("skipped")),
        )
        for check, outcome in zip(verdict.checks, reached, strict=True):
            case = ET.SubElement(suite, "testcase", classname=f"gate.{name}", name=xml(check.name))
            if outcome is not None:
                observed = estimate_text(check.observed, ".3f")
                message = f"{check.state}: {observed}, at most {check.limit:g}"
                ET.SubElement(case, outcome, message=message)
    ET.indent(suites)
    return ET.tostring(suites, encoding="unicode", xml_declaration=True) + "\n"
