"""Equality of records and results up to what a clock and a batch may change."""

import math
from pathlib import Path
from typing import Any

from msgspec import structs

from lm_eval_specfair.records import Record

# Times, and how many rows were decoded together.
CIRCUMSTANCES = {
    "draft_seconds",
    "verify_seconds",
    "decode_seconds",
    "prefill_seconds",
    "baseline_seconds",
    "num_active_rows_sum",
}
ROUNDING = 1e-4  # of sums in fp32, which depend on the batch


def whole_lines(file: Path) -> list[bytes]:
    """The lines of a file that end."""
    if not file.exists():
        return []
    return [line for line in file.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]


def same_values(ours: Any, theirs: Any, where: str) -> list[str]:
    """Where two values differ: floats up to rounding, all others at all."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        names = sorted({*ours, *theirs} - CIRCUMSTANCES)
        pairs = [(ours.get(name), theirs.get(name), f"{where}.{name}") for name in names]
        return [line for pair in pairs for line in same_values(*pair)]
    if isinstance(ours, float) and isinstance(theirs, float):
        close = math.isclose(ours, theirs, rel_tol=ROUNDING, abs_tol=ROUNDING)
        return [] if close or (math.isnan(ours) and math.isnan(theirs)) else [where]
    return [] if ours == theirs else [where]


def same_records(ours: dict[str, Record], theirs: dict[str, Record]) -> list[str]:
    """Where the records of two runs differ, other than in times and the batch's composition."""
    missing = [f"{name} is missing" for name in sorted(ours.keys() ^ theirs.keys())]
    for name in sorted(ours.keys() & theirs.keys()):
        pair = (structs.asdict(ours[name]), structs.asdict(theirs[name]))
        missing += same_values(*pair, name)
        # Whether they were measured is no circumstance.
        missing += [
            f"{name}.{field}"
            for field in sorted(CIRCUMSTANCES)
            if (pair[0][field] is None) != (pair[1][field] is None)
        ]
    return missing
