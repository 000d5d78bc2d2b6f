"""Files that appear whole or not at all."""

import contextlib
from collections.abc import Mapping
from pathlib import Path

from lm_eval_specfair.errors import ConfigError


def write_files(directory: Path, contents: Mapping[str, bytes]) -> list[Path]:
    """Write files into a folder; what it holds under these names is replaced, all at the end.

    Args:
        directory: Made where it is missing.
        contents: By file name.

    Returns:
        The files.

    Raises:
        ConfigError: If the folder cannot be made or written.
    """
    fresh = {name: directory / f"{name}.writing" for name in contents}
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for name, content in contents.items():
            fresh[name].write_bytes(content)
        for name, path in fresh.items():
            path.replace(directory / name)
    except OSError as error:
        for path in fresh.values():
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
        raise ConfigError(
            f"cannot write into {directory}: {error.strerror}; name a folder that can be written"
        ) from None
    return [directory / name for name in contents]
