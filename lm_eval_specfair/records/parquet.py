"""Records in Parquet files: compressed columns that data frames and databases read."""

from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

import pyarrow as pa
from pyarrow import parquet

from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.files import cannot_write, replacing
from lm_eval_specfair.records import arrow
from lm_eval_specfair.records.arrow_columns import batch_from
from lm_eval_specfair.records.record_batch import COLUMN_FIELDS, RecordBatch
from lm_eval_specfair.records.schema import SCHEMA_VERSION, Record

_VERSION_KEY = b"specfair_schema_version"
_READ_AT_ONCE = 2_048
_COLUMNS_AT_ONCE = 1 << 13
_WRITE_AT_ONCE = 1_024
# A row group ends at whichever comes first, so that long texts don't fill the memory.
_GROUP_ROWS, _GROUP_BYTES = 1 << 16, 64 << 20


def read_parquet(path: Path, without: Collection[str] = ()) -> Iterator[Record]:
    """The records of a file, a part of a row group at a time; columns in `without` stay unread.

    Raises:
        ConfigError: If it is no Parquet file, is damaged, or holds anything but records.
    """
    for columns, number in _read(path, without, _READ_AT_ONCE):
        yield from arrow.records_of(columns, str(path), number)


def read_parquet_batches(path: Path) -> Iterator[RecordBatch]:
    """The records of a file as columns, without texts and tokens.

    Raises:
        ConfigError: As `read_parquet`.
    """
    unread = [name for name in arrow.FIELD_TYPES if name not in COLUMN_FIELDS]
    for columns, number in _read(path, unread, _COLUMNS_AT_ONCE):
        yield batch_from(columns, str(path), number)


def read_parquet_tasks(path: Path) -> Iterator[str]:
    """The tasks of a file's records, some of them several times.

    Raises:
        ConfigError: As `read_parquet`.
    """
    unread = [name for name in arrow.FIELD_TYPES if name != "task"]
    for columns, _ in _read(path, unread, _COLUMNS_AT_ONCE):
        yield from filter(None, columns.column("task").unique().to_pylist())


def _read(
    path: Path, without: Collection[str], at_once: int
) -> Iterator[tuple[pa.RecordBatch, int]]:
    """Parts of a file's row groups, each with the number of rows before it."""
    where, number = str(path), 0
    try:
        with parquet.ParquetFile(path, page_checksum_verification=True) as file:
            metadata = file.schema_arrow.metadata or {}
            version = metadata.get(_VERSION_KEY, str(SCHEMA_VERSION).encode())
            if version != str(SCHEMA_VERSION).encode():
                raise ConfigError(
                    f"{where}: this version reads schema {SCHEMA_VERSION}, got {version!r:.20}"
                )
            arrow.check_columns(file.schema_arrow, where)
            wanted = [name for name in file.schema_arrow.names if name not in without]
            for batch in file.iter_batches(at_once, columns=wanted, use_threads=False):
                yield batch, number
                number += len(batch)
        pa.default_memory_pool().release_unused()  # 100 MB and more, which Arrow would keep
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or arrow.first_line(error)
        raise ConfigError(
            f"{where}: expected a Parquet file of records, cannot read it: {reason}"
        ) from None


def write_parquet(records: Iterable[Record], path: Path) -> int:
    """Write records into a file, which appears whole or not at all; return their number.

    Raises:
        ConfigError: If the file cannot be written, or a number does not fit into 64 bits.
    """
    schema = arrow.arrow_schema().with_metadata({_VERSION_KEY: str(SCHEMA_VERSION).encode()})
    try:
        with (
            replacing(path) as fresh,
            parquet.ParquetWriter(
                fresh, schema, compression="zstd", write_page_checksum=True
            ) as file,
        ):
            number = 0
            for table in map(pa.Table.from_batches, _groups(records)):
                file.write_table(table, row_group_size=len(table))
                number += len(table)
            return number
    except OSError as error:
        raise cannot_write(path, error, "name a file that can be written") from None


def _groups(records: Iterable[Record]) -> Iterator[list[pa.RecordBatch]]:
    """The records of each row group."""
    group: list[pa.RecordBatch] = []
    for batch in _batches(records):
        group.append(batch)
        rows, size = sum(map(len, group)), sum(part.nbytes for part in group)
        if rows >= _GROUP_ROWS or size >= _GROUP_BYTES:
            yield group
            group = []
    if group:
        yield group


def _batches(records: Iterable[Record]) -> Iterator[pa.RecordBatch]:
    waiting: list[Record] = []
    size = 0
    for record in records:
        waiting.append(record)
        size += len(record.generated_text or "") + 8 * len(record.generated_token_ids or ())
        size += 8 * (sum(map(len, record.discarded_token_ids or ())))
        if len(waiting) == _WRITE_AT_ONCE or size >= _GROUP_BYTES:
            yield arrow.batch_of(waiting)
            waiting, size = [], 0
    if waiting:
        yield arrow.batch_of(waiting)
