"""The conversion of a run's records: to Parquet for data frames and archives, and back; to CSV."""

import csv
import json
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.escape import csv_cell
from lm_eval_specfair.files import cannot_write, replacing
from lm_eval_specfair.records.reader import FORMS, PARQUET, read_records, record_files
from lm_eval_specfair.records.requests_file import request_files
from lm_eval_specfair.records.run_file import RUN_FILE, read_run
from lm_eval_specfair.records.schema import Record
from lm_eval_specfair.records.texts.token_pieces import PIECES_FILE

CSV = ".csv"
"""For spreadsheets: what is no number or text is JSON in its cell, and nothing reads it back."""
_OTHER_FILES = frozenset(
    {".arrow", ".db", ".feather", ".gz", ".json", ".tsv", ".txt", ".xls", ".xlsx", ".zip", ".zst"}
)

Watch = Callable[[Iterable[Record]], Iterable[Record]]


def export_run(
    run_dir: Path, output: Path, *, form: str | None = None, force: bool = False, watch: Watch
) -> list[Path]:
    """Write a run's records in the other form; return the files that were written.

    Args:
        run_dir: The run's folder.
        output: A file that ends in `.parquet`, `.jsonl` or `.csv`; a name without an ending is a
            new folder, which gets `run.json` and the requests too and is read like the run's own.
        form: One of these endings; None for what the file's name says, `.parquet` in a folder.
        force: Whether to write over a file that exists.
        watch: Wraps the records on their way (a progress bar).

    Raises:
        ConfigError: If the run cannot be read, `output` exists, cannot be written or would add to a
            run, its name and `form` differ, or its ending is none of these.
    """
    read_run(run_dir)
    if not record_files(run_dir):
        raise ConfigError(f"no records in {run_dir}; a run writes one for each request")
    if output.suffix in (*FORMS, CSV):
        if form not in (None, output.suffix):
            raise ConfigError(f"-o {output} names one format, --format another: leave one out")
        if output.name.startswith("records") and (output.parent / RUN_FILE).exists():
            raise ConfigError(
                f"-o {output} would be read as a part of the run in {output.parent}: name a file "
                "elsewhere, or a new folder"
            )
        if output.exists() and not force:
            raise ConfigError(f"-o {output} exists; --force writes over it")
        target, form = output, output.suffix
    else:
        if output.suffix.casefold() in _OTHER_FILES:
            raise ConfigError(
                f"-o {output}: expected a name that ends in {', '.join((*FORMS, CSV))}, or a new "
                f"folder; got {output.suffix}"
            )
        if form == CSV:
            raise ConfigError(f"--format csv is for one file: expected -o NAME.csv, got {output}")
        form = form or PARQUET
        if output.is_dir() and ((output / RUN_FILE).exists() or record_files(output)):
            raise ConfigError(f"-o {output} already holds a run; name a new folder")
        target = output / f"records{form}"
    write: Callable[[Iterable[Record], Path], object] = write_csv if form == CSV else write_lines
    if form == PARQUET:
        # Only here: pyarrow takes long to load.
        from lm_eval_specfair.records.parquet import write_parquet as write
    try:
        write(watch(read_records(run_dir)), target)
        if target is output:
            return [target]
        # run.json at the end: a folder without it is taken for no run.
        others = [*(path.name for path in request_files(run_dir)), RUN_FILE]
        if (run_dir / PIECES_FILE).exists():
            others.insert(0, PIECES_FILE)
        return [target, *(Path(shutil.copyfile(run_dir / n, output / n)) for n in others)]
    except OSError as error:
        raise cannot_write(target, error, "name a file that can be written") from None


def write_lines(records: Iterable[Record], path: Path) -> None:
    """Write records into a file of JSON Lines, which appears whole or not at all."""
    with replacing(path) as fresh, fresh.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(record.to_json() + "\n" for record in records)


def write_csv(records: Iterable[Record], path: Path) -> None:
    """Write records into a table for spreadsheets, which appears whole or not at all."""
    with replacing(path) as fresh, fresh.open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(Record.__struct_fields__)
        for record in records:
            values = json.loads(record.to_json()).values()
            rows.writerow([_cell(value) for value in values])


def _cell(value: object) -> object:
    if isinstance(value, (dict, list, bool)):
        value = json.dumps(value, ensure_ascii=False)
    return csv_cell(value) if isinstance(value, str) else value
