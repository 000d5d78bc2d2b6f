"""Requests in a few arrays, sorted by group set, task and document.

Of a record only its numbers are kept, so that a run of a million requests fits into memory.
"""

import itertools
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lm_eval_specfair.metrics.aggregate.clusters import Numbers
from lm_eval_specfair.metrics.aggregate.columns import NAMES, Requests, requests_of
from lm_eval_specfair.metrics.aggregate.sums import INDEX, PER_DOCUMENT, RATIOS, addends_of
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

    columns: dict[int, Array]  # by their number in `Requests`; those that hold nothing are left out
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
        values = self.columns.get(NAMES.index(name))
        return np.full(self.ids.shape[1], np.nan) if values is None else values

    def sums(
        self, segment: Segment, run: int | None = None, ratios: Collection[str] = RATIOS
    ) -> tuple[Numbers, Array]:
        """The documents' numbers within their task and their sums, (num_documents, len(COLUMNS)).

        With `run`, only of that run's requests; with `ratios`, only their sums.
        """
        chosen = np.arange(segment.start, segment.end)
        if run is not None:
            chosen = chosen[self.ids[3, chosen] == run]
        table = np.full((len(chosen), len(NAMES)), np.nan)
        for number, values in self.columns.items():
            table[:, number] = values[chosen]
        rows, documents = addends_of(Requests(table), ratios), self.ids[2, chosen]
        new = np.ones(len(documents), dtype=bool)
        new[1:] = np.diff(documents) != 0
        firsts = np.flatnonzero(new)
        if len(firsts) < len(chosen):
            rows = np.add.reduceat(rows, firsts, axis=0)
            for name in PER_DOCUMENT:  # however many requests it makes
                counted = rows[:, INDEX[f"{name}.requests"]] > 0
                rows[:, INDEX[f"{name}.denominator"]] = counted
        return documents[firsts], rows


class _Column:
    """One field of all requests so far; grows in place, so that it is there only once."""

    def __init__(self, values: NDArray[Any]) -> None:
        """Start with values, which stay as they are."""
        self._values = values
        self._size = len(values)
        self._is_own = False

    def add(self, values: NDArray[Any]) -> None:
        size = self._size + len(values)
        if not self._is_own:
            self._values, self._is_own = self._values.copy(), True
        if size > len(self._values):
            self._values.resize(size + size // 8, refcheck=False)
        self._values[self._size : size] = values
        self._size = size

    @property
    def values(self) -> NDArray[Any]:
        return self._values[: self._size]


class RequestTable:
    """Grows by batches of records; read it by `rows`."""

    def __init__(self) -> None:
        self.numbers: dict[Settings | None, int] = {}
        self._columns: dict[int, _Column] = {}
        self._ids = [_Column(np.empty(0, np.int64)) for _ in range(4)]
        self._rows: SortedRequests | None = None

    def add(self, batch: RecordBatch, ids: Numbers, costs: Sequence[float] | None = None) -> None:
        """Take in requests; `ids` as in `SortedRequests`, in the order of the batch.

        `costs` are c, v and o of a replayed run.
        """
        for settings in batch.settings.values:
            self.numbers.setdefault(settings, len(self.numbers))
        table = requests_of(batch, self.numbers, costs).table
        num_before = len(self._ids[0].values)
        for number in np.flatnonzero(~np.isnan(table).all(0)).tolist():
            if number not in self._columns:
                self._columns[number] = _Column(np.full(num_before, np.nan))
        for number, column in self._columns.items():
            column.add(table[:, number])
        for column, numbers in zip(self._ids, ids, strict=True):
            column.add(numbers)
        self._rows = None

    @property
    def rows(self) -> SortedRequests:
        """All requests so far, in order."""
        if self._rows is None:
            ids = np.stack([column.values for column in self._ids])
            order = np.lexsort((ids[3], ids[2], ids[1], ids[0]))
            columns = {}
            for number, column in self._columns.items():  # one by one: each is there twice
                columns[number] = column.values[order]
                self._columns[number] = _Column(columns[number])
            ids = ids[:, order]
            self._ids = [_Column(numbers) for numbers in ids]
            self._rows = SortedRequests(columns, ids)
        return self._rows
