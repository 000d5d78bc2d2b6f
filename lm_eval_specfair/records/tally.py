"""The tally of a run's records: what they add up to by task, to hold them against later.

A run writes it into `run.json` as `totals.records` when it ends. It tells that records were lost,
doubled, merged or edited since; whoever rewrites both can't be told from an honest run.
"""

import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
from msgspec import structs

from lm_eval_specfair.records.reader import RecordBlock
from lm_eval_specfair.records.record_batch import (
    NUMBER_FIELDS,
    FloatColumn,
    Numbers,
    RecordBatch,
)
from lm_eval_specfair.records.schema import Record, Settings

KINDS = ("generated", "scored")
SUMMED = tuple(name for name in NUMBER_FIELDS if name != "doc_id")
DESCRIBED = ("settings", "hardware", "tasks")
"""Parts of `run.json` that the tally holds a digest of."""

_SAME = 1e-9  # sums of floats depend on their order in the last digits
_MODULUS = 1 << 256
# Fields in the order of their names, and none that are None: the same once the schema has more.
_encode = msgspec.json.Encoder(order="sorted").encode


class Tally:
    """Grows by batches of records.

    Attributes:
        group_fields: Requests by task, kind and what their documents say of their groups (as text).
        said: What stands behind each of these texts.
    """

    def __init__(self, *, digests: bool = False) -> None:
        """Sum up; with `digests`, so that any change of a record is told (which takes longer)."""
        self._digests = digests
        self._places: dict[tuple[str, str], int] = {}
        self._sums: FloatColumn = np.zeros((0, len(SUMMED)))
        self._requests: Counter[int] = Counter()
        self._failed: Counter[int] = Counter()
        self._content: Counter[int] = Counter()
        self.group_fields: Counter[tuple[str, str, str]] = Counter()
        self.said: dict[str, Mapping[str, str | list[str]]] = {"": {}}

    def add(self, batch: RecordBatch, records: Sequence[Record] = ()) -> None:
        """Count records; of failed ones only their number. Digests need the records themselves."""
        places = self._places_of(batch)
        missing = len(self._places) - len(self._sums)
        self._sums = np.concatenate([self._sums, np.zeros((missing, len(SUMMED)))])
        values = np.nan_to_num(np.stack([batch.numbers[name] for name in SUMMED], axis=1))
        values[batch.is_failed] = 0
        self._requests.update(places.tolist())
        self._failed.update(places[batch.is_failed].tolist())
        for number, column in enumerate(values.T):
            self._sums[:, number] += np.bincount(places, column, len(self._sums))
        if self._digests:
            for place, record in zip(places.tolist(), records, strict=True):
                self._content[place] += int.from_bytes(hashlib.sha256(_canonical(record)).digest())

    def _places_of(self, batch: RecordBatch) -> Numbers:
        """Where the sums of each record's task and kind are; notes what its document says."""
        kinds = np.array([int(each != "generate_until") for each in batch.request_types.values])
        said = [repr(fields) if fields else "" for fields in batch.group_fields.values]
        self.said |= dict(zip(said, batch.group_fields.values, strict=True))
        shape = len(batch.tasks.values), len(KINDS), len(said)
        codes = batch.tasks.codes, kinds[batch.request_types.codes], batch.group_fields.codes
        distinct, inverse, numbers = np.unique(
            np.ravel_multi_index(codes, shape), return_inverse=True, return_counts=True
        )
        places = []
        rows = np.stack([*np.unravel_index(distinct, shape), numbers], axis=1)
        for task, kind, fields, number in rows.tolist():
            key = batch.tasks.values[task], KINDS[kind]
            self.group_fields[*key, said[fields]] += number
            places.append(self._places.setdefault(key, len(self._places)))
        return np.array(places, dtype=np.int64)[inverse]

    def to_json(self, run: Mapping[str, Any]) -> dict[str, Any]:
        """What `run.json` gets as `totals.records`; `run` is the rest of it."""
        tasks: dict[str, dict[str, Any]] = {}
        for (task, kind), place in sorted(self._places.items()):
            tasks.setdefault(task, {})[kind] = {
                "requests": self._requests[place],
                "failed": self._failed[place],
                "sums": {name: value for name, value in self.sums(task, kind).items() if value},
                "group_fields": self._groups_digest(task, kind),
                "records": f"sum-sha256:{self._content[place] % _MODULUS:064x}",
            }
        return {"described": described(run), "summed": list(SUMMED), "tasks": tasks}

    def sums(self, task: str, kind: str) -> dict[str, float]:
        """Sums of fields over the requests of one kind that did not fail; 0 for unknown tasks."""
        place = self._places.get((task, kind))
        row = np.zeros(len(SUMMED)) if place is None else self._sums[place]
        values = zip(SUMMED, row.tolist(), strict=True)
        return {name: int(value) if value.is_integer() else value for name, value in values}

    def _groups_digest(self, task: str, kind: str) -> str:
        said = [
            [dict(sorted(self.said[text].items())), number]
            for (name, its_kind, text), number in self.group_fields.items()
            if (name, its_kind) == (task, kind)
        ]
        return _digest(sorted(said, key=str))

    def contradictions(self, run: Mapping[str, Any]) -> Iterator[str]:
        """In what records and the totals of their `run.json` differ; one phrase each."""
        totals = _mapping(run.get("totals"))
        noted = _mapping(totals.get("records"))
        if not noted:
            yield from self._against_old_totals(totals)
            return
        if "described" in noted and noted["described"] != described(run):
            yield f"{', '.join(DESCRIBED)} of run.json are not those that its totals were made with"
        tasks = _mapping(noted.get("tasks"))
        summed = [name for name in SUMMED if name in (noted.get("summed") or ())]
        for task in sorted({*tasks, *(task for task, _ in self._places)}):
            of_task = _mapping(tasks.get(task))
            for kind in KINDS:
                yield from self._against(task, kind, _mapping(of_task.get(kind)), summed)

    def _against(
        self, task: str, kind: str, noted: Mapping[str, Any], summed: Sequence[str]
    ) -> Iterator[str]:
        place = self._places.get((task, kind), -1)
        for name, found in (("requests", self._requests), ("failed", self._failed)):
            if noted.get(name, 0) != found[place]:
                requests = f"{kind} requests" if name == "requests" else f"failed {kind} requests"
                yield f"{task}: {noted.get(name, 0)} {requests} by run.json, {found[place]} found"
        differing = _differing(_mapping(noted.get("sums")), self.sums(task, kind), summed)
        yield from (f"{task}: {phrase}" for phrase in differing)
        if not noted or place < 0 or differing:
            return
        if noted.get("group_fields") != self._groups_digest(task, kind):
            yield f"{task}: group_fields of its records are not those that were noted at the end"
        elif self._digests and noted.get("records") != (
            f"sum-sha256:{self._content[place] % _MODULUS:064x}"
        ):
            yield f"{task}: its records are not those that were noted at the end (by their digest)"

    def _against_old_totals(self, totals: Mapping[str, Any]) -> Iterator[str]:
        """The same for runs that noted the counts of generated requests alone."""
        tasks = _mapping(totals.get("tasks"))
        if not tasks:
            return
        found = {task for (task, kind), place in self._places.items() if kind == KINDS[0]}
        for task in sorted(found | set(tasks)):
            if task not in tasks and any(self.sums(task, KINDS[0]).values()):
                yield f"{task}: generated requests that the totals of run.json don't have"
            noted = _mapping(tasks.get(task))
            differing = _differing(noted, self.sums(task, KINDS[0]), list(noted))
            yield from (f"{task}: {phrase}" for phrase in differing)
        count, failed = totals.get("num_failed_requests"), sum(self._failed.values())
        if isinstance(count, int) and count != failed:
            yield f"{count} failed requests by run.json, {failed} found"


def tally_of(blocks: Iterable[RecordBlock]) -> Tally:
    """The whole tally of a run's records, digests included."""
    tally = Tally(digests=True)
    for block in blocks:
        tally.add(block.batch, block.records)
    return tally


def described(run: Mapping[str, Any]) -> str:
    """The digest of how a run was made, as far as records can't tell it."""
    return _digest({name: run.get(name) for name in DESCRIBED})


def _differing(
    noted: Mapping[str, Any], found: Mapping[str, float], names: Sequence[str]
) -> list[str]:
    phrases = []
    for name in names:
        before, now = noted.get(name, 0), found.get(name, 0)
        is_number = isinstance(before, (int, float))
        if not is_number or not math.isclose(before, now, rel_tol=_SAME, abs_tol=_SAME):
            phrases.append(f"{name} is {before!r:.40} by run.json, {now!r} by its records")
    return phrases


def _canonical(record: Record) -> bytes:
    known = _known(record)
    if record.settings is not None:
        known["settings"] = _known(record.settings)
    return _encode(known)


def _known(struct: Record | Settings) -> dict[str, Any]:
    """What a struct says beyond its defaults: new fields leave the digests of old records alone."""
    return {
        field.name: value
        for field in structs.fields(struct)
        if (value := getattr(struct, field.name)) is not None and value != field.default
    }


def _digest(value: object) -> str:
    text = json.dumps(value, sort_keys=True, ensure_ascii=True)
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}
