"""Many records as columns: what metrics are made of, without an object for each record."""

import itertools
import operator
import typing
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from lm_eval_specfair.records.schema import Record, Settings

FloatColumn = NDArray[np.float64]
Numbers = NDArray[np.int64]
Value = TypeVar("Value")


def _names_of(*kinds: object) -> tuple[str, ...]:
    """The record's fields of these types, in its order; `X | None` counts as X."""
    hints = typing.get_type_hints(Record)
    bare = {
        name: [kind for kind in typing.get_args(hint) if kind is not type(None)] or [hint]
        for name, hint in hints.items()
    }
    return tuple(name for name, kinds_of in bare.items() if kinds_of[0] in kinds)


NUMBER_FIELDS = _names_of(int, float, bool)
"""Fields with one number or truth value."""
LIST_FIELDS = ("acceptance_histogram", "drafted_per_step", "accepted_per_step")
"""Fields with a list of counts, apart from the text's tokens."""
COLUMN_FIELDS = frozenset(
    {"request_id", "task", "request_type", "group_fields", "settings", "finish_reason", "failure"}
    | {*NUMBER_FIELDS, *LIST_FIELDS}
)
"""All fields that a batch is made of or checked by."""


@dataclass(frozen=True, slots=True)
class Lists:
    """A list of whole numbers for each of some records.

    `values` has all of them one after the other, `lengths` the number of each record's, -1 where
    it has no list.
    """

    values: Numbers
    lengths: Numbers

    @property
    def rows(self) -> Numbers:
        """The record that each value belongs to."""
        return np.repeat(np.arange(len(self.lengths)), np.maximum(self.lengths, 0))

    @property
    def ends(self) -> Numbers:
        """Where each record's values end."""
        return np.maximum(self.lengths, 0).cumsum()

    @property
    def offsets(self) -> Numbers:
        """The place of each value in its record's list."""
        starts = self.ends - np.maximum(self.lengths, 0)
        return np.arange(len(self.values)) - starts[self.rows]


@dataclass(frozen=True, slots=True)
class Categories(Generic[Value]):
    """One of few values for each of some records: `values[codes[i]]` is that of record i.

    `values` are in the order in which they first appear.
    """

    values: Sequence[Value]
    codes: Numbers

    @classmethod
    def of(
        cls, values: Iterable[Value], key: Callable[[Value], Hashable] | None = None
    ) -> "Categories[Value]":
        """The different ones among some values; those with the same key are the same."""
        given = list(values)
        keys: list[Any] = given if key is None else list(map(key, given))
        # Loops of C alone: a million records have four million values.
        places = {one: place for place, one in enumerate(dict.fromkeys(keys))}
        firsts = dict(zip(reversed(keys), reversed(given), strict=True))
        codes = np.fromiter(map(places.__getitem__, keys), np.int64, len(keys))
        return cls([firsts[one] for one in places], codes)


@dataclass(frozen=True, kw_only=True, slots=True)
class RecordBatch:
    """Some records as columns, each of shape (num_records,); texts and tokens are left out."""

    request_ids: Sequence[str]
    is_failed: NDArray[np.bool_]
    tasks: Categories[str]
    request_types: Categories[str]
    group_fields: Categories[dict[str, Any]]
    settings: Categories[Settings | None]
    doc_ids: Numbers
    numbers: dict[str, FloatColumn]  # of `NUMBER_FIELDS`; NaN for None, 1 and 0 for truth values
    lists: dict[str, Lists]  # of `LIST_FIELDS`

    def select(self, chosen: NDArray[np.bool_]) -> "RecordBatch":
        """Some of the records, in their order."""
        if chosen.all():
            return self

        def of(categories: Categories[Value]) -> Categories[Value]:
            return Categories(categories.values, categories.codes[chosen])

        return RecordBatch(
            request_ids=list(itertools.compress(self.request_ids, chosen.tolist())),
            is_failed=self.is_failed[chosen],
            tasks=of(self.tasks),
            request_types=of(self.request_types),
            group_fields=of(self.group_fields),
            settings=of(self.settings),
            doc_ids=self.doc_ids[chosen],
            numbers={name: values[chosen] for name, values in self.numbers.items()},
            lists={
                name: Lists(lists.values[chosen[lists.rows]], lists.lengths[chosen])
                for name, lists in self.lists.items()
            },
        )

    def __len__(self) -> int:
        return len(self.doc_ids)

    @classmethod
    def of(cls, records: Sequence[Record]) -> "RecordBatch":
        """The same from records, at least one."""
        columns = zip(*map(_NUMBERS_OF, records), strict=True)
        return cls(
            request_ids=[record.request_id for record in records],
            is_failed=np.array([record.failure is not None for record in records]),
            tasks=Categories.of(record.task for record in records),
            request_types=Categories.of(record.request_type for record in records),
            # Documents that say the same of themselves; an unordered text would hide lists' order.
            group_fields=Categories.of((record.group_fields for record in records), _fields_key),
            settings=Categories.of(record.settings for record in records),
            doc_ids=np.array([record.doc_id for record in records], dtype=np.int64),
            numbers=dict(zip(NUMBER_FIELDS, map(_numbers, columns), strict=True)),
            lists={
                name: _lists([getattr(record, name) for record in records]) for name in LIST_FIELDS
            },
        )


_NUMBERS_OF = operator.attrgetter(*NUMBER_FIELDS)


def _fields_key(fields: dict[str, Any]) -> str:
    return repr(fields) if fields else ""


def _numbers(column: Sequence[float | None]) -> FloatColumn:
    if column.count(None) == len(column):  # half of all fields, in most runs
        return np.full(len(column), np.nan)
    return np.array(column, dtype=np.float64)


def _lists(lists: Sequence[list[int] | None]) -> Lists:
    return Lists(
        np.fromiter(itertools.chain.from_iterable(filter(None, lists)), dtype=np.int64),
        np.fromiter((-1 if one is None else len(one) for one in lists), np.int64, len(lists)),
    )
