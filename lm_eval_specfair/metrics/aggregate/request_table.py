"""Requests in a few arrays, sorted by group set, task and document.

Of a record only its numbers are kept, so that a run of a million requests fits into memory.
"""

import itertools
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from lm_eval_specfair.metrics.aggregate.clusters import Numbers
from lm_eval_specfair.metrics.aggregate.columns import NAMES, Requests, requests_of
from lm_eval_specfair.metrics.aggregate.sums import INDEX, PER_DOCUMENT, addends_of
from lm_eval_specfair.metrics.arrays import Array
from lm_eval_specfair.records import Settings
from lm_eval_specfair.records.record_batch import RecordBatch


@dataclass(frozen=True, kw_only=True, slots=True)
class Segment:
    """Requests of one task that belong to the same groups: the rows from `start` to before `end`.

    `member` is the number of their set of groups.
    """

    member: int
    task: int
    start: int
    end: int


@dataclass(frozen=True)
class SortedRequests:
    """Requests, sorted by set of groups, task and document."""

    table: Array  # as in `Requests`, without columns that hold nothing
    columns: NDArray[np.intp]  # which columns of `Requests` these are
    ids: Numbers  # set of groups, task, document and run, (4, num_requests)

    @cached_property
    def segments(self) -> list[Segment]:
        members, tasks = self.ids[:2]
        new = (np.diff(members) != 0) | (np.diff(tasks) != 0)
        edges = [0, *(np.flatnonzero(new) + 1).tolist(), len(members)]
        return [
            Segment(member=int(members[start]), task=int(tasks[start]), start=start, end=end)
            for start, end in itertools.pairwise(edges)
            if end > start
        ]

    def column(self, name: str) -> Array:
        """One field of `Requests`, shape (num_requests,)."""
        places = np.flatnonzero(self.columns == NAMES.index(name))
        if not len(places):
            return np.full(len(self.table), np.nan)
        return self.table[:, places[0]]

    def sums(self, segment: Segment, run: int | None = None) -> tuple[Numbers, Array]:
        """The documents' numbers within their task and their sums, (num_documents, len(COLUMNS)).

        With `run`, only of that run's requests.
        """
        chosen = np.arange(segment.start, segment.end)
        if run is not None:
            chosen = chosen[self.ids[3, chosen] == run]
        table = np.full((len(chosen), len(NAMES)), np.nan)
        table[:, self.columns] = self.table[chosen]
        rows, documents = addends_of(Requests(table)), self.ids[2, chosen]
        new = np.ones(len(documents), dtype=bool)
        new[1:] = np.diff(documents) != 0
        firsts = np.flatnonzero(new)
        if len(firsts) < len(chosen):
            rows = np.add.reduceat(rows, firsts, axis=0)
            for name in PER_DOCUMENT:  # however many requests it makes
                counted = rows[:, INDEX[f"{name}.requests"]] > 0
                rows[:, INDEX[f"{name}.denominator"]] = counted
        return documents[firsts], rows


class RequestTable:
    """Grows by batches of records; read it by `rows`."""

    def __init__(self) -> None:
        self.numbers: dict[Settings | None, int] = {}
        self._parts: list[SortedRequests] = []
        self._is_sorted = False

    def add(self, batch: RecordBatch, ids: Numbers) -> None:
        """Take in requests; `ids` as in `SortedRequests`, in the order of the batch."""
        for settings in batch.settings.values:
            self.numbers.setdefault(settings, len(self.numbers))
        table = requests_of(batch, self.numbers).table
        columns = np.flatnonzero(~np.isnan(table).all(0))
        self._parts.append(SortedRequests(table[:, columns], columns, ids))
        self._is_sorted = False

    @property
    def rows(self) -> SortedRequests:
        if not self._is_sorted:
            self._parts = [_merged(self._parts)]
            self._is_sorted = True
        return self._parts[0]


def _merged(parts: list[SortedRequests]) -> SortedRequests:
    if not parts:
        return SortedRequests(
            np.empty((0, 0)), np.empty(0, dtype=np.intp), np.empty((4, 0), dtype=np.int64)
        )
    columns = np.unique(np.concatenate([part.columns for part in parts]))
    ids = np.concatenate([part.ids for part in parts], axis=1)
    order = np.lexsort((ids[3], ids[2], ids[1], ids[0]))
    places = np.empty(len(order), dtype=np.intp)
    places[order] = np.arange(len(order))
    table, start = np.full((len(order), len(columns)), np.nan), 0
    for part in parts:
        end = start + len(part.table)
        target = places[start:end, None], np.searchsorted(columns, part.columns)
        table[target] = part.table
        start = end
    return SortedRequests(table, columns, ids[:, order])
