"""The writer of records: it appends one whole line or nothing, one process to a file."""

import io
import os
import typing
from pathlib import Path

from filelock import FileLock, Timeout

from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.records.schema import Record

RECORDS_FILE = "records.jsonl"
_BLOCK = 1 << 16


class RecordWriter:
    """Appends records to a run's folder; a record is on disk as one whole line or not at all.

    A half line left by a killed process is cut off first. `size` counts bytes, with those before.
    """

    def __init__(self, folder: Path, rank: int = 0) -> None:
        """Open the file of this process for appending.

        Raises:
            ConfigError: If the folder cannot be written.
        """
        self._path = path = own_file(folder, rank)
        # The system lets go of the lock when its process ends, however it ends.
        self._lock = FileLock(path.with_name(f".{path.name}.lock"), timeout=0)
        try:
            self._lock.acquire()
            self._file = path.open("ab+", buffering=0)
            self.size = _end_of_lines(self._file)
            self._file.truncate(self.size)
        except Timeout:
            raise ConfigError(
                f"another process is writing to {path}; wait for it to end, or name another "
                "records_dir"
            ) from None
        except OSError as error:
            self._lock.release()
            raise ConfigError(f"cannot write {path}: {error.strerror}") from None

    def write(self, record: Record) -> None:
        """Append one record.

        Raises:
            ConfigError: If it does not take it (a full disk); earlier records are safe.
        """
        line = memoryview((record.to_json() + "\n").encode("utf-8"))
        self.size += len(line)
        while line:
            try:
                line = line[self._file.write(line) or 0 :]
            except OSError as error:
                raise ConfigError(
                    f"cannot write {self._path}: {error.strerror}. All records before this one are "
                    "safe; make room and resume with resume=true"
                ) from None

    def close(self) -> None:
        """Flush to disk and close; closing twice is harmless."""
        if not self._file.closed:
            os.fsync(self._file.fileno())
            self._file.close()
            Path(self._lock.lock_file).unlink(missing_ok=True)
            self._lock.release()


def own_file(folder: Path, rank: int) -> Path:
    """The file that the process of this rank writes."""
    return folder / (RECORDS_FILE if rank == 0 else f"records.rank{rank}.jsonl")


def own_size(folder: Path, rank: int) -> int:
    """Bytes of that file's whole lines; 0 where there is none."""
    try:
        with own_file(folder, rank).open("rb") as file:
            return _end_of_lines(file)
    except OSError:
        return 0


def _end_of_lines(file: typing.BinaryIO | io.FileIO) -> int:
    """Bytes up to and with the last line break, looked for from the end: files may be large."""
    end = file.seek(0, os.SEEK_END)
    while end:
        start = max(0, end - _BLOCK)
        file.seek(start)
        found = file.read(end - start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        end = start
    return 0
