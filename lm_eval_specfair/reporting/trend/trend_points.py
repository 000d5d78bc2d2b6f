"""The points of a trend: a folder's runs, comparisons' JSON and submissions, each with a date."""

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.escape import one_line
from lm_eval_specfair.groups.assign import NO_GROUP
from lm_eval_specfair.groups.user_file import UserGroups
from lm_eval_specfair.metrics.comparison.pairing import MAY_DIFFER
from lm_eval_specfair.metrics.statistics.intervals import Estimate
from lm_eval_specfair.records import RUN_FILE
from lm_eval_specfair.reporting.leaderboard.entry import (
    SUBMISSION_FILE,
    Submission,
    read_submission,
)
from lm_eval_specfair.reporting.report.build_report import build_summary

_LARGEST = 256 << 20  # bytes of a JSON file
_MOST_DEEP = 5  # folders below the one that is read
_NO_CONDITION = {"lossless_checks"}

Figures = Mapping[str, Mapping[str, Estimate | None]]
"""By metric and group."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrendPoint:
    """One measurement of a series."""

    name: str
    date: datetime  # when its run was finished, or started
    kind: str  # `run`, `comparison` or `submission`
    drafter: str | None
    figures: Figures
    conditions: Mapping[str, str]  # what must be equal for figures to be compared, by name
    gate: str | None = None  # what the gate said: kept, broken or undecided
    passed: bool | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class TrendFolder:
    """What a folder holds; what could not be read hides nothing else."""

    points: list[TrendPoint]
    left_out: Mapping[str, str]  # by place, why


def read_points(
    folder: Path, *, group_by: str, mapping: UserGroups | None, min_requests: int
) -> TrendFolder:
    """All runs, comparisons and submissions below a folder, the oldest first.

    Runs that lie below a comparison's folder are what it compared, and are not read again; nor is a
    report's JSON.

    Raises:
        ConfigError: If there is no such folder, or nothing in it can be read.
    """
    if not folder.is_dir():
        raise ConfigError(f"expected a folder with runs, comparisons or submissions, got {folder}")
    points: list[TrendPoint] = []
    left_out: dict[str, str] = {}
    for place, kind in _places(folder):
        name = one_line(place.relative_to(folder) if place != folder else folder.resolve().name)
        try:
            if kind == "comparison":
                points += _of_comparison(place, group_by)
            elif kind == "submission":
                points.append(_of_submission(read_submission(place), group_by))
            else:
                points.append(_of_run(place, name, group_by, mapping, min_requests))
        except ConfigError as error:
            left_out[name] = one_line(error)
    if not points:
        reasons = "; ".join(f"{name}: {why}" for name, why in left_out.items())
        raise ConfigError(
            f"nothing below {folder} can be read: expected folders of runs, submissions, or JSON "
            f"of `specfair compare`{f'; {reasons:.600}' if reasons else ''}"
        )
    points.sort(key=lambda point: (point.date, point.name))
    return TrendFolder(points=points, left_out=left_out)


def _places(folder: Path) -> Iterator[tuple[Path, str]]:
    """Each thing to read, and what it is."""
    for root, folders, files in os.walk(folder):
        here = Path(root)
        folders.sort()
        comparisons = [
            here / name
            for name in sorted(files)
            if name.endswith(".json") and _compares(here / name)
        ]
        yield from ((path, "comparison") for path in comparisons)
        if comparisons or len(here.relative_to(folder).parts) >= _MOST_DEEP:
            folders.clear()
        elif SUBMISSION_FILE in files:
            folders.clear()
            yield here / SUBMISSION_FILE, "submission"
        elif RUN_FILE in files:
            folders.clear()
            yield here, "run"


def _compares(path: Path) -> bool:
    """Whether a file is a comparison's JSON, by its first keys."""
    try:
        if path.is_symlink() or path.stat().st_size > _LARGEST:
            return False
        with path.open("rb") as file:
            head = file.read(64)
    except OSError:
        return False
    if b'"schema_version"' not in head:
        return False
    try:
        data = msgspec.json.decode(path.read_bytes())
    except (OSError, msgspec.DecodeError, UnicodeError, RecursionError):
        return False
    return isinstance(data, dict) and {"base", "candidates", "runs"} <= data.keys()


def _of_comparison(path: Path, group_by: str) -> list[TrendPoint]:
    """A point for each candidate."""
    data = json.loads(path.read_bytes())
    try:
        if data["group_by"] != group_by:
            raise ConfigError(f"its groups are by {data['group_by']!r:.40}, not by {group_by}")
        gates = {each["candidate"]: each for each in data["verdicts"]}
        points = []
        for name, candidate in data["candidates"].items():
            about = data["runs"][name]
            figures: dict[str, dict[str, Estimate | None]] = {}
            for group, changes in candidate["groups"].items():
                for metric, change in changes.items():
                    one = None if change is None else msgspec.convert(change["candidate"], Estimate)
                    figures.setdefault(metric, {})[group] = one
            gate = gates.get(name, {})
            points.append(
                TrendPoint(
                    name=one_line(name),
                    date=_date(about.get("finished"), path),
                    kind="comparison",
                    drafter=about.get("drafter"),
                    figures=figures,
                    conditions=_conditions(
                        about,
                        about.get("hardware"),
                        tasks=about.get("tasks"),
                        requests=data["group_requests"],
                    ),
                    gate=gate.get("state"),
                    passed=gate.get("passed"),
                )
            )
    except (KeyError, TypeError, AttributeError, msgspec.ValidationError) as error:
        raise ConfigError(
            f"not what `specfair compare --format json` prints: {one_line(error):.100}"
        ) from None
    return points


def _of_submission(submission: Submission, group_by: str) -> TrendPoint:
    if submission.figures.group_by != group_by:
        raise ConfigError(
            f"its groups are by {submission.figures.group_by!r:.40}, not by {group_by}"
        )
    figures: dict[str, dict[str, Estimate | None]] = {}
    for group, metrics in submission.figures.groups.items():
        for metric, one in metrics.items():
            estimate = None
            if one is not None:
                estimate = Estimate(value=one.value, low=one.low, high=one.high, n=one.n)
            figures.setdefault(metric, {})[group] = estimate
    about = submission.provenance
    return TrendPoint(
        name=one_line(submission.entry.name),
        date=_date(about.finished or about.started, None),
        kind="submission",
        drafter=about.settings.get("drafter"),
        figures=_without_rest(figures),
        conditions=_conditions(
            about.settings,
            about.hardware,
            tasks=submission.suite.tasks,
            requests=submission.suite.requests_sha256,
        ),
    )


def _of_run(
    folder: Path, name: str, group_by: str, mapping: UserGroups | None, min_requests: int
) -> TrendPoint:
    summary = build_summary([folder], group_by=group_by, mapping=mapping, min_requests=min_requests)
    if summary.contradictions:
        raise ConfigError(" ".join(summary.contradictions))
    info = summary.run
    if "finished" in info and info["finished"] is None:
        raise ConfigError("the run did not finish")
    figures: dict[str, dict[str, Estimate | None]] = {}
    for group, metrics in summary.groups.items():
        for metric, one in metrics.items():
            figures.setdefault(metric, {})[group] = one
    settings = known if isinstance(known := info.get("settings"), dict) else {}
    ways = {
        f"temperature {each.temperature:g}, top-k {each.top_k}, top-p {each.top_p}"
        for each in summary.settings
    }
    return TrendPoint(
        name=name,
        date=_date(info.get("finished") or info.get("started"), folder / RUN_FILE),
        kind="run",
        drafter=settings.get("drafter"),
        figures=_without_rest(figures),
        conditions=_conditions(
            settings, info.get("hardware"), tasks=info.get("tasks"), requests=summary.group_requests
        )
        | {"decoding": "; ".join(sorted(ways))},
    )


def _without_rest(
    figures: Mapping[str, Mapping[str, Estimate | None]],
) -> dict[str, dict[str, Estimate | None]]:
    """Without requests of no group."""
    return {
        metric: {group: one for group, one in groups.items() if group != NO_GROUP}
        for metric, groups in figures.items()
    }


def _conditions(
    settings: Mapping[str, Any], hardware: object, *, tasks: object, requests: object
) -> dict[str, str]:
    """What must be equal in the points of one series; `hardware: ...` for times alone."""
    apart = MAY_DIFFER | _NO_CONDITION | {"finished", "tasks", "hardware"}
    known = {name: value for name, value in settings.items() if name not in apart}
    if known.get("target_weights"):
        known.pop("target", None)  # the same weights may be in several places
    parts = {f"settings: {name}": value for name, value in known.items() if value is not None}
    if isinstance(hardware, Mapping):
        parts |= {f"hardware: {name}": value for name, value in hardware.items()}
    names = sorted(tasks) if isinstance(tasks, (Mapping, list)) else tasks
    parts |= {"tasks": names, "requests": requests}
    return {name: json.dumps(value, sort_keys=True) for name, value in parts.items()}


def _date(text: object, path: Path | None) -> datetime:
    """A date of `run.json`; in its place, of older comparisons, that of the file."""
    if isinstance(text, str):
        try:
            date = datetime.fromisoformat(text)
        except ValueError:
            raise ConfigError(f"expected a date, got {text!r:.60}") from None
        return date if date.tzinfo else date.replace(tzinfo=UTC)
    if path is not None and path.name != RUN_FILE:
        return datetime.fromtimestamp(path.stat().st_mtime, UTC)
    raise ConfigError(f"its {RUN_FILE} says neither when it finished nor when it started")
