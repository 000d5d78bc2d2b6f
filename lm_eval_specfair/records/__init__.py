"""The record schema, its writer and its reader: the contract between decoding and metrics.

A run's folder holds `run.json` (how the run was made) and `records.jsonl` (one line a request, in
the order of finishing) or, where it was exported, `records.parquet`. Knows nothing about models: it
never imports torch, and pyarrow only where Parquet is read or written.
"""

from lm_eval_specfair.records.conversion import export_run
from lm_eval_specfair.records.reader import (
    PARQUET,
    TEXTS,
    measured,
    parse_record,
    read_batches,
    read_blocks,
    read_records,
    read_task_names,
    record_files,
)
from lm_eval_specfair.records.record_batch import RecordBatch
from lm_eval_specfair.records.run_file import RUN_FILE, read_run, write_run
from lm_eval_specfair.records.schema import (
    SCHEMA_VERSION,
    FinishReason,
    Record,
    RequestType,
    Settings,
)
from lm_eval_specfair.records.writer import RECORDS_FILE, RecordWriter, own_file, own_size

__all__ = [
    "PARQUET",
    "RECORDS_FILE",
    "RUN_FILE",
    "SCHEMA_VERSION",
    "TEXTS",
    "FinishReason",
    "Record",
    "RecordBatch",
    "RecordWriter",
    "RequestType",
    "Settings",
    "export_run",
    "measured",
    "own_file",
    "own_size",
    "parse_record",
    "read_batches",
    "read_blocks",
    "read_records",
    "read_run",
    "read_task_names",
    "record_files",
    "write_run",
]
