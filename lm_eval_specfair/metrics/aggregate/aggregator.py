"""Adds up records by group and document, so that a run need not fit into memory."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lm_eval_specfair.groups import assign as grouping
from lm_eval_specfair.groups.task_facts import TaskFacts
from lm_eval_specfair.groups.user_file import UserGroups
from lm_eval_specfair.metrics.aggregate import clusters
from lm_eval_specfair.metrics.aggregate.clusters import Numbers, places, put_together, units_of
from lm_eval_specfair.metrics.aggregate.index import Members
from lm_eval_specfair.metrics.aggregate.request_table import RequestTable, Segment
from lm_eval_specfair.metrics.aggregate.sums import ANSWER_QUALITY, COLUMNS, INDEX, Sums
from lm_eval_specfair.metrics.arrays import Array
from lm_eval_specfair.records import Record, Settings

REST = "(rest)"
"""Groups that are not compared, but for the one without a name: only the whole run needs them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunCounts:
    """What a report rests on, all groups together.

    Attributes:
        requests: Requests.
        documents: Documents that they belong to.
        generated_tokens: Tokens emitted.
        generated_bytes: UTF-8 bytes of the generated text.
        spec_steps: Draft-and-verify steps.
        paired_requests: Requests that were also decoded plainly.
        agreeing_baselines: Greedy ones among them whose tokens equal the plain ones.
        differing_baselines: Greedy ones among them whose tokens differ.
        infinite_requests: Requests with an infinite KL divergence (top-k, top-p).
    """

    requests: int = 0
    documents: int = 0
    generated_tokens: int = 0
    generated_bytes: int = 0
    spec_steps: int = 0
    paired_requests: int = 0
    agreeing_baselines: int = 0
    differing_baselines: int = 0
    infinite_requests: int = 0


class Aggregator:
    """Sums of the records that were added so far.

    Attributes:
        group_by: What makes a group.
        quality: Scores of the documents' answers, by task and document, where somebody knows them.
    """

    def __init__(self, group_by: str, mapping: UserGroups | None = None) -> None:
        """Start with nothing.

        Args:
            group_by: What makes a group (`groups.assign.groups_of`).
            mapping: The user's own groups.
        """
        self.group_by = grouping.canonical_key(group_by)
        self.quality: Mapping[tuple[str, int], float] = {}
        self._members = Members(self.group_by, mapping or UserGroups())
        self._table = RequestTable()
        self._agreeing = self._differing = 0
        self._totals: dict[str | None, Array] = {}
        self._of_segments: dict[Segment, Array] = {}

    def add(self, record: Record, facts: TaskFacts, *, run: str = "") -> None:
        """Count one request, in each of its groups.

        Args:
            record: The request.
            facts: What its run says of its task.
            run: The run it belongs to, where several are read together.
        """
        member, task = self._members.of(record, facts, run)
        self._table.add(record, member=member, task=task, run=self._members.runs[run])
        self._agreeing += record.baseline_agrees is True
        self._differing += record.baseline_agrees is False
        self._totals.clear()
        self._of_segments.clear()

    @property
    def settings(self) -> Counter[Settings]:
        """Requests by the settings they were decoded with."""
        numbers = self._table.numbers
        counted = np.bincount(
            self._table.rows.column("settings").astype(int), minlength=len(numbers)
        )
        return Counter({each: int(counted[n]) for each, n in numbers.items() if each is not None})

    @property
    def ungrouped(self) -> Counter[str]:
        """Requests without a group, by task."""
        found: Counter[str] = Counter()
        tasks = list(self._members.tasks)
        if grouping.NO_GROUP in self._members.groups:
            for segment in self._segments(grouping.NO_GROUP):
                found[tasks[segment.task]] += segment.end - segment.start
        return found

    @property
    def counts(self) -> RunCounts:
        """What was counted, all groups together."""
        rows = self._table.rows
        tokens, written, steps = (
            int(np.nansum(rows.column(name)))
            for name in ("num_generated_tokens", "num_generated_bytes", "num_spec_steps")
        )
        tasks, documents = rows.ids[1], rows.ids[2]
        order = np.lexsort((documents, tasks))
        new = (np.diff(tasks[order]) != 0) | (np.diff(documents[order]) != 0)
        return RunCounts(
            requests=len(order),
            documents=int(new.sum()) + bool(len(order)),
            generated_tokens=tokens,
            generated_bytes=written,
            spec_steps=steps,
            paired_requests=int((~np.isnan(rows.column("baseline_seconds"))).sum()),
            agreeing_baselines=self._agreeing,
            differing_baselines=self._differing,
            infinite_requests=int((rows.column("num_infinite_positions") > 0).sum()),
        )

    @property
    def requests(self) -> dict[str, int]:
        """Requests of each group."""
        return {
            group: sum(segment.end - segment.start for segment in self._segments(group))
            for group in self._members.groups
        }

    @property
    def resource_classes(self) -> dict[str, str]:
        """The resource class of each group whose requests all name the same one."""
        return self._members.resource_classes

    @property
    def repetitions(self) -> dict[str, list[str]]:
        """What may have measured the same groups several times: the names of runs, and of suites.

        A suite is what remains of a task's name without the part that names the group.
        """
        return {"runs": list(self._members.runs), "suites": sorted(set(self._members.suites))}

    def total(self, group: str | None) -> Sums:
        """Sums of one group; None for all."""
        if group not in self._totals:
            rows = self._table.rows
            segments = rows.segments if group is None else self._segments(group)
            for _ in self._sums([each for each in segments if each not in self._of_segments]):
                pass  # they are kept on the way
            self._totals[group] = np.sum([self._of_segments[each] for each in segments], axis=0)
        return Sums(self._totals[group])

    def groups_within(self, kind: str, name: str) -> set[str]:
        """The groups that one of the `repetitions` has requests of."""
        rows, names = self._table.rows, list(self._members.groups)
        if kind == "runs":
            members = set(np.unique(rows.ids[0, rows.ids[3] == self._members.runs[name]]).tolist())
        else:
            members = {
                each.member for each in rows.segments if self._members.suites[each.task] == name
            }
        return {
            names[n] for groups, own in self._members.sets.items() if own in members for n in groups
        }

    def total_within(self, kind: str, name: str, group: str) -> Sums:
        """Sums of one group in one of the `repetitions`."""
        segments, run = self._segments(group), None
        if kind == "runs":
            run = self._members.runs[name]
        else:
            segments = [each for each in segments if self._members.suites[each.task] == name]
        found = [each.sum(0) for _, each in self._sums(segments, run)]
        return Sums(np.sum([np.zeros(len(COLUMNS)), *found], axis=0))

    def documents(self) -> Iterator[tuple[list[str], Array]]:
        """Sums of each document, shape (num_documents, len(COLUMNS)), by the groups they are in."""
        names, sets = (
            list(self._members.groups),
            {n: groups for groups, n in self._members.sets.items()},
        )
        segments = self._table.rows.segments
        for segment, (_, sums) in zip(segments, self._sums(segments), strict=True):
            yield [names[group] for group in sets[segment.member]], sums

    def are_parallel(self, groups: Sequence[str]) -> bool:
        """Whether these groups have the same documents, up to translation, and share none."""
        if len(groups) < 2 or self._overlap:
            return False
        rows = self._table.rows

        def documents_of(group: str) -> Numbers:
            segments = self._segments(group)
            numbers = [np.unique(rows.ids[2, each.start : each.end]) for each in segments]
            return np.stack(self._ordered(segments, numbers)[1][:2])

        return clusters.are_parallel(map(documents_of, groups))

    def blocks(self, compared: Sequence[str]) -> tuple[list[Array], list[str]]:
        """Sums by document, in blocks of groups whose documents are drawn together.

        Of very many documents several are put together (`metrics.aggregate.clusters`).

        Args:
            compared: The groups between which differences are taken: one block if they are
                parallel, else one each. The remaining groups make up the last block, where each
                document belongs to one group; it matters only for figures of the whole run.

        Returns:
            Arrays of shape (num_documents, num_groups, num_columns), and all groups' names in
            their order; `NO_GROUP` keeps its name, what else remains is `REST`. Where groups share
            documents there is one block; its last column, which belongs to no group, takes off
            what the sum over groups counts more than once.
        """
        rest = [group for group in self._members.groups if group not in compared]
        alone = [group for group in rest if group == grouping.NO_GROUP]
        others = [group for group in rest if group != grouping.NO_GROUP]
        order = [*compared, *alone, *([REST] if others else [])]
        if self._overlap:
            return [self._overlapping(compared, alone, others)], order
        if self.are_parallel(compared):
            blocks = [np.concatenate([self._block([group]) for group in compared], axis=1)]
        else:
            blocks = [self._block([group]) for group in compared]
        last = [self._block(groups) for groups in (alone, others) if groups]
        for place, block in enumerate(last):
            wide = np.zeros((len(block), len(last), len(COLUMNS)))
            wide[:, place] = block[:, 0]
            last[place] = wide
        return [*blocks, *([np.concatenate(last)] if last else [])], order

    @property
    def _overlap(self) -> bool:
        """Whether a request belongs to several groups."""
        return any(len(groups) > 1 for groups in self._members.sets)

    def _segments(self, group: str) -> list[Segment]:
        number = self._members.groups[group]
        sets = {member for groups, member in self._members.sets.items() if number in groups}
        return [each for each in self._table.rows.segments if each.member in sets]

    def _sums(
        self, segments: Sequence[Segment], run: int | None = None
    ) -> Iterator[tuple[Numbers, Array]]:
        """Numbers and sums of the documents of each segment."""
        tasks = list(self._members.tasks)
        for segment in segments:
            documents, sums = self._table.rows.sums(segment, run)
            if self.quality:
                task = tasks[segment.task]
                scores = [self.quality.get((task, int(number))) for number in documents]
                known = np.array([score is not None for score in scores], dtype=bool)
                first = INDEX[f"{ANSWER_QUALITY}.numerator"]
                sums[known, first] = [score for score in scores if score is not None]
                sums[known, first + 1 : first + 3] = 1
            if run is None:
                self._of_segments[segment] = sums.sum(0)
            yield documents, sums

    def _ordered(
        self, segments: Sequence[Segment], documents: Sequence[Numbers]
    ) -> tuple[Numbers, tuple[Numbers, Numbers, Numbers]]:
        """The order of documents that is the same in every group and run, and who they then are.

        Returns:
            The order, and their suites' places, their numbers and their tasks' places.
        """
        suites, tasks = places(self._members.suites), places(list(self._members.tasks))
        sizes = [len(each) for each in documents]
        numbers = np.concatenate(documents)
        of_task = np.array([each.task for each in segments])
        suite, task = (np.repeat(each[of_task], sizes) for each in (suites, tasks))
        order = np.lexsort((task, numbers, suite))
        return order, (suite[order], numbers[order], task[order])

    def _block(self, groups: Sequence[str]) -> Array:
        """One block of some groups put together, shape (num_units, 1, num_columns)."""
        segments = [segment for group in groups for segment in self._segments(group)]
        documents, sums = zip(*self._sums(segments), strict=True)
        order, (suite, numbers, _) = self._ordered(segments, documents)
        units = units_of(sorted(set(self._members.suites)), suite, numbers)
        return put_together(np.concatenate(sums)[order], units)[:, None]

    def _overlapping(
        self, compared: Sequence[str], alone: Sequence[str], others: Sequence[str]
    ) -> Array:
        """All documents with their sums in each group, shape (num_units, groups + 1, columns)."""
        columns = {group: place for place, group in enumerate([*compared, *alone])}
        columns |= dict.fromkeys(others, len(columns))
        names, sets = (
            list(self._members.groups),
            {n: groups for groups, n in self._members.sets.items()},
        )
        segments = self._table.rows.segments
        documents, sums = zip(*self._sums(segments), strict=True)
        order, (suite, numbers, task) = self._ordered(segments, documents)
        new = (np.diff(suite) != 0) | (np.diff(numbers) != 0) | (np.diff(task) != 0)
        firsts = np.concatenate([[0], np.flatnonzero(new) + 1])
        units = units_of(sorted(set(self._members.suites)), suite[firsts], numbers[firsts])
        unit = np.empty(len(order), dtype=np.intp)
        unit[order] = units[np.concatenate([[0], np.cumsum(new)])]
        block = np.zeros((units.max() + 1, len(set(columns.values())) + 1, len(COLUMNS)))
        start = 0
        for segment, rows in zip(segments, sums, strict=True):
            own = unit[start : start + len(rows)]
            groups = sets[segment.member]
            for group in groups:
                np.add.at(block[:, columns[names[group]]], own, rows)
            if len(groups) > 1:
                np.add.at(block[:, -1], own, -(len(groups) - 1) * rows)
            start += len(rows)
        return block
