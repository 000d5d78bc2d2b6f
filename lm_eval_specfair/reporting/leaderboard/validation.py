"""Whether a submission says what its records say: everything is computed again and compared.

Limits: records and `run.json` are taken as they are. Who makes up whole records, with figures to
match, is not found out here; digests, texts and the command are there so that others can run it
again.
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
    """A field that is not what the files say.

    Attributes:
        field: Its path, such as `figures.groups.sw.overlap.value`.
        said: What the submission holds there.
        found: What it should hold.
    """

    field: str
    said: str
    found: str


def validate(path: Path) -> Submission:
    """Read a submission and compute everything in it again.

    Args:
        path: The file, or its folder.

    Returns:
        The submission, if it agrees.

    Raises:
        ConfigError: If it does not fit the schema, its files are missing or no plain files, or any
            field is not what they say; the fields are named.
    """
    file = path / SUBMISSION_FILE if path.is_dir() else path
    submission = read_submission(file)
    found = disagreements(submission, file.parent)
    if found:
        named = "; ".join(
            f"{each.field} is {each.said}, its files say {each.found}"
            for each in found[:_MOST_NAMED]
        )
        more = f"; and {len(found) - _MOST_NAMED} more" if len(found) > _MOST_NAMED else ""
        raise ConfigError(f"{file} does not agree with its files: {named}{more}")
    return submission


def disagreements(submission: Submission, folder: Path) -> list[Disagreement]:
    """The fields of a submission that are not what the files in its folder say.

    No path in the submission is ever opened: the folder's own files are read, and must be the ones
    that the submission names.

    Raises:
        ConfigError: If the folder's files give no submission at all.
    """
    again = pack(folder, submission.entry, group_by=submission.figures.group_by)
    found = list(_compared("", msgspec.to_builtins(submission), msgspec.to_builtins(again)))
    # A changed file changes many figures: its digest says it first.
    return sorted(found, key=lambda each: not each.field.endswith(".sha256"))


def _compared(field: str, said: Any, found: Any) -> Iterator[Disagreement]:
    if isinstance(said, dict) and isinstance(found, dict):
        is_figure = {"low", "high"} <= set(said) == set(found)
        for key in [*said, *(key for key in found if key not in said)]:
            name = f"{field}.{key}" if field else str(key)
            if key not in said or key not in found:
                yield _disagreement(name, said.get(key, "missing"), found.get(key, "nothing"))
            elif is_figure and key in ("low", "high"):
                width = _width(found)
                if not _is_near(said[key], found[key], _SAME_END * width):
                    yield _disagreement(name, said[key], found[key])
            else:
                yield from _compared(name, said[key], found[key])
    elif isinstance(said, list) and isinstance(found, list):
        if len(said) != len(found):
            yield _disagreement(field, f"{len(said)} items", f"{len(found)} items")
        for place, (one, other) in enumerate(zip(said, found, strict=False)):
            yield from _compared(f"{field}[{place}]", one, other)
    elif not _is_near(said, found, 0.0):
        yield _disagreement(field, said, found)


def _width(figure: dict[str, Any]) -> float:
    low, high = figure["low"], figure["high"]
    return 0.0 if low is None or high is None else high - low


def _is_near(said: Any, found: Any, distance: float) -> bool:
    if isinstance(said, float) and isinstance(found, float):
        return math.isclose(said, found, rel_tol=_SAME, abs_tol=max(distance, _SAME))
    return type(said) is type(found) and bool(said == found)


def _disagreement(field: str, said: Any, found: Any) -> Disagreement:
    return Disagreement(field=one_line(field), said=_shown(said), found=_shown(found))


def _shown(value: Any) -> str:
    return f"{value!r:.80}" if not isinstance(value, (dict, list)) else f"a {type(value).__name__}"
