"""Files and folders that appear whole or not at all: written beside their place, then renamed."""

import contextlib
import hashlib
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from lm_eval_specfair.errors import ConfigError


@contextlib.contextmanager
def staged(directory: Path, *, last: str = "") -> Iterator[Path]:
    """A new folder whose files move into `directory` at the end; nothing moves after an error.

    Args:
        directory: Made if missing; files of the same names are replaced.
        last: The file that moves after all others, to tell readers that they are complete.

    Raises:
        OSError: If the folder cannot be made or written.
    """
    directory.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=".writing-", dir=directory))
    try:
        yield fresh
        for path in sorted(fresh.iterdir(), key=lambda path: path.name == last):
            path.replace(directory / path.name)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Where to write what becomes the file `path` at the end, unless there was an error.

    Raises:
        OSError: If the file cannot be written.
    """
    with staged(path.parent) as folder:
        yield folder / path.name


@contextlib.contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """A new folder that takes the place of the folder `path` at the end, unless there was an error.

    Readers call `restore_folder` first: a process may be killed between the two renames.

    Raises:
        OSError: If it cannot be written; the old folder stays.
    """
    fresh, old = path.with_suffix(".writing"), path.with_suffix(".old")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    try:
        yield fresh
        restore_folder(path)
        shutil.rmtree(old, ignore_errors=True)
        if path.exists():
            path.rename(old)
        fresh.rename(path)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def restore_folder(path: Path) -> None:
    """Put the old folder back where `replacing_folder` was killed halfway."""
    old = path.with_suffix(".old")
    if old.exists() and not path.exists():
        old.rename(path)


def write_files(directory: Path, contents: Mapping[str, str | bytes]) -> list[Path]:
    """Write files into a folder, given by name, text as UTF-8; return their paths.

    Files of the same names are replaced, all of them at the end.

    Raises:
        ConfigError: If the folder cannot be made or written.
    """
    try:
        with staged(directory) as fresh:
            for name, content in contents.items():
                data = content.encode() if isinstance(content, str) else content
                (fresh / name).write_bytes(data)
    except OSError as error:
        raise cannot_write(directory, error, "name a folder that can be written") from None
    return [directory / name for name in contents]


def write_file(path: Path, content: str | bytes) -> Path:
    """Write one file.

    Raises:
        ConfigError: If it cannot be written.
    """
    data = content.encode() if isinstance(content, str) else content
    try:
        if is_device(path):  # /dev/stdout, a pipe: nothing that another file could replace
            path.write_bytes(data)
            return path
        with replacing(path) as fresh:
            fresh.write_bytes(data)
    except OSError as error:
        raise cannot_write(path, error, "name a file that can be written") from None
    return path


def digest(path: Path) -> str:
    """SHA-256 of a file's content."""
    with path.open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


def is_device(path: Path) -> bool:
    """Whether a path is there and neither a file nor a folder of its own, as `/dev/stdout`."""
    top = path.absolute().parts[1:2]
    return path.exists() and (not (path.is_file() or path.is_dir()) or top in (("dev",), ("proc",)))


def cannot_write(path: Path, error: Exception, advice: str) -> ConfigError:
    """The one line for a full disk, a missing permission or a wrong place."""
    reason = getattr(error, "strerror", None) or next(iter(str(error).splitlines()), "")
    return ConfigError(f"cannot write {path}: {reason}; {advice}")
