"""The records of a run's folder, whoever wrote them."""

import contextlib
import itertools
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

import msgspec

from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.records.lines import parse_record
from lm_eval_specfair.records.record_batch import RecordBatch
from lm_eval_specfair.records.schema import Record

LINES, PARQUET = ".jsonl", ".parquet"
FORMS = (LINES, PARQUET)
"""How the names of files of records end."""

_AT_ONCE = 4_096  # lines that become a batch


class _Task(msgspec.Struct):
    task: str


_decode_task = msgspec.json.Decoder(_Task).decode

TEXTS = ("generated_token_ids", "generated_text")
"""The generated text, which most metrics don't need: two thirds of a record."""


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
        ConfigError: If a whole line is not a record, a Parquet file is damaged or holds anything
            but records, or the folder cannot be read.
    """
    for path in record_files(folder):
        if path.suffix == PARQUET:
            # Only here: most runs hold none, and pyarrow takes long to load.
            from lm_eval_specfair.records.parquet import read_parquet

            yield from read_parquet(path, without)
        else:
            yield from _read_lines(path)


def read_batches(folder: Path) -> Iterator[RecordBatch]:
    """The same records as columns, some thousands at a time; texts and tokens are left out.

    Raises:
        ConfigError: As `read_records`.
    """
    for path in record_files(folder):
        if path.suffix == PARQUET:
            from lm_eval_specfair.records.parquet import read_parquet_batches

            yield from read_parquet_batches(path)
        else:
            records = _read_lines(path)
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


def measured(records: Iterable[Record]) -> Iterator[Record]:
    """The records of requests that did not fail, from which metrics are computed."""
    return (record for record in records if record.failure is None)
