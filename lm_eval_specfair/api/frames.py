"""Runs, reports and comparisons as data frames."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from lm_eval_specfair.groups.assign import display_name
from lm_eval_specfair.records import Record, read_records

if TYPE_CHECKING:
    from lm_eval_specfair.metrics.comparison.change import Change
    from lm_eval_specfair.metrics.statistics.intervals import Estimate
    from lm_eval_specfair.metrics.summary import Summary
    from lm_eval_specfair.reporting.comparison.build_comparison import ComparisonReport
    from lm_eval_specfair.reporting.viewer.page_data import RequestViewer


StrPath = str | PathLike[str]


@dataclass(frozen=True)
class LoadedRun:
    """A run's folder: where it came from, and its records.

    Attributes:
        path: The folder.
        info: `run.json`: models, settings, versions, hardware, totals.
    """

    path: Path
    info: Mapping[str, Any]

    def __iter__(self) -> Iterator[Record]:
        """The records, read from disk as they are asked for."""
        return read_records(self.path)

    @cached_property
    def records(self) -> list[Record]:
        """All records, in memory."""
        return list(self)

    def to_frame(self) -> pd.DataFrame:
        """A row per request, a column per field; `settings` and `group_fields` stay objects."""
        names = Record.__struct_fields__
        rows = ([getattr(record, name) for name in names] for record in self)
        return pd.DataFrame(rows, columns=list(names))


class SvgFigure(str):
    """A drawing as the text of a standalone SVG file."""

    def _repr_svg_(self) -> str:
        return str(self)


@dataclass(frozen=True)
class Report:
    """The report of one run, or of several read together.

    Attributes:
        summary: All estimates, as the package holds them.
        viewer: Reads the requests that the page shows; None leaves them out.
    """

    summary: Summary
    viewer: RequestViewer | None = None

    @cached_property
    def by_group(self) -> pd.DataFrame:
        """A row per group, a column per metric; NaN where not measured."""
        return self._frame("value")

    @cached_property
    def intervals(self) -> pd.DataFrame:
        """A row per group; for each metric the columns value, low, high and n."""
        parts = ("value", "low", "high", "n")
        return pd.concat({part: self._frame(part) for part in parts}, axis=1).swaplevel(axis=1)

    @cached_property
    def overall(self) -> pd.DataFrame:
        """All requests together: a row per metric, with value, low, high and n."""
        return _rows(self.summary.overall)

    @cached_property
    def disparity(self) -> pd.DataFrame:
        """A row per metric: the best and the worst group, and each measure of spread."""
        return pd.DataFrame.from_dict(
            {
                metric: {"worst": spread.worst, "best": spread.best}
                | {
                    name: None if estimate is None else estimate.value
                    for name, estimate in spread.statistics.items()
                }
                for metric, spread in self.summary.disparity.items()
                if spread is not None
            },
            orient="index",
        )

    @property
    def verdict(self) -> list[str]:
        """What the estimates say, in a few sentences."""
        from lm_eval_specfair.reporting.report.headline import headline

        return headline(self.summary)

    @property
    def notes(self) -> list[str]:
        """What a reader should know to use the report."""
        return list(self.summary.notes)

    def render(self, format: str = "table") -> str:
        """The report as text: `table`, `md`, `json`, `csv` or `html`."""
        from lm_eval_specfair.reporting.report.build_report import render

        return render(self.summary, format, self.viewer)

    def figure(self) -> SvgFigure:
        """Mean acceptance length and speed-ups by group, with intervals; notebooks show it."""
        from lm_eval_specfair.reporting.report.report_plots import as_svg

        return SvgFigure(as_svg(self.summary))

    def save(self, directory: StrPath) -> list[Path]:
        """Write the report's files into a folder, as `specfair report -o` does."""
        from lm_eval_specfair.reporting.report.build_report import write_report

        return write_report(self.summary, Path(directory), self.viewer)

    def _frame(self, part: str) -> pd.DataFrame:
        return pd.DataFrame.from_dict(
            {
                group: {
                    metric: None if estimate is None else getattr(estimate, part)
                    for metric, estimate in estimates.items()
                }
                for group, estimates in self.summary.groups.items()
            },
            orient="index",
            dtype=float,
        ).rename_axis(self.summary.group_by)

    def names(self) -> dict[str, str]:
        """How each group is called in reports: `{"sw": "Swahili (sw)", ...}`."""
        return {group: display_name(group, self.summary.group_by) for group in self.summary.groups}

    def _repr_html_(self) -> str:
        return str(self.by_group.to_html())


@dataclass(frozen=True)
class RunComparison:
    """Candidates compared with a base, request by request.

    Attributes:
        report: All estimates, as the package holds them.
        viewer: Reads the requests that the page shows; None leaves them out.
    """

    report: ComparisonReport
    viewer: RequestViewer | None = None

    @cached_property
    def by_group(self) -> pd.DataFrame:
        """A row per candidate, group and metric: base, candidate, change, interval, p-values."""
        rows = {
            (candidate.name, group, metric): change
            for candidate in self.report.comparison.candidates
            for group, changes in candidate.groups.items()
            for metric, change in changes.items()
        }
        return _changes(rows, ("candidate", self.report.comparison.group_by, "metric"))

    @cached_property
    def overall(self) -> pd.DataFrame:
        """A row per candidate and metric, all requests together."""
        rows = {
            (candidate.name, metric): change
            for candidate in self.report.comparison.candidates
            for metric, change in candidate.overall.items()
        }
        return _changes(rows, ("candidate", "metric"))

    @cached_property
    def disparity(self) -> pd.DataFrame:
        """A row per candidate, metric and measure of spread across groups."""
        rows = {
            (candidate.name, metric, measure): change
            for candidate in self.report.comparison.candidates
            for metric, changes in candidate.spreads.items()
            for measure, change in changes.items()
        }
        return _changes(rows, ("candidate", "metric", "measure"))

    @property
    def verdict(self) -> list[str]:
        """What the gate says, and what changes for whom, in a few sentences."""
        from lm_eval_specfair.reporting.comparison.compare_headline import comparison_headline

        return comparison_headline(self.report)

    @property
    def passed(self) -> bool:
        """Whether the gate let every candidate pass; true where there was no gate."""
        return self.report.passed

    @property
    def notes(self) -> list[str]:
        """What a reader should know to use the comparison."""
        return list(self.report.notes)

    def render(self, format: str = "table") -> str:
        """The comparison as text: `table`, `md`, `json`, `csv` or `html`."""
        from lm_eval_specfair.reporting.comparison.compare_text import render

        return render(self.report, format, self.viewer)

    def save(self, directory: StrPath) -> list[Path]:
        """Write the comparison's files into a folder, as `specfair compare -o` does."""
        from lm_eval_specfair.reporting.comparison.compare_text import write_comparison

        return write_comparison(self.report, Path(directory), self.viewer)

    def _repr_html_(self) -> str:
        return str(self.by_group.to_html())


def _rows(estimates: Mapping[str, Estimate | None]) -> pd.DataFrame:
    parts = ("value", "low", "high", "n")
    return pd.DataFrame.from_dict(
        {
            metric: [None if estimate is None else getattr(estimate, part) for part in parts]
            for metric, estimate in estimates.items()
        },
        orient="index",
        columns=list(parts),
        dtype=float,
    )


def _changes(rows: Mapping[Any, Change | None], levels: Sequence[str]) -> pd.DataFrame:
    """Changes as a data frame; metrics that one of two runs lacks are left out."""
    known = {key: change for key, change in rows.items() if change is not None}
    return pd.DataFrame(
        [
            {
                "base": change.base.value,
                "candidate": change.candidate.value,
                "change": change.difference.value,
                "low": change.difference.low,
                "high": change.difference.high,
                "p_value": change.p_value,
                "p_adjusted": change.p_adjusted,
            }
            for change in known.values()
        ],
        index=pd.MultiIndex.from_tuples(list(known), names=list(levels)),
        dtype=float,
    )


def run_folder(run: StrPath | LoadedRun) -> Path:
    """The folder of a run that was given as such or as a path."""
    return run.path if isinstance(run, LoadedRun) else Path(run)
