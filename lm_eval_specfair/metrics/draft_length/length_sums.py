"""The texts of runs, replayed with every draft length, as sums by group and document.

Everything a policy is chosen from is a sum over documents, so that documents can be left out or
drawn again. Knows neither costs nor choices.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lm_eval_specfair.groups import assign as grouping
from lm_eval_specfair.groups.task_facts import TaskFacts
from lm_eval_specfair.metrics.draft_length.recount import (
    Array,
    Marks,
    chance_of_unknown,
    marks_of,
    position_counts,
    replay,
)
from lm_eval_specfair.records import Record

# Of the requests that were also decoded plainly.
_PAIRED = (
    "baseline_seconds",
    "baseline_generated_tokens",
    "decode_seconds",
    "num_spec_steps",
    "num_draft_tokens",
    "draft_seconds",
)
_OPTIONAL = "draft_seconds"  # a backend may not know it
_DELTA = 0.01  # for the derivative by the chance at unknown tokens

_Document = tuple[str, int]  # task and number


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Where what is in the last axis of the sums.

    Attributes:
        measured: The draft lengths that runs were made with, ascending.
        longest: The longest draft length replayed.
    """

    measured: Sequence[int]
    longest: int

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
        """Their number."""
        return self._texts_end + 4 * (self.longest + 1)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Text:
    document: _Document
    paired: Array
    length: int
    marks: Marks
    positions: Array


class DraftLengths:
    """The texts of runs, ready to be replayed.

    Attributes:
        group_by: What makes a group.
        requests: Requests that generate text, by group.
    """

    def __init__(self, group_by: str, measured: Sequence[int], longest: int) -> None:
        """Start with nothing; draft lengths up to `longest` are replayed."""
        self.group_by = grouping.canonical_key(group_by)
        self.columns = Columns(measured=sorted(set(measured)), longest=longest)
        self.requests: dict[str, int] = defaultdict(int)
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

    def blocks(self, groups: Sequence[str]) -> list[Array]:
        """Sums by document, in blocks of groups whose documents are drawn together.

        Args:
            groups: All that matter: groups between which documents are shared as translations make
                up one block, others one each.

        Returns:
            Arrays of shape (num_documents, num_groups, num_columns).
        """
        rows = self._rows(groups)
        keys = [sorted(self._parallel_keys[each] for each in one) for one in rows]
        arrays = [
            np.stack([one[each] for each in sorted(one, key=self._parallel_keys.__getitem__)])
            for one in rows
        ]
        unique = len(set(keys[0])) == len(keys[0])
        if len(keys) > 1 and unique and all(each == keys[0] for each in keys):
            return [np.stack(arrays, axis=1)]
        return [each[:, None] for each in arrays]

    def _rows(self, groups: Sequence[str]) -> list[dict[_Document, Array]]:
        """Sums of each document, by group."""
        columns, texts, chances = self.columns, list[_Text](), list[float]()
        positions = []
        for group in groups:
            mine = self._texts[group]
            position, chance = chance_of_unknown(np.sum([each.positions for each in mine], axis=0))
            texts += mine
            chances += [chance] * len(mine)
            positions += [position] * len(mine)
        table = np.zeros((len(texts), columns.total))
        for row, text, position in zip(table, texts, positions, strict=True):
            row[columns.paired(text.length)] = text.paired
            row[columns.texts] = (1, len(text.marks.tokens), *text.positions[:, position])
        marks, at = [text.marks for text in texts], np.array(chances)
        low, high = np.maximum(at - _DELTA, 0.0), np.minimum(at + _DELTA, 1.0)
        for length in range(columns.longest + 1):
            here, below, above = (replay(marks, length, each) for each in (at, low, high))
            table[:, columns.replayed(length)] = np.stack(
                [
                    here.steps,
                    here.drafted,
                    (above.steps - below.steps) / (high - low),
                    (above.drafted - below.drafted) / (high - low),
                ],
                axis=1,
            )
        found, first = [], 0
        for group in groups:
            rows: dict[_Document, Array] = {}
            for text in self._texts[group]:
                row = table[first]
                rows[text.document] = rows[text.document] + row if text.document in rows else row
                first += 1
            found.append(rows)
        return found


def _paired(record: Record) -> Array:
    """What a request adds to the paired sums; nothing where it was not decoded both ways."""
    found = {name: getattr(record, name) for name in _PAIRED}
    if any(value is None for name, value in found.items() if name != _OPTIONAL):
        return np.zeros(len(_PAIRED))
    return np.array([np.nan if value is None else value for value in found.values()], dtype=float)
