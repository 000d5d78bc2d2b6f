"""Sums by group and document of texts replayed at every draft length.

A policy is chosen from sums over documents, so that documents can be left out or drawn again.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lm_eval_specfair.groups import assign as grouping
from lm_eval_specfair.groups.task_facts import TaskFacts
from lm_eval_specfair.metrics.aggregate.clusters import (
    Numbers,
    are_parallel,
    put_together,
    units_of,
)
from lm_eval_specfair.metrics.arrays import Array
from lm_eval_specfair.metrics.draft_length.recount import (
    Marks,
    chance_of_unknown,
    marks_of,
    position_counts,
    replay,
)
from lm_eval_specfair.records import Record

# Of the requests that were also decoded without a drafter.
_PAIRED = (
    "baseline_seconds", "baseline_generated_tokens",
    "decode_seconds", "num_spec_steps", "num_draft_tokens", "draft_seconds",
)  # fmt: skip
_OPTIONAL = "draft_seconds"  # a backend may not know it
_DELTA = 0.01  # for the derivative by the chance at unknown tokens

_Document = tuple[str, int]  # task and number


@dataclass(frozen=True, kw_only=True)
class ReplayColumns:
    """The layout of the last axis of the sums."""

    measured: Sequence[int]  # the draft lengths that runs were made with, ascending
    longest: int  # the longest draft length replayed
    candidates: Sequence[int] = ()  # those that may be chosen; all where empty

    def paired(self, length: int) -> slice:
        """The sums of the requests of one measured draft length that were decoded both ways."""
        first = self.measured.index(length) * len(_PAIRED)
        return slice(first, first + len(_PAIRED))

    @property
    def texts(self) -> slice:
        """Requests, tokens, and examined and kept tokens at the position of unknown ones."""
        return slice(self._texts_end - 4, self._texts_end)

    def replayed(self, length: int) -> slice:
        """Steps, drafted tokens, and the derivatives of both by the chance at unknown tokens."""
        first = self._texts_end + 4 * length
        return slice(first, first + 4)

    @property
    def _texts_end(self) -> int:
        return len(self.measured) * len(_PAIRED) + 4

    @property
    def total(self) -> int:
        return self._texts_end + 4 * (self.longest + 1)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Text:
    document: _Document
    paired: Array
    length: int
    marks: Marks
    positions: Array


class DraftLengths:
    """The texts of runs, ready to be replayed at draft lengths up to `longest`."""

    def __init__(
        self, group_by: str, measured: Sequence[int], longest: int, candidates: Sequence[int] = ()
    ) -> None:
        self.group_by = grouping.canonical_key(group_by)
        self.columns = ReplayColumns(
            measured=sorted(set(measured)), longest=longest, candidates=sorted(set(candidates))
        )
        self.requests: dict[str, int] = defaultdict(int)  # that generate text, by group
        self._texts: dict[str, list[_Text]] = defaultdict(list)
        self._parallel_keys: dict[_Document, tuple[str, int]] = {}
        self._generator = np.random.default_rng(0)

    def add(self, record: Record, facts: TaskFacts, length: int) -> None:
        """Take in one request of a run with drafts of this length."""
        if record.request_type != "generate_until":
            return
        marks = marks_of(record, self._generator)
        if marks is None or not len(marks.tokens):
            return
        group = grouping.group_of(facts, record.group_fields, self.group_by)
        document = (record.task, record.doc_id)
        self.requests[group] += 1
        self._parallel_keys[document] = grouping.parallel_key(*document, self.group_by)
        self._texts[group].append(
            _Text(
                document=document,
                paired=_paired(record),
                length=length,
                marks=marks,
                positions=position_counts(record, max(self.columns.measured)),
            )
        )

    @property
    def documents(self) -> dict[str, int]:
        """How many documents each group has."""
        return {
            group: len({text.document for text in texts}) for group, texts in self._texts.items()
        }

    def blocks(self, groups: Sequence[str]) -> list[Array]:
        """Sums by document, shape (num_units, num_groups, num_columns), by groups drawn together.

        Parallel groups (`metrics.aggregate.clusters`) make up one block, others one each.
        """
        suites = sorted({suite for suite, _ in self._parallel_keys.values()})
        places = {suite: place for place, suite in enumerate(suites)}
        documents: list[Numbers] = []
        arrays = []
        for rows in self._rows(groups):
            order = sorted(rows, key=lambda document: (self._parallel_keys[document], document))
            keys = [self._parallel_keys[document] for document in order]
            documents.append(np.array([(places[suite], number) for suite, number in keys]).T)
            units = units_of(suites, *documents[-1])
            arrays.append(put_together(np.stack([rows[each] for each in order]), units)[:, None])
        return [np.concatenate(arrays, axis=1)] if are_parallel(documents) else arrays

    def _rows(self, groups: Sequence[str]) -> Sequence[Mapping[_Document, Array]]:
        columns = self.columns
        unknown = {
            group: chance_of_unknown(
                np.sum([text.positions for text in self._texts[group]], axis=0)
            )
            for group in groups
        }
        owners = [group for group in groups for _ in self._texts[group]]
        texts = [text for group in groups for text in self._texts[group]]
        table = np.zeros((len(texts), columns.total))
        for row, text, group in zip(table, texts, owners, strict=True):
            row[columns.paired(text.length)] = text.paired
            position = unknown[group][0]
            row[columns.texts] = (1, len(text.marks.tokens), *text.positions[:, position])
        marks, at = [text.marks for text in texts], np.array([unknown[one][1] for one in owners])
        low, high = np.maximum(at - _DELTA, 0.0), np.minimum(at + _DELTA, 1.0)
        for length in range(columns.longest + 1):
            here, below, above = (
                np.array(replay(marks, length, chance)) for chance in (at, low, high)
            )
            slopes = (above - below) / (high - low)
            table[:, columns.replayed(length)] = np.concatenate([here, slopes]).T
        sums = {
            group: defaultdict[_Document, Array](lambda: np.zeros(columns.total))
            for group in groups
        }
        for row, text, group in zip(table, texts, owners, strict=True):
            sums[group][text.document] += row
        return list(sums.values())


def _paired(record: Record) -> Array:
    """The addends of a request to the paired sums; zeros where it was not decoded both ways."""
    values = {name: getattr(record, name) for name in _PAIRED}
    if any(value is None for name, value in values.items() if name != _OPTIONAL):
        return np.zeros(len(_PAIRED))
    return np.array([np.nan if value is None else value for value in values.values()], dtype=float)
