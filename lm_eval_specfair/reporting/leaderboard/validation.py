"""Whether a submission says what its records say: everything is computed again and compared.

Made-up records with estimates to match are not detected; digests, texts and the command are there
so that others can run it again.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.escape import one_line
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


@dataclass(frozen=True, kw_only=True, slots=True)
class Disagreement:
    """A field, by its path, that is not what the files say."""

    field: str
    claimed: str
    computed: str


def validate(path: Path) -> Submission:
    """A submission from its file or folder, if everything in it can be computed again.

    Raises:
        ConfigError: If it does not fit the schema, its files are missing or no plain files, or any
            field is not what they say; the fields are named.
    """
    file = path / SUBMISSION_FILE if path.is_dir() else path
    submission = read_submission(file)
    computed = disagreements(submission, file.parent)
    if computed:
        named = "; ".join(
            f"{each.field} is {each.claimed}, its files say {each.computed}"
            for each in computed[:_MOST_NAMED]
        )
        more = f"; and {len(computed) - _MOST_NAMED} more" if len(computed) > _MOST_NAMED else ""
        raise ConfigError(f"{file} does not agree with its files: {named}{more}")
    return submission


def disagreements(submission: Submission, folder: Path) -> list[Disagreement]:
    """The fields of a submission that are not what the files in its folder say, digests first.

    No path in the submission is ever opened: the folder's own files are read, and must be the ones
    that the submission names.
    """
    again = pack(folder, submission.entry, group_by=submission.figures.group_by)
    computed = list(_compared("", msgspec.to_builtins(submission), msgspec.to_builtins(again)))
    # A changed file changes many estimates: its digest is named first.
    return sorted(computed, key=lambda each: not each.field.endswith(".sha256"))


def _compared(field: str, claimed: Any, computed: Any) -> Iterator[Disagreement]:
    if isinstance(claimed, dict) and isinstance(computed, dict):
        is_estimate = {"low", "high"} <= set(claimed) == set(computed)
        for key in [*claimed, *(key for key in computed if key not in claimed)]:
            name = f"{field}.{key}" if field else str(key)
            if key not in claimed or key not in computed:
                yield _disagreement(name, claimed.get(key, "missing"), computed.get(key, "nothing"))
            elif is_estimate and key in ("low", "high"):
                width = _width(computed)
                if not _is_near(claimed[key], computed[key], _SAME_END * width):
                    yield _disagreement(name, claimed[key], computed[key])
            else:
                yield from _compared(name, claimed[key], computed[key])
    elif isinstance(claimed, list) and isinstance(computed, list):
        if len(claimed) != len(computed):
            yield _disagreement(field, f"{len(claimed)} items", f"{len(computed)} items")
        for place, (one, other) in enumerate(zip(claimed, computed, strict=False)):
            yield from _compared(f"{field}[{place}]", one, other)
    elif not _is_near(claimed, computed, 0.0):
        yield _disagreement(field, claimed, computed)


def _width(estimate: dict[str, Any]) -> float:
    low, high = estimate["low"], estimate["high"]
    return 0.0 if low is None or high is None else high - low


def _is_near(claimed: Any, computed: Any, distance: float) -> bool:
    if isinstance(claimed, float) and isinstance(computed, float):
        return math.isclose(claimed, computed, rel_tol=_SAME, abs_tol=max(distance, _SAME))
    return type(claimed) is type(computed) and bool(claimed == computed)


def _disagreement(field: str, claimed: Any, computed: Any) -> Disagreement:
    return Disagreement(field=one_line(field), claimed=_shown(claimed), computed=_shown(computed))


def _shown(value: Any) -> str:
    return f"{value!r:.80}" if not isinstance(value, (dict, list)) else f"a {type(value).__name__}"
