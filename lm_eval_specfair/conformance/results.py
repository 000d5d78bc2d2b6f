"""A suite's results as a table, Markdown or JSON, and kept in a file while a long run goes on."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tabulate import tabulate

from lm_eval_specfair.conformance.suite import HARNESS_CLASSES, Report, Result
from lm_eval_specfair.conformance.trial import Check, Outcome, Status
from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.files import write_file

_HEADERS = ("#", "Check", "Outcome", "Exact", "Near-ties", "Real bugs", "CPU s")


def as_dict(report: Report) -> dict[str, Any]:
    """The report as plain data, for JSON."""
    return {
        "schema_version": 1,
        "backend": report.backend,
        "versions": report.versions,
        "summary": {
            **{status.value.replace(" ", "_"): report.number(status) for status in Status},
            "exact": sum(result.outcome.num_exact for result in report.results),
            "near_ties": sum(result.outcome.num_near_ties for result in report.results),
            "real_bugs": sum(result.outcome.num_real_bugs for result in report.results),
        },
        "checks": [_check(result) for result in report.results],
        "not_about_a_decoder": [
            {"number": each.number, "name": each.name, "proves": each.proves}
            for each in HARNESS_CLASSES
        ],
    }


def keep(report: Report, file: Path) -> None:
    """Write the report as JSON, and as Markdown beside it; each replaces its old form when whole.

    Args:
        report: The results so far.
        file: Ends in `.json`.
    """
    for form, path in (("json", file), ("md", file.with_suffix(".md"))):
        write_file(path, render(report, form) + "\n")


def kept(file: Path, empty: Report, checks: Sequence[Check]) -> list[Result]:
    """The results that a file holds of these checks, to go on from.

    Args:
        file: What `keep` wrote; none is no error.
        empty: The report that is about to be made, without results.
        checks: That are asked for now.

    Raises:
        ConfigError: If the file is no such report, or one of another backend or other versions.
    """
    if not file.exists():
        return []
    advice = f"go on with another file, or remove {file}"
    try:
        found = json.loads(file.read_bytes())
        of = {"backend": found["backend"], "versions": found["versions"]}
        outcomes = {one["name"]: _result(one, checks) for one in found["checks"]}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{file} is no report of this suite; {advice}") from error
    wanted = {"backend": empty.backend, "versions": empty.versions}
    if of != wanted:
        raise ConfigError(f"{file} is a report of {of}, not of {wanted}; {advice}")
    found_now = (outcomes.get(check.name) for check in checks)
    return [result for result in found_now if result is not None]


def _result(one: dict[str, Any], checks: Sequence[Check]) -> Result | None:
    check = next((check for check in checks if check.name == one["name"]), None)
    outcome = Outcome(
        status=Status(one["outcome"]),
        num_exact=one["exact"],
        num_near_ties=one["near_ties"],
        num_real_bugs=one["real_bugs"],
        errors=tuple(one["errors"]),
        notes=tuple(one["notes"]),
    )
    seconds = float(one["seconds"])
    return None if check is None else Result(check=check, outcome=outcome, seconds=seconds)


def _check(result: Result) -> dict[str, Any]:
    check, outcome = result.check, result.outcome
    return {
        "number": check.number,
        "name": check.name,
        "group": check.group,
        "proves": check.proves,
        "witness": check.witness,
        "outcome": outcome.status.value,
        "exact": outcome.num_exact,
        "near_ties": outcome.num_near_ties,
        "real_bugs": outcome.num_real_bugs,
        "errors": list(outcome.errors),
        "notes": list(outcome.notes),
        "seconds": round(result.seconds, 3),
    }


def _summary(report: Report) -> str:
    found = as_dict(report)["summary"]
    return (
        f"{found['passed']} passed, {found['failed']} failed, {found['refused']} refused, "
        f"{found['not_applicable']} not applicable. Greedy texts: {found['exact']} exact, "
        f"{found['near_ties']} with a near-tie that fp64 certified, {found['real_bugs']} wrong."
    )


def _rows(report: Report) -> list[list[str]]:
    rows = []
    for result in report.results:
        outcome = result.outcome
        judged = outcome.num_exact + outcome.num_near_ties + outcome.num_real_bugs
        numbers = [outcome.num_exact, outcome.num_near_ties, outcome.num_real_bugs]
        rows.append(
            [
                str(result.check.number),
                result.check.name,
                outcome.status.value,
                *(str(number) if judged else "" for number in numbers),
                f"{result.seconds:.1f}",
            ]
        )
    return rows


def _details(report: Report) -> list[tuple[str, str]]:
    """Errors and notes, each with its check's name."""
    return [
        (result.check.name, line)
        for result in report.results
        for line in (*result.outcome.errors, *result.outcome.notes)
    ]


def render(report: Report, form: str) -> str:
    """The report as text.

    Args:
        report: The results.
        form: `table`, `md` or `json`.
    """
    if form == "json":
        return json.dumps(as_dict(report), ensure_ascii=False, indent=2)
    versions = ", ".join(f"{name} {version}" for name, version in report.versions.items())
    title = f"Conformance of {report.backend} ({versions})"
    around = ", ".join(f"{each.number} {each.name}" for each in HARNESS_CLASSES)
    left_out = f"Not about a decoder, so not asked here: {around}."
    right = ("right", "left", "left", "right", "right", "right", "right")
    if form == "md":
        lines = [f"# {title}", "", _summary(report), ""]
        lines += [tabulate(_rows(report), headers=_HEADERS, tablefmt="github", colalign=right), ""]
        lines += [f"- **{name}**: {_in_markdown(line)}" for name, line in _details(report)]
        return "\n".join([*lines, "", left_out])
    lines = [title, "", tabulate(_rows(report), headers=_HEADERS, colalign=right), ""]
    lines += [f"{name}: {line}" for name, line in _details(report)]
    return "\n".join([*lines, "", _summary(report), left_out])


def _in_markdown(line: str) -> str:
    """A backend's words without effect on the page."""
    return line.replace("|", "\\|").replace("<", "&lt;")
