"""What the lists of records add up to, as numbers that invariants are about."""

from collections.abc import Callable

import numpy as np

from lm_eval_specfair.records.record_batch import FloatColumn, Lists


def summed(lists: Lists, values: FloatColumn) -> FloatColumn:
    """Sums of each record's values, (num_records,)."""
    sums = np.bincount(lists.rows, weights=values, minlength=len(lists.lengths))
    return np.asarray(sums, dtype=np.float64)


def _most(lists: Lists) -> FloatColumn:
    most, there = np.zeros(len(lists.lengths)), lists.lengths > 0
    if there.any():
        starts = lists.ends - np.maximum(lists.lengths, 0)
        most[there] = np.maximum.reduceat(lists.values, starts[there])
    return most


LIST_COLUMNS: dict[str, dict[str, Callable[[Lists], FloatColumn]]] = {
    "acceptance_histogram": {
        "histogram_length": lambda lists: lists.lengths.astype(np.float64),
        "histogram_steps": lambda lists: summed(lists, lists.values.astype(np.float64)),
        "histogram_accepted": lambda lists: summed(
            lists, lists.values.astype(np.float64) * lists.offsets
        ),
    },
    "drafted_per_step": {
        "drafted_steps": lambda lists: lists.lengths.astype(np.float64),
        "drafted_sum": lambda lists: summed(lists, lists.values.astype(np.float64)),
        "drafted_most": _most,
    },
    "accepted_per_step": {
        "accepted_steps": lambda lists: lists.lengths.astype(np.float64),
        "accepted_sum": lambda lists: summed(lists, lists.values.astype(np.float64)),
    },
}
"""By list, the columns that follow from it; NaN where there is no list is put in later."""
