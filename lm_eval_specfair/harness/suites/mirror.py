"""Rows of a data set: from a local mirror first, then from the hub. Knows no tasks.

A mirror is a folder laid out as `<data set>/<configuration>/<split>`, where the split is a file
(`test.parquet`, `test.jsonl`) or a folder of them (`test/0000.parquet`). That is also how the hub
lays out its own conversions to parquet, so a copy of such a branch is a mirror as it is.
"""

import functools
import os
from collections.abc import Callable, Iterator, Sized
from pathlib import Path
from typing import Any

import datasets
import pyarrow
import pyarrow.parquet

from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.harness.suites.column_types import check_columns
from lm_eval_specfair.harness.suites.suite_sources import SOURCES
from lm_eval_specfair.text_lines import file_lines, parse_json

DATA_DIR_VARIABLE = "SPECFAIR_DATA_DIR"
DEFAULT_CONFIG = "default"  # the hub's name for the configuration of a data set that names none
_SUFFIXES = (".parquet", ".jsonl")


def mirror_folder(data_dir: str | None) -> Path | None:
    """The mirror: the one given, or the one that the environment names; None without either."""
    named = data_dir or os.environ.get(DATA_DIR_VARIABLE)
    return Path(named).expanduser() if named else None


def split_path(mirror: Path, dataset: str, config: str | None, split: str) -> Path:
    """Where a mirror keeps a split, without the suffix."""
    return mirror / dataset / (config or DEFAULT_CONFIG) / split


def mirror_files(mirror: Path, dataset: str, config: str | None, split: str) -> list[Path]:
    """The files of a split in a mirror, in their order; none if it isn't there."""
    path = split_path(mirror, dataset, config, split)
    for suffix in _SUFFIXES:
        file = path.with_name(path.name + suffix)
        if file.is_file():
            return [file]
        # A folder of parts, or parts beside each other, as the hub names them.
        parts = sorted(path.glob(f"*{suffix}")) or sorted(path.parent.glob(f"{split}-*{suffix}"))
        if parts:
            return parts
    return []


def load_split(
    dataset: str,
    config: str | None,
    split: str,
    *,
    mirror: Path | None,
    suite: str | None = None,
    ask_hub: bool = True,
) -> datasets.Dataset:
    """The rows of one split.

    Args:
        dataset: Its name on the hub.
        config: Its configuration, if it has several.
        split: Its split.
        mirror: The folder to look into first, if any.
        suite: What the error tells the user to ask `specfair fetch-data` for.
        ask_hub: Whether to ask the hub for what the mirror lacks.

    Raises:
        ConfigError: If neither has it, or rows are not as `suite_sources` says.
    """
    if mirror is not None:
        files = mirror_files(mirror, dataset, config, split)
        if files:
            stamp = tuple((str(file), file.stat().st_mtime_ns) for file in files)
            return _read_files(stamp, dataset)
        looked_at = f"not in the mirror ({split_path(mirror, dataset, config, split)}.parquet)"
    else:
        looked_at = f"no mirror is set ({DATA_DIR_VARIABLE} or data_dir)"
    try:
        if not ask_hub:
            raise OSError("not asked: the evaluated split is the mirror's")
        return _checked(fetch_split(dataset, config, split), dataset, "the hub")
    except OSError as error:
        verb = f"specfair fetch-data {suite or 'SUITE'} -o DIR"
        raise ConfigError(
            f"the data set {dataset} ({config or DEFAULT_CONFIG}, {split}) is needed: {looked_at}, "
            f"and the hub did not give it ({error}). Where there is a network, run `{verb}`, then "
            f"set {DATA_DIR_VARIABLE}=DIR."
        ) from error


@functools.lru_cache(maxsize=16)
def fetch_split(dataset: str, config: str | None, split: str) -> datasets.Dataset:
    """The rows of one split from the hub, or from the cache that `datasets` keeps of it.

    Most data sets are read from the hub's own conversion to parquet: it holds each split by itself
    (XNLI's test split comes without its 400,000 training rows), and data sets that are only a
    loading script, which datasets 4 and later refuse, have it too.

    Raises:
        OSError: If the hub cannot be reached or has no such rows; its message is one line.
    """
    source = SOURCES.get(dataset)
    ways: list[Callable[[], datasets.Dataset]] = [
        lambda: _converted(dataset, config, split),
        lambda: datasets.load_dataset(dataset, config, split=split),
    ]
    if datasets.config.HF_HUB_OFFLINE:
        ways = ways[1:]  # only what was loaded under its own name is found in the cache
    elif source is not None and source.is_gated:
        ways.reverse()  # its own branch has one file a configuration and split
    reasons = []
    for way in ways:
        try:
            return way()
        # The hub's client has some thirty kinds of failure; all mean that there are no rows.
        except Exception as error:
            reasons.append(" ".join(str(error).split()) or type(error).__name__)
    terms = f"; its terms have to be accepted at hf.co/datasets/{dataset}"
    raise OSError(reasons[0] + (terms if source is not None and source.is_gated else ""))


def _converted(dataset: str, config: str | None, split: str) -> datasets.Dataset:
    files = (
        f"hf://datasets/{dataset}@refs/convert/parquet/{config or DEFAULT_CONFIG}/{split}/*.parquet"
    )
    return datasets.load_dataset("parquet", data_files={split: files}, split=split)


@functools.lru_cache(maxsize=16)
def _read_files(stamp: tuple[tuple[str, int], ...], dataset: str) -> datasets.Dataset:
    """Rows of parquet or JSON Lines files; the times in the key notice a changed file."""
    files = [Path(name) for name, _ in stamp]
    try:
        if files[0].suffix == ".parquet":
            table = pyarrow.concat_tables([pyarrow.parquet.read_table(file) for file in files])
            return _checked(datasets.Dataset(table), dataset, files[0])
        rows = [row for file in files for row in _json_rows(file)]
        _refuse_empty(rows, dataset, files[0])
        columns = list(dict.fromkeys(name for row in rows for name in row))
        if dataset in SOURCES:  # here, since columns of mixed types are no table
            of_rows = {name: [row.get(name) for row in rows] for name in columns}
            check_columns(SOURCES[dataset], of_rows, files[0])
        return datasets.Dataset.from_list([{n: row.get(n) for n in columns} for row in rows])
    except ConfigError:
        raise
    except (ValueError, RecursionError, OverflowError, OSError, pyarrow.ArrowException) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(
            f"expected rows in {files[0]}, could not read them ({reason}): fetch the file again"
        ) from error


def _json_rows(file: Path) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(file_lines(file), start=1):
        if line.strip():
            row = parse_json(line)
            if not isinstance(row, dict):
                raise ValueError(f"line {number} is no object: {line:.40}")
            yield row


def _checked(rows: datasets.Dataset, dataset: str, where: object) -> datasets.Dataset:
    _refuse_empty(rows, dataset, where)
    if (source := SOURCES.get(dataset)) is not None:
        read = [column for column in source.read if column in rows.column_names]
        check_columns(source, {column: rows[column][:] for column in read}, where)
    return rows


def _refuse_empty(rows: Sized, dataset: str, where: object) -> None:
    if not len(rows):
        raise ConfigError(
            f"expected the rows of {dataset}, {where} came without a row: see the suite's README "
            "for the layout."
        )
