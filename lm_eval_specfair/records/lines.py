"""A record from a line of JSON: fast where the line is right, with a clear word where it isn't."""

import json
import math
import re
import types
import typing
from typing import Any, Literal

import msgspec

from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.records.schema import LARGEST_COUNT, SCHEMA_VERSION, Record, Settings

FIELD_TYPES = typing.get_type_hints(Record)
_SETTINGS_HINTS = typing.get_type_hints(Settings)
REQUIRED_FIELDS = {field.name for field in msgspec.structs.fields(Record) if field.required}
# It only ever accepts what `parse_record` accepts too, and is many times as fast; what it refuses
# goes there for a clear message.
_DECODE = msgspec.json.Decoder(Record).decode


# Half of a pair: JSON can escape one by itself, and no file takes it.
_SURROGATE = re.compile("[\ud800-\udfff]")


def _fits(value: object, hint: Any) -> bool:
    """Whether a JSON value has the type that a field declares (bool is no number here)."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        return any(_fits(value, each) for each in arguments)
    if origin is Literal:
        return value in arguments
    if origin is list:
        return isinstance(value, list) and all(_fits(each, arguments[0]) for each in value)
    if origin is dict:
        return isinstance(value, dict) and all(_fits(v, arguments[1]) for v in value.values())
    if hint is float:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return False
        try:
            return math.isfinite(value)
        except OverflowError:  # an integer of more digits than a float holds
            return False
    if hint is str and isinstance(value, str):
        return not _SURROGATE.search(value)
    if hint is int:
        return type(value) is int and 0 <= value <= LARGEST_COUNT
    return isinstance(value, hint)


def type_name(hint: Any) -> str:
    """A type as messages name it."""
    name = _spelled(hint)
    return f"{name}, 0 or above" if re.search(r"\bint\b", name) else name


def _spelled(hint: Any) -> str:
    if typing.get_origin(hint) in (types.UnionType, typing.Union):  # typing says Optional[...]
        return " | ".join(map(_spelled, typing.get_args(hint)))
    if hint is type(None):
        return "None"
    return (
        hint.__name__
        if isinstance(hint, type) and not typing.get_origin(hint)
        else str(hint).replace("typing.", "")
    )


def _settings(value: object, where: str) -> Settings:
    if not isinstance(value, dict) or set(value) != set(_SETTINGS_HINTS):
        raise ConfigError(
            f"{where}: settings must hold exactly {sorted(_SETTINGS_HINTS)}, got {value!r:.80}"
        )
    for name, hint in _SETTINGS_HINTS.items():
        if not _fits(value[name], hint):
            raise ConfigError(
                f"{where}: settings.{name} must be {type_name(hint)}, got {value[name]!r:.60}"
            )
    return Settings(**value)


def parse_record(line: str, where: str = "record") -> Record:
    """A record from one line of JSON.

    Args:
        line: One JSON object.
        where: File and line number, for the error message.

    Raises:
        ConfigError: If the line is no JSON object, misses a field, has an unknown one, or one of
            another type.
    """
    try:
        data = json.loads(line)
    except (ValueError, RecursionError):
        raise ConfigError(f"{where}: expected one JSON object a line, got {line!r:.60}") from None
    if not isinstance(data, dict):
        raise ConfigError(f"{where}: expected a JSON object, got {type(data).__name__}")
    unknown, missing = sorted(set(data) - set(FIELD_TYPES)), sorted(REQUIRED_FIELDS - set(data))
    if unknown or missing:
        raise ConfigError(
            f"{where}: unknown fields {unknown!r:.200}, missing fields {missing}; was the file "
            f"written by another version? This one reads schema {SCHEMA_VERSION}."
        )
    settings = data.pop("settings", None)
    for name, value in data.items():
        if not _fits(value, FIELD_TYPES[name]):
            raise ConfigError(
                f"{where}: {name} must be {type_name(FIELD_TYPES[name])}, got {value!r:.60}"
            )
    if settings is not None:
        data["settings"] = _settings(settings, where)
    return Record(**data)


def read_quickly(line: bytes) -> Record | None:
    """A record from one line; None where the slow way must say what is wrong with it."""
    try:
        return _DECODE(line)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


def read_slowly(line: bytes, where: str) -> Record:
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError:
        raise ConfigError(f"{where}: expected UTF-8, got other bytes") from None
    return parse_record(text, where)
