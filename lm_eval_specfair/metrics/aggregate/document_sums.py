"""Sums by document, for groups, runs and suites, and in the blocks that are drawn together."""

import hashlib
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lm_eval_specfair.groups.assign import NO_GROUP
from lm_eval_specfair.metrics.aggregate import clusters
from lm_eval_specfair.metrics.aggregate.clusters import Numbers, add_by_unit, places, units_of
from lm_eval_specfair.metrics.aggregate.index import RequestIndex
from lm_eval_specfair.metrics.aggregate.request_table import Segment, SortedRequests
from lm_eval_specfair.metrics.aggregate.sums import (
    ANSWER_QUALITY,
    COLUMNS,
    INDEX,
    RATIOS,
    Sums,
)
from lm_eval_specfair.metrics.arrays import Array, quotient

REST = "(rest)"
"""Groups that are not compared, except the one without a name: only the whole run needs them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DocumentValues:
    """A ratio of each document that has it, in order, shape (num_documents,)."""

    values: Array
    num_requests: int  # of these documents


class DocumentSums:
    """What the documents of some requests add up to.

    `quality` has scores of the documents' answers, by task and document, where known.
    """

    def __init__(
        self,
        requests: SortedRequests,
        index: RequestIndex,
        quality: Mapping[tuple[str, int], float],
    ) -> None:
        self._requests = requests
        self._index = index
        self._quality = quality
        self._groups, self._tasks = list(index.groups), list(index.tasks)
        self._groups_of_set = {number: groups for groups, number in index.sets.items()}
        self._overlap = any(len(groups) > 1 for groups in index.sets)

    def segments(self, group: str) -> list[Segment]:
        number = self._index.groups[group]
        sets = {member for groups, member in self._index.sets.items() if number in groups}
        return [segment for segment in self._requests.segments if segment.member in sets]

    def num_documents(self, group: str) -> int:
        """How many documents a group has."""
        return sum(len(self._requests.documents(part)) for part in self.segments(group))

    def values(
        self, ratios: Sequence[str]
    ) -> Iterator[tuple[str, dict[str | None, DocumentValues]]]:
        """Some of the ratios `BY_DOCUMENT` of each document, by group; None is all groups together.

        A document of several groups counts once among all.
        """
        parts: dict[str, dict[str | None, list[Array]]] = {ratio: {} for ratio in ratios}
        counts: Counter[tuple[str, str | None]] = Counter()
        for segment, _, rows in self._sums(self._requests.segments, ratios=ratios):
            groups = [self._groups[group] for group in self._groups_of_set[segment.member]]
            sums = Sums(rows)
            for ratio, found in parts.items():
                values = quotient(sums[f"{ratio}.numerator"], sums[f"{ratio}.denominator"])
                values = values[np.isfinite(values)]
                for group in (None, *groups):
                    found.setdefault(group, []).append(values)
                    counts[ratio, group] += int(sums[f"{ratio}.requests"].sum())
        for ratio in ratios:
            of_groups = {
                group: DocumentValues(
                    values=np.sort(np.concatenate(values)), num_requests=counts[ratio, group]
                )
                for group, values in parts.pop(ratio).items()
            }
            yield ratio, of_groups

    def repetitions(self, groups: Sequence[str], fewest: int) -> dict[str, dict[str, Array]]:
        """Sums of some groups in each run, and in each suite, that has at least `fewest` of them.

        A suite is what remains of a task's name without the part that names the group. By kind,
        `runs` or `suites`, and by name, arrays of shape (num_groups, len(COLUMNS)); kinds with
        fewer than two names are left out.
        """
        segments = {group: self.segments(group) for group in groups}
        parts: dict[str, dict[str, list[tuple[list[Segment], int | None]]]] = {}
        for run, number in self._index.runs.items():
            own = self._requests.ids[3] == number
            sets = set(np.unique(self._requests.ids[0, own]).tolist())
            if sum(any(part.member in sets for part in segments[g]) for g in groups) >= fewest:
                parts.setdefault("runs", {})[run] = [(segments[group], number) for group in groups]
        for suite in sorted(set(self._index.suites)):
            of_suite = [
                [part for part in segments[group] if self._index.suites[part.task] == suite]
                for group in groups
            ]
            if sum(map(bool, of_suite)) >= fewest:
                parts.setdefault("suites", {})[suite] = [(each, None) for each in of_suite]
        return {
            kind: {
                name: np.stack([self._total(*part) for part in of_groups])
                for name, of_groups in names.items()
            }
            for kind, names in parts.items()
            if len(names) > 1
        }

    def requests_of(self, group: str) -> bytes:
        """A digest of a group's requests: of their tasks, documents and runs."""
        parts = [self._requests.ids[1:, part.start : part.end] for part in self.segments(group)]
        rows = np.concatenate([np.empty((3, 0), dtype=np.int64), *parts], axis=1)
        return hashlib.blake2b(rows[:, np.lexsort(rows)].tobytes()).digest()

    def _total(self, segments: Sequence[Segment], run: int | None = None) -> Array:
        parts = [sums.sum(0) for _, _, sums in self._sums(segments, run)]
        return np.sum([np.zeros(len(COLUMNS)), *parts], axis=0)

    def are_parallel(self, groups: Sequence[str]) -> bool:
        """Whether these groups have the same documents, up to translation, and share none."""
        if len(groups) < 2 or self._overlap:
            return False

        def documents_of(group: str) -> Numbers:
            return np.stack(self._ordered(self.segments(group))[1][:2])

        return clusters.are_parallel(map(documents_of, groups))

    def order(self, compared: Sequence[str]) -> list[str]:
        """All groups' names in the order in which `blocks` have them.

        `NO_GROUP` keeps its name; what else is not compared is `REST`.
        """
        alone, others = self._not_compared(compared)
        return [*compared, *alone, *([REST] if others else [])]

    def blocks(self, compared: Sequence[str], *, is_parallel: bool) -> Iterator[Array]:
        """Sums by document of groups drawn together: (num_documents, num_groups, num_columns).

        The compared groups are one block if they are parallel (`are_parallel`), else one each. The
        others make up the last block, where each document belongs to one group; only metrics of the
        whole run need it. Where groups share documents there is one block; its last column, which
        belongs to no group, takes off what the sum over groups counts more than once.
        """
        alone, others = self._not_compared(compared)
        if self._overlap:
            yield self._overlapping(compared, alone, others)
            return
        if is_parallel:
            yield np.concatenate([self._block([group]) for group in compared], axis=1)
        else:
            yield from (self._block([group]) for group in compared)
        last = [self._block(groups) for groups in (alone, others) if groups]
        for place, block in enumerate(last):
            wide = np.zeros((len(block), len(last), len(COLUMNS)))
            wide[:, place] = block[:, 0]
            last[place] = wide
        if last:
            yield np.concatenate(last)

    def _not_compared(self, compared: Sequence[str]) -> tuple[list[str], list[str]]:
        """The group without a name, if there is one, and the others."""
        rest = [group for group in self._groups if group not in compared]
        alone = [group for group in rest if group == NO_GROUP]
        return alone, [group for group in rest if group != NO_GROUP]

    def _sums(
        self,
        segments: Sequence[Segment],
        run: int | None = None,
        ratios: Collection[str] = RATIOS,
    ) -> Iterator[tuple[Segment, Numbers, Array]]:
        """Sums of some documents of a segment at a time; each document comes once."""
        for segment in segments:
            for documents, sums in self._requests.sums(segment, run, ratios):
                if self._quality:
                    task = self._tasks[segment.task]
                    scores = [self._quality.get((task, int(number))) for number in documents]
                    known = np.array([score is not None for score in scores], dtype=bool)
                    first = INDEX[f"{ANSWER_QUALITY}.numerator"]
                    sums[known, first] = [score for score in scores if score is not None]
                    sums[known, first + 1 : first + 3] = 1
                yield segment, documents, sums

    def _ordered(
        self, segments: Sequence[Segment]
    ) -> tuple[Numbers, tuple[Numbers, Numbers, Numbers]]:
        """The order of documents that is the same in every group and run.

        Also their suites' places, their numbers and their tasks' places in that order.
        """
        documents = [self._requests.documents(segment) for segment in segments]
        sizes = [len(numbers) for numbers in documents]
        numbers = np.concatenate(documents)
        of_task = np.array([segment.task for segment in segments])
        suite, task = (
            np.repeat(places(names)[of_task], sizes) for names in (self._index.suites, self._tasks)
        )
        order = np.lexsort((task, numbers, suite))
        return order, (suite[order], numbers[order], task[order])

    def _units(self, suite: Numbers, numbers: Numbers) -> Numbers:
        return units_of(sorted(set(self._index.suites)), suite, numbers)

    def _block(self, groups: Sequence[str]) -> Array:
        """One block of some groups put together, shape (num_units, 1, num_columns)."""
        segments = [segment for group in groups for segment in self.segments(group)]
        order, (suite, numbers, _) = self._ordered(segments)
        units = np.empty(len(order), dtype=np.intp)
        units[order] = self._units(suite, numbers)
        block = np.zeros((units.max() + 1, len(COLUMNS)))
        start = 0
        for _, documents, sums in self._sums(segments):
            add_by_unit(block, units[start : start + len(documents)], sums)
            start += len(documents)
        return block[:, None]

    def _overlapping(
        self, compared: Sequence[str], alone: Sequence[str], others: Sequence[str]
    ) -> Array:
        """All documents with their sums in each group, shape (num_units, groups + 1, columns)."""
        columns = {group: place for place, group in enumerate([*compared, *alone])}
        columns |= dict.fromkeys(others, len(columns))
        segments = self._requests.segments
        order, (suite, numbers, task) = self._ordered(segments)
        new = (np.diff(suite) != 0) | (np.diff(numbers) != 0) | (np.diff(task) != 0)
        firsts = np.concatenate([[0], np.flatnonzero(new) + 1])
        units = self._units(suite[firsts], numbers[firsts])
        unit = np.empty(len(order), dtype=np.intp)
        unit[order] = units[np.concatenate([[0], np.cumsum(new)])]
        block = np.zeros((units.max() + 1, len(set(columns.values())) + 1, len(COLUMNS)))
        start = 0
        for segment, documents, sums in self._sums(segments):
            own = unit[start : start + len(documents)]
            groups = self._groups_of_set[segment.member]
            for group in groups:
                add_by_unit(block[:, columns[self._groups[group]]], own, sums)
            if len(groups) > 1:
                add_by_unit(block[:, -1], own, -(len(groups) - 1) * sums)
            start += len(documents)
        return block
