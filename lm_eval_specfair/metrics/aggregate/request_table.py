"""Requests in a few arrays, sorted by group set, task and document.

Of a record only its numbers are kept, so that a run of a million requests fits into memory.
"""

import itertools
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lm_eval_specfair.metrics.aggregate.addends import addends_of
from lm_eval_specfair.metrics.aggregate.clusters import Numbers
from lm_eval_specfair.metrics.aggregate.columns import NAMES, Requests, requests_of
from lm_eval_specfair.metrics.aggregate.sums import INDEX, PER_DOCUMENT, RATIOS
from lm_eval_specfair.metrics.arrays import Array
from lm_eval_specfair.records import Settings
from lm_eval_specfair.records.record_batch import RecordBatch

_AT_ONCE = 4_096  # requests whose sums are in memory together, but for documents of more


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

    columns: Mapping[str, Array]  # of `Requests`, in the order in which these came
    order: NDArray[np.intp]  # of these, (num_requests,)
    ids: Numbers  # set of groups, task, document and run, (4, num_requests), sorted

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

    @property
    def num_documents(self) -> int:
        """How many documents the tasks have together, whatever groups they belong to."""
        order = np.lexsort(self.ids[2:0:-1])
        return int((np.diff(self.ids[1:3, order], prepend=-1) != 0).any(0).sum())

    def documents(self, segment: Segment) -> Numbers:
        """The different documents' numbers within their task, in order."""
        return np.unique(self.ids[2, segment.start : segment.end])

    def sums(
        self, segment: Segment, run: int | None = None, ratios: Collection[str] = RATIOS
    ) -> Iterator[tuple[Numbers, Array]]:
        """The documents' numbers within their task and their sums, (num_documents, len(COLUMNS)).

        Some documents at a time, each once. With `run`, only of that run's requests; with `ratios`,
        only their sums.
        """
        chosen = np.arange(segment.start, segment.end)
        if run is not None:
            chosen = chosen[self.ids[3, chosen] == run]
        documents = self.ids[2, chosen]
        firsts = np.flatnonzero(np.concatenate([[True], np.diff(documents) != 0])[: len(chosen)])
        # A part ends with a document.
        ends = np.searchsorted(firsts, np.arange(0, len(chosen), _AT_ONCE))
        edges = firsts[np.unique(ends[ends < len(firsts)])].tolist()
        for start, end in itertools.pairwise([*edges, len(chosen)]):
            own = firsts[(firsts >= start) & (firsts < end)]
            rows = addends_of(
                Requests(self.columns, end - start, self.order[chosen[start:end]]), ratios
            )
            if len(own) < end - start:
                rows = np.add.reduceat(rows, own - start, axis=0)
                for name in PER_DOCUMENT:  # however many requests it makes
                    counted = rows[:, INDEX[f"{name}.requests"]] > 0
                    rows[:, INDEX[f"{name}.denominator"]] = counted
            yield documents[own], rows


class GrowingColumn:
    """One number of all requests so far; grows in place, so that it is there only once."""

    def __init__(self, values: NDArray[Any]) -> None:
        """Start with values, which stay as they are."""
        self._values = values
        self._size = len(values)
        self._is_lent = True  # then a copy grows

    def add(self, values: NDArray[Any]) -> None:
        size = self._size + len(values)
        if self._is_lent:
            self._values, self._is_lent = self._values.copy(), False
        if size > len(self._values):
            self._values.resize(size + size // 8, refcheck=False)
        self._values[self._size : size] = values
        self._size = size

    @property
    def values(self) -> NDArray[Any]:
        self._is_lent = True
        return self._values[: self._size]


class RequestTable:
    """The numbers of requests, in the order in which they came; grows by batches of records."""

    def __init__(self) -> None:
        self.settings: dict[Settings | None, int] = {}
        self._columns: dict[str, GrowingColumn] = {}
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def add(self, batch: RecordBatch, costs: Sequence[float] | None = None) -> None:
        """Take in requests; `costs` are c, v and o of a replayed run."""
        for settings in batch.settings.values:
            self.settings.setdefault(settings, len(self.settings))
        requests = requests_of(batch, self.settings, costs)
        for name in NAMES:
            values = requests[name]
            if name not in self._columns and not np.isnan(values).all():
                self._columns[name] = GrowingColumn(np.full(self._size, np.nan))
            if name in self._columns:
                self._columns[name].add(values)
        self._size += len(batch)

    def column(self, name: str) -> Array:
        """One field of `Requests`, shape (num_requests,)."""
        column = self._columns.get(name)
        return np.full(self._size, np.nan) if column is None else column.values

    def sorted_by(self, ids: Numbers) -> SortedRequests:
        """All requests, in order of their `ids`, as in `SortedRequests`."""
        order = np.lexsort((ids[3], ids[2], ids[1], ids[0]))
        columns = {name: column.values for name, column in self._columns.items()}
        return SortedRequests(columns, order, ids[:, order])
