"""The validation of a submission: everything is computed again from its records and compared.

Made-up records with estimates to match are not detected; digests, texts and the command are there
so that others can run it again.
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.escape import one_line
from lm_eval_specfair.reporting.format import listed
from lm_eval_specfair.reporting.leaderboard.entry import (
    SUBMISSION_FILE,
    Submission,
    read_submission,
)
from lm_eval_specfair.reporting.leaderboard.packing import pack

# Sums of floats depend on the machine in their last digits. Ends of intervals may move by one
# resample of two thousand for that.
_SAME = 1e-9
_SAME_END = 0.02  # of the interval's width

_MOST_NAMED = 5
_NEWER = (
    ("provenance", "load"),
    ("suite", "groups_sha256"),
    ("suite", "baselines_sha256"),
    ("figures", "plain_seconds_per_token"),
)


def validate(path: Path) -> Submission:
    """A submission as its files make it, if that is what its own file says.

    What an older file does not say yet is computed and not compared.

    Raises:
        ConfigError: If it does not fit the schema, its files are missing or no plain files, or any
            field is not what they say; the fields are named.
    """
    file = path / SUBMISSION_FILE if path.is_dir() else path
    submission = read_submission(file)
    # No path in the submission is ever opened: the folder's own files are read, and must be the
    # ones that the submission names.
    again = pack(file.parent, submission.entry, group_by=submission.figures.group_by)
    claimed, computed = msgspec.to_builtins(submission), msgspec.to_builtins(again)
    _leave_out_newer(claimed, computed)
    wrong = list(_compared("", claimed, computed))
    if wrong:
        # A changed file changes many estimates: its digest is named first.
        wrong.sort(key=lambda each: not each[0].endswith(".sha256"))
        named = [
            f"{one_line(field)} is {_shown(claimed)}, its files say {_shown(computed)}"
            for field, claimed, computed in wrong
        ]
        raise ConfigError(
            f"{file} does not agree with its files: {listed(named, _MOST_NAMED, '; ')}"
        )
    return again


def _leave_out_newer(claimed: dict[str, Any], computed: dict[str, Any]) -> None:
    """Take out what the version that wrote the submission did not know."""
    for part, field in _NEWER:
        if claimed[part][field] is None:
            claimed[part][field] = computed[part][field]
    figures, known = computed["figures"], claimed["figures"]["overall"]
    for metrics in (figures["overall"], figures["standings"], *figures["groups"].values()):
        for name in set(metrics) - set(known):
            del metrics[name]


def _compared(field: str, claimed: Any, computed: Any) -> Iterator[tuple[str, Any, Any]]:
    """Fields that differ: the path, what the submission says there, what its files say."""
    if isinstance(claimed, dict) and isinstance(computed, dict):
        is_estimate = {"low", "high"} <= set(claimed) == set(computed)
        for key in [*claimed, *(key for key in computed if key not in claimed)]:
            name = f"{field}.{key}" if field else str(key)
            if key not in claimed or key not in computed:
                yield name, claimed.get(key, "missing"), computed.get(key, "nothing")
            elif is_estimate and key in ("low", "high"):
                known = computed["low"] is not None and computed["high"] is not None
                width = computed["high"] - computed["low"] if known else 0.0
                if not _is_near(claimed[key], computed[key], _SAME_END * width):
                    yield name, claimed[key], computed[key]
            else:
                yield from _compared(name, claimed[key], computed[key])
    elif isinstance(claimed, list) and isinstance(computed, list):
        if len(claimed) != len(computed):
            yield field, f"{len(claimed)} items", f"{len(computed)} items"
        for place, (one, other) in enumerate(zip(claimed, computed, strict=False)):
            yield from _compared(f"{field}[{place}]", one, other)
    elif not _is_near(claimed, computed, 0.0):
        yield field, claimed, computed


def _is_near(claimed: Any, computed: Any, distance: float) -> bool:
    if isinstance(claimed, float) and isinstance(computed, float):
        return math.isclose(claimed, computed, rel_tol=_SAME, abs_tol=max(distance, _SAME))
    return type(claimed) is type(computed) and bool(claimed == computed)


def _shown(value: Any) -> str:
    return f"{value!r:.80}" if not isinstance(value, (dict, list)) else f"a {type(value).__name__}"
