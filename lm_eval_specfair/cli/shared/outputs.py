"""Results that reach where they are sent: places checked first, pipes that close, disks that fill.

Where a verb writes is looked at when its arguments are read, before anything is computed. What
fails later (a disk that fills) is one line and status 2, whoever raised it.
"""

import argparse
import contextlib
import errno
import io
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.files import cannot_write, is_device

_ADVICE = "make room, or name a place that can be written"
_OF_WRITING = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM}
# How libraries in Rust end the message of an error of the system, such as safetensors.
_OS_ERROR = re.compile(r"\(os error (\d+)\)")
# How torch begins that of a file that it could not write.
_TORCH_WRITE = re.compile(r"PytorchStreamWriter failed|unexpected pos \d+ vs \d+")


class _Outlet(io.FileIO):
    """A standard stream that outlives its reader: what a closed pipe is sent is dropped."""

    def write(self, data: "bytes | bytearray | memoryview") -> int:  # type: ignore[override]
        try:
            return super().write(data) or 0
        except OSError as error:
            # Whatever follows, the flush at the end of the process too, goes nowhere.
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())
            os.close(nowhere)
            if isinstance(error, BrokenPipeError):
                return len(data)
            raise cannot_write(Path("standard output"), error, _ADVICE) from None


def outlive_readers() -> None:
    """Let `| head` end what is printed, and nothing else; in a process of one's own only."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        # Not what a test or a notebook has put in its place.
        if stream is not getattr(sys, f"__{name}__") or not isinstance(stream, io.TextIOWrapper):
            continue
        # With PYTHONUNBUFFERED the buffer is the file itself.
        if isinstance(getattr(stream.buffer, "raw", stream.buffer), io.FileIO):
            stream.flush()
            raw: io.RawIOBase = _Outlet(stream.fileno(), "wb", closefd=False)
            outlet = io.BufferedWriter(raw)
            fresh = io.TextIOWrapper(
                outlet,
                encoding=stream.encoding,
                errors=stream.errors,
                line_buffering=stream.line_buffering,
                write_through=stream.write_through,
            )
            setattr(sys, name, fresh)


def flush_results() -> None:
    """Send on what was printed, while a failure can still be told."""
    if sys.stdout is not None:
        sys.stdout.flush()


@contextlib.contextmanager
def system_errors_told() -> Iterator[None]:
    """Turn what the system refused, however it was wrapped, into one line.

    Raises:
        ConfigError: With what could not be read or written, and why.
    """
    try:
        yield
    except ConfigError:
        raise
    except Exception as error:
        refusal = _refusal_by_system(error)
        if refusal is None:
            raise
        raise refusal from error


def _refusal_by_system(error: BaseException) -> ConfigError | None:
    """The line for an error of the system; None for any other."""
    if isinstance(error, OSError) and error.errno is not None:
        place = error.filename2 or error.filename
        where = "" if place is None else f"{os.fsdecode(place)}: "
        advice = _ADVICE if error.errno in _OF_WRITING else "see to it and run this again"
        return ConfigError(f"the system refused: {where}{error.strerror}; {advice}")
    if found := _OS_ERROR.search(str(error)):
        reason = os.strerror(int(found[1]))
        return ConfigError(f"the system refused: {reason}; {_ADVICE}")
    if _TORCH_WRITE.search(str(error)):
        return ConfigError(f"the system refused to write a file to its end; {_ADVICE}")
    return None


def file_to_write(text: str) -> Path:
    """A type for arguments: a file that can be written, checked without writing it."""
    return _as_argument(refuse_unwritable_file, text)


def folder_to_write(text: str) -> Path:
    """A type for arguments: a folder, there or not, in which files can be written."""
    return _as_argument(refuse_unwritable_folder, text)


def place_to_write(text: str) -> Path:
    """A type for arguments: a file or a folder, whichever the verb makes of its name."""
    is_folder = text.endswith(os.sep) or Path(text).is_dir()
    return _as_argument(refuse_unwritable_folder if is_folder else refuse_unwritable_file, text)


def refuse_unwritable_file(path: Path) -> None:
    """Raise ConfigError if a file cannot be written: a folder, below a file, or no permission."""
    if path.is_dir():
        raise ConfigError(f"expected a file, {path} is a folder: name a file in it")
    if not is_device(path):
        _refuse_unwritable(path.parent, path)
        if path.exists() and not os.access(path, os.W_OK):
            raise ConfigError(f"cannot write {path}: it may not be changed; {_ADVICE}")


def refuse_unwritable_folder(path: Path) -> None:
    """Raise ConfigError if a folder cannot hold files: a file, below a file, or no permission."""
    if path.exists() and not path.is_dir():
        raise ConfigError(f"expected a folder, {path} is a file: name another")
    _refuse_unwritable(path, path)


def _refuse_unwritable(folder: Path, path: Path) -> None:
    existing = next((each for each in (folder, *folder.parents) if os.path.lexists(each)), folder)
    if not existing.is_dir():
        raise ConfigError(f"cannot write {path}: {existing} is no folder; name another place")
    try:
        # Permissions alone don't tell: file systems may be read-only, whoever asks.
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        raise cannot_write(path, error, _ADVICE) from None


def _as_argument(refuse: Callable[[Path], None], text: str) -> Path:
    if not text:
        raise argparse.ArgumentTypeError("expected a name, got an empty one")
    path = Path(text)
    try:
        refuse(path)
    except ConfigError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    except OSError as error:  # a name too long, a loop of links
        raise argparse.ArgumentTypeError(f"cannot write {text!r:.60}: {error.strerror}") from None
    return path
