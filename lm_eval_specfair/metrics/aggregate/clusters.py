"""Units of documents that are drawn together: at most 1,000, the same in every group and run.

An interval needs to know how documents scatter, which a thousand units tell as well as a million.
Sums of k documents scatter k times as much, and there are k times fewer of them; bias and skewness,
which BCa takes from them, stay the same too.
"""

import zlib
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from lm_eval_specfair.metrics.arrays import Array

Numbers = NDArray[np.int64]

MAX_UNITS = 1_000  # units that are distinguished when documents are drawn


def places(names: Sequence[str]) -> Numbers:
    """The place of each name among them in alphabetical order; equal ones share theirs."""
    return np.unique(names, return_inverse=True)[1]


def are_parallel(groups: Iterable[Numbers]) -> bool:
    """Whether groups hold the same documents, up to translation, and each of them once.

    Of each group: suites and numbers of its documents in order, shape (2, num_documents).
    """
    first = None
    for documents in groups:
        if (np.diff(documents) == 0).all(0).any():
            return False
        if first is not None and not np.array_equal(documents, first):
            return False
        first = documents
    return True


def units_of(suites: Sequence[str], suite: Numbers, documents: Numbers) -> NDArray[np.intp]:
    """The unit that each document is drawn with: numbers from 0, each at least once.

    Up to `MAX_UNITS` documents are a unit each; of more, which come together depends on their suite
    and number alone. `suite` holds places in `suites`; documents are in order.
    """
    count = len(documents)
    if count <= MAX_UNITS:
        return np.arange(count)
    salt = np.array([zlib.crc32(name.encode()) for name in suites], dtype=np.uint64)
    mixed = _mixed((salt[suite] << np.uint64(32)) ^ documents.astype(np.uint64))
    units = np.empty(count, dtype=np.intp)
    units[np.argsort(mixed, kind="stable")] = np.arange(count) * MAX_UNITS // count
    return units


def put_together(rows: Array, units: NDArray[np.intp]) -> Array:
    """Sums by unit, shape (num_units, num_columns)."""
    if len(units) <= MAX_UNITS:
        return rows
    found = np.zeros((units.max() + 1, rows.shape[1]))
    add_by_unit(found, units, rows)
    return found


def add_by_unit(sums: Array, units: NDArray[np.intp], rows: Array) -> None:
    """Add each row to the sums of its unit, shape (num_units, num_columns)."""
    for column in np.flatnonzero(rows.any(0)):  # of many sums nothing is known
        sums[:, column] += np.bincount(units, rows[:, column], len(sums))


def _mixed(numbers: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Numbers without order (SplitMix64, Steele, Lea and Flood 2014)."""
    with np.errstate(over="ignore"):
        z = numbers + np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
