"""The records of a run's folder, whoever wrote them."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.records.lines import read_quickly, read_slowly
from lm_eval_specfair.records.schema import Record


def record_files(folder: Path) -> list[Path]:
    """The files of records in a run's folder, the first process's first.

    Raises:
        ConfigError: If there is no such folder.
    """
    if not folder.is_dir():
        raise ConfigError(f"no such folder: {folder} (expected a run's records_dir)")
    return sorted(folder.glob("records*.jsonl"), key=lambda path: (len(path.name), path.name))


def read_records(folder: Path) -> Iterator[Record]:
    """The records of a run, in the order they were written; a last half line is passed over.

    Several processes of one run each write a file of their own; all are read.

    Raises:
        ConfigError: If a whole line is not a record, or the folder cannot be read.
    """
    for path in record_files(folder):
        try:
            with path.open("rb") as file:
                for number, line in enumerate(file, start=1):
                    if line.endswith(b"\n"):
                        yield read_quickly(line) or read_slowly(line[:-1], f"{path}:{number}")
        except OSError as error:
            raise ConfigError(f"cannot read {path}: {error.strerror}") from None


def measured(records: Iterable[Record]) -> Iterator[Record]:
    """The records that figures are made of: those of requests that did not fail."""
    return (record for record in records if record.failure is None)
