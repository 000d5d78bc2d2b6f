"""The records of a run's folder, whoever wrote them."""

import contextlib
import itertools
import os
import re
import typing
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np

from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.escape import one_line
from lm_eval_specfair.records.invariants import broken, columns_of, out_of_bounds
from lm_eval_specfair.records.record_batch import RecordBatch
from lm_eval_specfair.records.schema import SCHEMA_VERSION, Record
from lm_eval_specfair.records.texts.column_line import decode_columns

LINES, PARQUET = ".jsonl", ".parquet"
FORMS = (LINES, PARQUET)
"""How the names of files of records end."""

_AT_ONCE = 1_024  # lines that become a batch: with more, reading them waits for memory
_RECORDS_AT_ONCE = 256  # few, so that the processor's cache holds their texts
_LONGEST_REASON = 200
_NOT_JSON = "expected one JSON object per line, in UTF-8"
_decode = msgspec.json.Decoder(Record).decode


class _Task(msgspec.Struct):
    task: str


class _Id(msgspec.Struct):
    request_id: str


_decode_task = msgspec.json.Decoder(_Task).decode
_decode_id = msgspec.json.Decoder(_Id).decode

TEXTS = (
    "generated_token_ids",
    "generated_text",
    "rejected_token_ids",
    "discarded_token_ids",
    "overlap_per_position",
)
"""The generated text and its course, which most metrics don't need: two thirds of a record."""


def record_files(folder: Path) -> list[Path]:
    """The files of records in a run's folder, the first process's first.

    Raises:
        ConfigError: If there is no such folder, or it holds records in two forms.
    """
    if not folder.is_dir():
        raise ConfigError(f"no such folder: {folder} (expected a run's records_dir)")
    files = sorted(folder.glob("records*"), key=lambda path: (len(path.name), path.name))
    lines, columns = ([path for path in files if path.suffix == form] for form in FORMS)
    if lines and columns:
        raise ConfigError(
            f"{folder} holds {lines[0].name} and {columns[0].name}: expected records in one form, "
            "since one is likely a copy of the other; move one of them elsewhere"
        )
    return lines or columns


def read_records(folder: Path, *, without: Collection[str] = ()) -> Iterator[Record]:
    """The records of all processes of a run, as they were written; a last half line is skipped.

    Fields named in `without` (of those that may be None) are None where leaving them unread saves
    time, as in Parquet files.

    Raises:
        ConfigError: If a whole line is not a record, a record contradicts itself, a Parquet file is
            damaged or holds anything but records, or the folder cannot be read.
    """
    for block in read_blocks(folder, without=without):
        yield from block.records


class RecordBlock(NamedTuple):
    """Records that follow one another in a file, also as columns."""

    records: list[Record]
    batch: RecordBatch


def read_blocks(folder: Path, *, without: Collection[str] = ()) -> Iterator[RecordBlock]:
    """The same, some hundreds at a time.

    Raises:
        ConfigError: As `read_records`.
    """
    for path in record_files(folder):
        first, records = 1, _read_lines(path)
        if path.suffix == PARQUET:
            # Only here: most runs hold none, and pyarrow takes long to load.
            from lm_eval_specfair.records.parquet import read_parquet

            first, records = 0, read_parquet(path, without)
        while chunk := list(itertools.islice(records, _RECORDS_AT_ONCE)):
            batch = RecordBatch.of(chunk)
            _refuse_impossible(batch, path, first, chunk)
            first += len(chunk)
            yield RecordBlock(chunk, batch)


def _refuse_impossible(
    batch: RecordBatch, path: Path, first: int, records: Sequence[Record] = ()
) -> None:
    """Raise ConfigError for the first record that contradicts itself; failed ones may be cut off.

    Lines were held against the schema's bounds while they were decoded, columns are here.
    """
    is_columns = path.suffix == PARQUET
    empty = [(row, "request_id") for row, name in enumerate(batch.request_ids) if not name.strip()]
    for number, task in enumerate(batch.tasks.values):
        if not task.strip():
            empty += [(row, "task") for row in np.flatnonzero(batch.tasks.codes == number).tolist()]
    for row, field in empty:
        place = f"row {first + row}" if is_columns else first + row
        raise ConfigError(
            f"{path}:{place}: {field} must not be empty; expected the file as the run wrote it"
        )
    columns = columns_of(batch, records)
    wrong = [*broken(columns), *(out_of_bounds(columns) if is_columns else ())]
    for row, problem in sorted(wrong):
        if not batch.is_failed[row]:
            place = f"row {first + row}" if is_columns else first + row
            raise ConfigError(
                f"{path}:{place}: the record of {batch.request_ids[row]!r:.100} contradicts "
                f"itself: {problem}; expected the file as the run wrote it"
            )


def cut_file(folder: Path) -> Path | None:
    """The first file of JSON Lines that ends in the middle of a line, as after a kill; or None."""
    for path in record_files(folder):
        if path.suffix == LINES:
            with path.open("rb") as file:
                if file.seek(0, os.SEEK_END):
                    file.seek(-1, os.SEEK_END)
                    if file.read(1) != b"\n":
                        return path
    return None


def read_batches(folder: Path) -> Iterator[RecordBatch]:
    """The same records as columns, some thousands at a time; texts and tokens are left out.

    Raises:
        ConfigError: As `read_records`.
    """
    for path in record_files(folder):
        if path.suffix == PARQUET:
            from lm_eval_specfair.records.parquet import read_parquet_batches

            batches = read_parquet_batches(path)
        else:
            batches = _line_batches(path)
        first = 0 if path.suffix == PARQUET else 1
        for batch in batches:
            _refuse_impossible(batch, path, first)
            first += len(batch)
            yield batch


def read_each(folder: Path) -> Iterator[Record]:
    """The records one by one, without what a report never looks at; they may contradict themselves.

    Raises:
        ConfigError: If a whole line is not a record, or the folder cannot be read.
    """
    for path in record_files(folder):
        if path.suffix == PARQUET:
            from lm_eval_specfair.records.parquet import read_parquet

            yield from read_parquet(path, TEXTS)
        else:
            for line, number in _whole_lines(path):
                yield _parse_columns(line, path, number)


def read_chosen(folder: Path, ids: Collection[str]) -> Iterator[Record]:
    """The whole records of some requests, in the order of the files.

    Raises:
        ConfigError: As `read_records`; other requests' records are not looked at.
    """
    for path in record_files(folder):
        if path.suffix == PARQUET:
            from lm_eval_specfair.records.parquet import read_parquet

            found = [(record, 0) for record in read_parquet(path) if record.request_id in ids]
        else:
            found = [
                (parse_record(line, path, number), number)
                for line, number in _whole_lines(path)
                if _id_of(line) in ids
            ]
        for record, place in found:
            _refuse_impossible(RecordBatch.of([record]), path, place, [record])
            yield record


def _id_of(line: bytes) -> str | None:
    with contextlib.suppress(msgspec.DecodeError, UnicodeError, RecursionError):
        return _decode_id(line).request_id
    return None  # whoever reads all records says what is wrong


def _line_batches(path: Path) -> Iterator[RecordBatch]:
    records = (_parse_columns(line, path, number) for line, number in _whole_lines(path))
    while chunk := list(itertools.islice(records, _AT_ONCE)):
        yield RecordBatch.of(chunk)


def read_task_names(folder: Path) -> Iterator[str]:
    """The tasks of the records, some of them several times.

    Raises:
        ConfigError: As `read_records`, where more than the tasks cannot be read.
    """
    for path in record_files(folder):
        if path.suffix == PARQUET:
            from lm_eval_specfair.records.parquet import read_parquet_tasks

            yield from read_parquet_tasks(path)
        else:
            for line, _ in _whole_lines(path):
                with contextlib.suppress(msgspec.DecodeError, UnicodeError, RecursionError):
                    yield _decode_task(line).task  # whoever reads the records says what is wrong


def _whole_lines(path: Path) -> Iterator[tuple[bytes, int]]:
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if line.endswith(b"\n"):
                    yield line, number
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None


def _read_lines(path: Path) -> Iterator[Record]:
    return (parse_record(line, path, number) for line, number in _whole_lines(path))


def _parse_columns(line: bytes, *where: object) -> Record:
    """What a batch needs of a record, under the same names."""
    try:
        return typing.cast(Record, decode_columns(line))
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return parse_record(line, *where)


def parse_record(line: bytes | str, *where: object) -> Record:
    """A record from one line of JSON; `where` are file and line number, for the error message.

    Raises:
        ConfigError: If the line is not a JSON object, misses a field, has an unknown one, or one of
            another type; it says which (`$.field`).
    """
    try:
        return _decode(line)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        is_object = isinstance(error, msgspec.ValidationError)
        problem = f"not a record of schema {SCHEMA_VERSION}" if is_object else _NOT_JSON
        place = ":".join(map(str, where)) or "record"
        reason = f"{one_line(error)[:_LONGEST_REASON]}{_got(line, str(error))}"
        raise ConfigError(f"{place}: {problem}: {reason}") from None


def _got(line: bytes | str, reason: str) -> str:
    """The value that is out of its bounds, which msgspec leaves out, and whose it is."""
    found = re.search(r"^Expected `\w+( \| null)?` [<>]= \S+ - at `\$\.([\w.]+)`$", reason)
    if found is None:
        return ""
    record = value = msgspec.json.decode(line)
    for part in found[2].split("."):
        value = value[part]
    return one_line(f", got {value!r:.40}, in the record of {record.get('request_id')!r:.100}")


def measured(records: Iterable[Record]) -> Iterator[Record]:
    """The records of requests that did not fail, from which metrics are computed."""
    return (record for record in records if record.failure is None)
