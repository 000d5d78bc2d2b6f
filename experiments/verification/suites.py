"""Counts of tests by a run of pytest: how many ran, and how many did not pass."""

import subprocess
import sys
import xml.etree.ElementTree
from pathlib import Path
from typing import Any

EVERYTHING = ("-m", "slow or not slow", "--numprocesses", "0", "--quiet")


def suite(work: Path, name: str, *tests: str) -> dict[str, Any]:
    """Run tests and count them by file.

    Args:
        work: Folder for pytest's own report.
        name: Of that report.
        tests: Files or tests, as pytest takes them.
    """
    work.mkdir(parents=True, exist_ok=True)
    report = work / f"{name}.xml"
    command = [sys.executable, "-m", "pytest", *tests, *EVERYTHING, "--junitxml", str(report)]
    subprocess.run(command, check=False, stdout=sys.stderr)
    return counted(report, tests)


def counted(report: Path, tests: tuple[str, ...]) -> dict[str, Any]:
    """What a report of pytest says."""
    found: dict[str, Any] = {"passed": 0, "failed": 0, "skipped": 0, "tests": {}}
    for case in xml.etree.ElementTree.parse(report).iter("testcase"):
        kinds = {child.tag for child in case} & {"failure", "error", "skipped"}
        outcome = "skipped" if kinds == {"skipped"} else "failed" if kinds else "passed"
        found[outcome] += 1
        test = f"{case.get('classname', '').replace('.', '/')}.py::{case.get('name', '')}"
        base = test.partition("[")[0]
        found["tests"].setdefault(base, {"passed": 0, "failed": 0, "skipped": 0})[outcome] += 1
    command = f"python -m pytest {' '.join(tests)} -m 'slow or not slow'"
    return {"command": command, **found}
