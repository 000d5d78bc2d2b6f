"""A sum of records by group and document, so that a run need not fit into memory."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from lm_eval_specfair.groups.assign import NO_GROUP, Assignment, canonical_key
from lm_eval_specfair.groups.task_facts import TaskFacts
from lm_eval_specfair.groups.user_file import UserGroups
from lm_eval_specfair.metrics.aggregate.document_sums import DocumentSums, DocumentValues
from lm_eval_specfair.metrics.aggregate.index import RequestIndex
from lm_eval_specfair.metrics.aggregate.request_table import (
    GrowingColumn,
    RequestTable,
    SortedRequests,
)
from lm_eval_specfair.metrics.arrays import Array
from lm_eval_specfair.records import Record, Settings
from lm_eval_specfair.records.record_batch import RecordBatch

_USUAL = "language"
_AT_ONCE = 4_096  # records that become a batch

FEWEST_GROUPS = 3
"""Groups that a run or a suite must have for its order of groups to be compared with others'."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunCounts:
    """What a report rests on, all groups together."""

    requests: int = 0  # generated and scored together
    generated_requests: int = 0
    scored_requests: int = 0
    documents: int = 0
    generated_tokens: int = 0
    generated_bytes: int = 0
    spec_steps: int = 0
    paired_requests: int = 0  # also decoded without a drafter
    agreeing_baselines: int = 0  # greedy, with the same tokens both ways
    differing_baselines: int = 0
    tied_baselines: int = 0  # of these, those that part at a tie
    faulty_baselines: int = 0  # and those that don't; the others were not looked into
    checked_requests: int = 0  # held against the target's own plain pass
    checked_tokens: int = 0
    tied_tokens: int = 0  # of these, not its most likely, but within rounding
    differing_tokens: int = 0  # and further off
    unfaithful_requests: int = 0  # with such tokens
    infinite_requests: int = 0  # with an infinite KL divergence
    infinite_by_truncation: int = 0  # of these, those with top-k or top-p


@dataclass(frozen=True, kw_only=True)
class Aggregate:
    """All that a report or a comparison is computed from."""

    group_by: str
    requests: Mapping[str, int]  # of each group
    compared: Sequence[str]  # groups with enough requests to be compared, sorted
    numbers: Mapping[str, int]  # in the blocks; of those compared and of `NO_GROUP`
    is_parallel: bool  # whether the compared groups' documents are translations
    counts: RunCounts
    settings: Counter[Settings]  # requests by their settings
    ungrouped: Counter[str]  # requests without a group, by task
    resource_classes: Mapping[str, str]  # of groups whose requests all name the same one
    _documents: DocumentSums
    by_language: "Aggregate | None" = None  # the same requests, where they have languages

    def each_block(self) -> Iterator[Array]:
        """Sums by document, (num_documents, num_groups, num_columns) (`DocumentSums.blocks`)."""
        return self._documents.blocks(self.compared, is_parallel=self.is_parallel)

    @cached_property
    def blocks(self) -> Sequence[Array]:
        """All of `each_block`."""
        return list(self.each_block())

    def requests_of(self, group: str) -> bytes:
        """What tells whether two groups, of this or another grouping, are the same requests."""
        return self._documents.requests_of(group)

    def documents_of(
        self, ratios: Sequence[str]
    ) -> Iterator[tuple[str, dict[str | None, DocumentValues]]]:
        """Some of the ratios `BY_DOCUMENT` of each document (`DocumentSums.values`)."""
        return self._documents.values(ratios)

    def num_documents(self, group: str) -> int:
        """How many documents a group has, whatever they are drawn with."""
        return self._documents.num_documents(group)

    @cached_property
    def repetitions(self) -> dict[str, dict[str, Array]]:
        """Sums of the compared groups by run, and by suite (`DocumentSums.repetitions`)."""
        return self._documents.repetitions(self.compared, FEWEST_GROUPS)


class Aggregator:
    """Takes in records, one by one or in batches.

    Attributes:
        mapping: The user's own groups.
        quality: Scores of the documents' answers, by task and document, where known.
        costs: c, v and o of the steps of replayed runs, in plain steps, by run, where named.
    """

    def __init__(
        self,
        group_by: str,
        mapping: UserGroups | None = None,
        *,
        also_by_language: bool = False,
    ) -> None:
        """Group as told; `also_by_language` too, so that figures do not hang on the grouping."""
        self.group_by = canonical_key(group_by)
        self.mapping = mapping or UserGroups()
        self._grouping = _Grouping(self.group_by, self.mapping)
        is_other = also_by_language and self.group_by != _USUAL
        self._by_language = _Grouping(_USUAL, self.mapping) if is_other else None
        self.quality: Mapping[tuple[str, int], float] = {}
        self.costs: Mapping[str, Sequence[float]] = {}
        self._table = RequestTable()
        self._checks: Counter[str] = Counter()
        # Records that wait to become a batch, those of one run, and the facts of their tasks.
        self._waiting: list[Record] = []
        self._facts: dict[str, TaskFacts] = {}
        self._run = ""

    def add(self, record: Record, facts: TaskFacts, *, run: str = "") -> None:
        """Count one request in each of its groups; `run` names its run where several are read."""
        if run != self._run or len(self._waiting) == _AT_ONCE:
            self._settle()
        self._run = run
        self._facts[facts.name] = facts
        self._waiting.append(record)

    def _settle(self) -> None:
        waiting, self._waiting = self._waiting, []
        if waiting:
            self.add_batch(RecordBatch.of(waiting), self._facts, run=self._run)

    def add_batch(
        self, batch: RecordBatch, facts: Mapping[str, TaskFacts], *, run: str = ""
    ) -> None:
        """Count requests of one run in each of their groups, with the facts of each task."""
        self._table.add(batch, self.costs.get(run))
        self._checks.update(_checks_of(batch))
        for grouping in (self._grouping, self._by_language):
            if grouping is not None:
                grouping.add(batch, facts, run)

    @property
    def groups(self) -> list[str]:
        self._settle()
        return list(self._grouping.index.groups)

    @property
    def sources(self) -> Counter[tuple[str, Assignment]]:
        """Requests by task and by group with its source."""
        self._settle()
        return self._grouping.index.sources

    def aggregate(self, min_requests: int) -> Aggregate:
        """What the records so far add up to; groups with fewer requests are not compared."""
        self._settle()
        rows = self._table.sorted_by(self._grouping.ids)
        counts, settings = self._counts(rows.num_documents), self._settings()
        usual, by_language = self._by_language, None
        if usual is not None and usual.index.groups.keys() - {NO_GROUP}:
            ordered = self._table.sorted_by(usual.ids)
            by_language = self._aggregate(usual, ordered, counts, settings, min_requests)
        found = self._aggregate(self._grouping, rows, counts, settings, min_requests)
        return replace(found, by_language=by_language)

    def _aggregate(
        self,
        grouping: "_Grouping",
        rows: SortedRequests,
        counts: RunCounts,
        settings: Counter[Settings],
        min_requests: int,
    ) -> Aggregate:
        index = grouping.index
        documents = DocumentSums(rows, index, self.quality)
        segments = {group: documents.segments(group) for group in index.groups}
        requests = {
            group: sum(part.end - part.start for part in parts) for group, parts in segments.items()
        }
        reported = sorted(group for group, n in requests.items() if n >= min_requests)
        compared = [group for group in reported if group != NO_GROUP]
        order = documents.order(compared)
        ungrouped: Counter[str] = Counter()
        tasks = list(index.tasks)
        for part in segments.get(NO_GROUP, []):
            ungrouped[tasks[part.task]] += part.end - part.start
        return Aggregate(
            group_by=grouping.group_by,
            requests=requests,
            compared=compared,
            numbers={group: order.index(group) for group in reported},
            is_parallel=documents.are_parallel(compared),
            counts=counts,
            settings=settings,
            ungrouped=ungrouped,
            resource_classes=index.resource_classes,
            _documents=documents,
        )

    def _settings(self) -> Counter[Settings]:
        counts = Counter(self._table.column("settings").tolist())
        numbers = self._table.settings.items()
        return Counter({one: counts[number] for one, number in numbers if one is not None})

    def _counts(self, num_documents: int) -> RunCounts:
        table = self._table
        tokens, written, steps = (
            int(np.nansum(table.column(name)))
            for name in ("num_generated_tokens", "num_generated_bytes", "num_spec_steps")
        )
        is_infinite = table.column("num_infinite_positions") > 0
        return RunCounts(
            requests=len(table),
            generated_requests=(generated := int((table.column("generates") == 1).sum())),
            scored_requests=len(table) - generated,
            documents=num_documents,
            generated_tokens=tokens,
            generated_bytes=written,
            spec_steps=steps,
            paired_requests=int((~np.isnan(table.column("baseline_seconds"))).sum()),
            **self._checks,
            infinite_requests=int(is_infinite.sum()),
            infinite_by_truncation=int((is_infinite & (table.column("truncates") == 1)).sum()),
        )


class _Grouping:
    """One way to group the requests of a table, which are in the order in which they came."""

    def __init__(self, group_by: str, mapping: UserGroups) -> None:
        self.group_by = group_by
        self.index = RequestIndex(group_by, mapping)
        self._ids = [GrowingColumn(np.empty(0, np.int64)) for _ in range(4)]

    @property
    def ids(self) -> NDArray[np.int64]:
        """Set of groups, task, document and run of each request, shape (4, num_requests)."""
        return np.stack([column.values for column in self._ids])

    def add(self, batch: RecordBatch, facts: Mapping[str, TaskFacts], run: str) -> None:
        num_fields = len(batch.group_fields.values)
        pairs = batch.tasks.codes * num_fields + batch.group_fields.codes
        distinct, firsts, places, counts = np.unique(
            pairs, return_index=True, return_inverse=True, return_counts=True
        )
        numbers = np.empty((2, len(distinct)), dtype=np.int64)  # sets of groups, and tasks
        for place in np.argsort(firsts).tolist():  # in the order in which records name them
            task, document = divmod(int(distinct[place]), num_fields)
            numbers[:, place] = self.index.of(
                facts[batch.tasks.values[task]],
                batch.group_fields.values[document],
                run,
                int(counts[place]),
            )
        own = np.full(len(batch), self.index.runs[run])
        for column, ids in zip(self._ids, (*numbers[:, places], batch.doc_ids, own), strict=True):
            column.add(ids)


def _checks_of(batch: RecordBatch) -> dict[str, int]:
    """What some requests add to the counts of checks."""
    agrees, ties, tokens, tied, differing = (
        batch.numbers[name]
        for name in (
            "baseline_agrees", "baseline_is_tie", "plain_pass_tokens", "plain_pass_ties",
            "plain_pass_differing",
        )
    )  # fmt: skip
    return {
        "agreeing_baselines": int((agrees == 1).sum()),
        "differing_baselines": int((agrees == 0).sum()),
        "tied_baselines": int((ties == 1).sum()),
        "faulty_baselines": int((ties == 0).sum()),
        "checked_requests": int((~np.isnan(tokens)).sum()),
        "checked_tokens": int(np.nansum(tokens)),
        "tied_tokens": int(np.nansum(tied)),
        "differing_tokens": int(np.nansum(differing)),
        "unfaithful_requests": int((differing > 0).sum()),
    }
