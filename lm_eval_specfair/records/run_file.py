"""`run.json`: how a run was made."""

import json
import typing
from pathlib import Path
from typing import Any

from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.files import write_file
from lm_eval_specfair.records.schema import SCHEMA_VERSION
from lm_eval_specfair.unique_keys import RepeatedKeyError, json_data

RUN_FILE = "run.json"
_OBJECTS = ("versions", "settings", "hardware", "states", "tasks", "totals", "load", "costs")


def read_run(folder: Path) -> dict[str, Any]:
    """`run.json` of a run's folder.

    Raises:
        ConfigError: If there is none, or it is of another schema version.
    """
    path = folder / RUN_FILE
    try:
        data = json_data(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise ConfigError(
            f"{folder} holds no {RUN_FILE}: expected the folder that a run named at its end "
            "(records_dir)"
        ) from None
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None
    except RepeatedKeyError as error:
        raise ConfigError(f"{path}: {error}") from None
    except (ValueError, RecursionError):
        raise ConfigError(f"{path} is not JSON; expected what a run wrote there") from None
    version = data.get("schema_version") if isinstance(data, dict) else None
    if version != SCHEMA_VERSION:
        raise ConfigError(f"{path}: this version reads schema {SCHEMA_VERSION}, got {version!r}")
    for name in _OBJECTS:
        if not isinstance(data.get(name, {}), dict | None):
            kind = type(data[name]).__name__
            raise ConfigError(f"{path}: expected an object at {name!r}, got a {kind}")
    return typing.cast(dict[str, Any], data)


def write_run(folder: Path, run: dict[str, Any]) -> None:
    """Write `run.json`, whole or not at all; a `ConfigError` if the folder cannot be written."""
    text = json.dumps({"schema_version": SCHEMA_VERSION, **run}, indent=2, ensure_ascii=False)
    write_file(folder / RUN_FILE, text + "\n")
