"""Sums of examined tokens by group, unit of documents, and place: one pass, bounded memory."""

import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lm_eval_specfair.groups import assign as grouping
from lm_eval_specfair.groups.assign import NO_GROUP
from lm_eval_specfair.groups.task_facts import TaskFacts
from lm_eval_specfair.groups.user_file import UserGroups
from lm_eval_specfair.metrics.places.costly_tokens import CostlyTokens
from lm_eval_specfair.metrics.places.examined_tokens import (
    NO_TOKEN,
    ExaminedTokens,
    Numbers,
    examined_tokens,
)
from lm_eval_specfair.metrics.places.token_classes import KINDS, NO_SCRIPT
from lm_eval_specfair.records import Record

MAX_UNITS = 256  # of documents, each drawn whole; more documents share units
MAX_DRAFT_POSITIONS = 32  # deeper ones count as the last
MAX_SCRIPTS = 32
_LARGEST_ID = 1 << 22  # above those of any vocabulary; an array has a place for each below
_EXACT, _PER_OCTAVE, _OCTAVES = 16, 4, 20
NUM_BINS = _EXACT + _PER_OCTAVE * _OCTAVES
"""Of places: each of the first 16 by itself, then four to every doubling."""

ALL = 0
"""The number of all requests, among those of groups."""

Classes = Mapping[int, tuple[str, str]]
"""Kind and script of token ids (`token_classes.classes_of`)."""


def bins_of(places: Numbers) -> Numbers:
    """The bin of each place, which counts from 0.

    Example:
        >>> bins_of(np.array([0, 15, 16, 18, 20, 32, 10**9])).tolist()
        [0, 15, 16, 16, 17, 20, 95]
    """
    octaves = np.log2(np.maximum(places, _EXACT) / _EXACT)
    # A little more than the logarithm, so that a power of two is not below itself.
    beyond = _EXACT + np.floor(_PER_OCTAVE * octaves + 1e-9).astype(np.int64)
    return np.where(places < _EXACT, places, np.minimum(beyond, NUM_BINS - 1))


class PlaceSums:
    """Kept and examined tokens, each table of shape (num_groups, MAX_UNITS, columns, 2).

    Attributes:
        groups: Numbers of groups, those of requests of no group left out.
        requests: Requests whose tokens are placed, by group's number.
        num_unplaced: Requests that were drafted for and have no steps that agree with their counts.
        tables: By name: `answer` and `context` (`bins_of` places from the start of the generated
            text, and of the prompt), `draft_position`, `kind`, `script`.
        place_sums: Sums of places over examined tokens, of answers and contexts, by group.
    """

    def __init__(self, group_by: str, mapping: UserGroups | None = None) -> None:
        self._group_by = grouping.canonical_key(group_by)
        self._mapping = mapping or UserGroups()
        self._known: dict[tuple[str, str], list[int]] = {}
        self._units: dict[bytes, int] = {}
        self._scripts: dict[str, int] = {}
        self._class_arrays: dict[int, tuple[Numbers, Numbers]] = {}
        self.groups: dict[str, int] = {}
        self.requests = np.zeros(1, np.int64)
        self.num_unplaced = 0
        columns = {
            "answer": NUM_BINS,
            "context": NUM_BINS,
            "draft_position": MAX_DRAFT_POSITIONS,
            "kind": len(KINDS),
            "script": MAX_SCRIPTS,
        }
        self.tables = {name: np.zeros((1, MAX_UNITS, n, 2)) for name, n in columns.items()}
        self.place_sums = np.zeros((1, 2))
        self.costly = CostlyTokens()

    @property
    def scripts(self) -> list[str]:
        """Of the columns of the table `script`."""
        return list(self._scripts)

    def add(
        self,
        records: Sequence[Record],
        facts: Mapping[str, TaskFacts],
        classes: Classes | None = None,
        *,
        with_tokens: bool = True,
    ) -> None:
        """Count some records of one run; `classes` are what its token ids are.

        Without `with_tokens` ids are not told apart.
        """
        found = examined_tokens(records)
        drafted = [bool(record.num_draft_tokens) and record.failure is None for record in records]
        self.num_unplaced += int((np.array(drafted, bool) & ~found.is_placed).sum())
        units = np.array([self._unit(record) for record in records], np.int64)[found.rows]
        groups = [self._groups_of(record, facts) for record in records]
        contexts = np.array([record.num_prompt_tokens for record in records], np.int64)
        columns = {
            "answer": bins_of(found.places),
            "context": bins_of(found.places + contexts[found.rows]),
            "draft_position": np.minimum(found.draft_positions, MAX_DRAFT_POSITIONS) - 1,
        }
        if classes:
            columns["kind"], columns["script"] = self._classified(found, classes)
        self._grow()
        for slot in range(max(map(len, groups), default=0)):
            of_record = np.array([own[slot] if slot < len(own) else -1 for own in groups], np.int64)
            counted = of_record[found.is_placed]
            np.add.at(self.requests, counted[counted >= 0], 1)
            of_token = of_record[found.rows]
            there = of_token >= 0
            self._add_columns(found.is_kept[there], there, of_token[there], units, columns)
            if with_tokens:
                lost = there & ~found.is_kept
                self.costly.add(of_token[lost], found.token_ids[lost], found.rejected_ids[lost])
            for column, places in enumerate((found.places, found.places + contexts[found.rows])):
                self.place_sums[:, column] += np.bincount(
                    of_token[there], weights=places[there], minlength=len(self.place_sums)
                )

    def _add_columns(
        self,
        kept: NDArray[np.bool_],
        there: NDArray[np.bool_],
        groups: Numbers,
        units: Numbers,
        columns: Mapping[str, Numbers],
    ) -> None:
        for name, column in columns.items():
            table, own = self.tables[name], column[there]
            at = ((groups * MAX_UNITS + units[there]) * table.shape[2] + own) * 2
            is_known = own >= 0
            # Of one dimension and one type, which numpy adds many times as fast.
            flat = table.reshape(-1)
            np.add.at(flat, at[is_known] + 1, 1.0)
            np.add.at(flat, at[is_known & kept], 1.0)

    def _grow(self) -> None:
        missing = len(self.groups) + 1 - len(self.requests)
        if missing > 0:
            self.requests = _longer(self.requests, missing)
            self.place_sums = _longer(self.place_sums, missing)
            self.tables = {name: _longer(table, missing) for name, table in self.tables.items()}

    def _unit(self, record: Record) -> int:
        suite, number = grouping.parallel_key(record.task, record.doc_id, self._group_by)
        key = f"{suite}\0{number}".encode()
        if key not in self._units:
            if len(self._units) >= MAX_UNITS:  # more than are told apart: by their names alone
                return zlib.crc32(key) % MAX_UNITS
            self._units[key] = len(self._units)
        return self._units[key]

    def _groups_of(self, record: Record, facts: Mapping[str, TaskFacts]) -> list[int]:
        """All requests, and the groups of this one."""
        fields = record.group_fields
        key = (record.task, repr(fields) if fields else "")
        if key not in self._known:
            assigned = grouping.assignments(
                facts[record.task], fields, self._group_by, self._mapping
            )
            named = [one.group for one in assigned if one.group != NO_GROUP]
            numbers = [self.groups.setdefault(name, len(self.groups) + 1) for name in named]
            self._known[key] = [ALL, *numbers]
        return self._known[key]

    def _classified(self, found: ExaminedTokens, classes: Classes) -> tuple[Numbers, Numbers]:
        """Kind and script of each examined token, as columns; -1 where it has none."""
        key = id(classes)
        if key not in self._class_arrays:
            known = {token: each for token, each in classes.items() if token < _LARGEST_ID}
            size = max(known, default=0) + 2  # the last is for ids that nothing tells of
            kinds = np.full(size, KINDS.index("unknown"), np.int64)
            scripts = np.full(size, -1, np.int64)
            for token, (kind, script) in known.items():
                kinds[token] = KINDS.index(kind)
                if script != NO_SCRIPT:
                    number = self._scripts.setdefault(script, len(self._scripts))
                    scripts[token] = min(number, MAX_SCRIPTS - 1)
            self._class_arrays = {key: (kinds, scripts)}  # of one run at a time
        kinds, scripts = self._class_arrays[key]
        tokens = found.token_ids
        at = np.where((tokens == NO_TOKEN) | (tokens >= len(kinds) - 1), len(kinds) - 1, tokens)
        return kinds[at], scripts[at]


def _longer(array: Any, more: int) -> Any:
    return np.concatenate([array, np.zeros((more, *array.shape[1:]), array.dtype)])
