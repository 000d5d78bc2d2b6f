"""A suite's results as a table, Markdown or JSON, and kept in a file while a long run proceeds."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tabulate import tabulate

from lm_eval_specfair.conformance.suite import HARNESS_CLASSES, Result, SuiteReport
from lm_eval_specfair.conformance.trial import Check, CheckOutcome, Status
from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.files import write_files

_HEADERS = ("#", "Check", "Outcome", "Exact", "Near-ties", "Real bugs", "CPU s")
_ALIGNED = ("right", "left", "left", "right", "right", "right", "right")
_TEXTS = ("exact", "near_ties", "real_bugs")


def as_dict(report: SuiteReport) -> dict[str, Any]:
    """The report as plain data, for JSON."""
    checks = [_as_dict(result) for result in report.results]
    return {
        "schema_version": 1,
        "backend": report.backend,
        "versions": report.versions,
        "summary": {
            **{status.value.replace(" ", "_"): report.number(status) for status in Status},
            **{name: sum(check[name] for check in checks) for name in _TEXTS},
        },
        "checks": checks,
        "not_about_a_decoder": [
            {"number": bug.number, "name": bug.name, "proves": bug.proves}
            for bug in HARNESS_CLASSES
        ],
    }


def _as_dict(result: Result) -> dict[str, Any]:
    check, outcome = result.check, result.outcome
    return {
        **{name: getattr(check, name) for name in ("number", "name", "group", "proves", "witness")},
        "outcome": outcome.status.value,
        "exact": outcome.num_exact,
        "near_ties": outcome.num_near_ties,
        "real_bugs": outcome.num_real_bugs,
        "errors": list(outcome.errors),
        "notes": list(outcome.notes),
        "seconds": round(result.seconds, 3),
    }


def _from_dict(data: dict[str, Any], check: Check) -> Result:
    texts = (data["exact"], data["near_ties"], data["real_bugs"])
    status, errors, notes = Status(data["outcome"]), tuple(data["errors"]), tuple(data["notes"])
    outcome = CheckOutcome(status, *texts, errors, notes)
    return Result(check=check, outcome=outcome, seconds=float(data["seconds"]))


def keep(report: SuiteReport, file: Path) -> None:
    """Write the results so far as JSON to `file`, and as Markdown beside it.

    Raises:
        ConfigError: If they cannot be written.
    """
    names = {"json": file.name, "md": file.with_suffix(".md").name}
    write_files(file.parent, {name: render(report, form) + "\n" for form, name in names.items()})


def kept(file: Path, empty: SuiteReport, checks: Sequence[Check]) -> list[Result]:
    """The results of these checks in a file that `keep` wrote (none if there is no such file).

    Raises:
        ConfigError: If the file is no such report, or one of another backend or other versions.
    """
    if not file.exists():
        return []
    advice = f"go on with another file, or remove {file}"
    try:
        data = json.loads(file.read_bytes())
        made_by = {"backend": data["backend"], "versions": data["versions"]}
        by_name = {check["name"]: check for check in data["checks"]}
        results = [
            _from_dict(by_name[check.name], check) for check in checks if check.name in by_name
        ]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{file} is no report of this suite; {advice}") from error
    expected = {"backend": empty.backend, "versions": empty.versions}
    if made_by != expected:
        raise ConfigError(f"{file} is a report of {made_by}, not of {expected}; {advice}")
    return results


def render(report: SuiteReport, form: str) -> str:
    """The report as text: `table`, `md` or `json`."""
    data = as_dict(report)
    if form == "json":
        return json.dumps(data, ensure_ascii=False, indent=2)
    versions = ", ".join(f"{name} {version}" for name, version in report.versions.items())
    title = f"Conformance of {report.backend} ({versions})"
    summary = (
        "{passed} passed, {failed} failed, {refused} refused, {not_applicable} not applicable. "
        "Greedy texts: {exact} exact, {near_ties} with a near-tie that fp64 certified, "
        "{real_bugs} wrong."
    ).format_map(data["summary"])
    table = tabulate(
        [_row(check) for check in data["checks"]],
        headers=_HEADERS,
        tablefmt="github" if form == "md" else "simple",
        colalign=_ALIGNED,
    )
    details = [
        (check["name"], line)
        for check in data["checks"]
        for line in (*check["errors"], *check["notes"])
    ]
    others = ", ".join(f"{bug.number} {bug.name}" for bug in HARNESS_CLASSES)
    left_out = f"Not about a decoder, so not asked here: {others}."
    if form == "md":
        # A backend's text has no effect on the page.
        escaped = [(name, line.replace("|", "\\|").replace("<", "&lt;")) for name, line in details]
        notes = [f"- **{name}**: {line}" for name, line in escaped]
        return "\n".join([f"# {title}", "", summary, "", table, "", *notes, "", left_out])
    notes = [f"{name}: {line}" for name, line in details]
    return "\n".join([title, "", table, "", *notes, "", summary, left_out])


def _row(check: dict[str, Any]) -> list[str]:
    texts = [check[name] for name in _TEXTS]
    numbers = [str(number) if any(texts) else "" for number in texts]
    seconds = f"{check['seconds']:.1f}"
    return [str(check["number"]), check["name"], check["outcome"], *numbers, seconds]
