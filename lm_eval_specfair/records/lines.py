"""A record from a line of JSON: fast where the line is right, with a clear word where it isn't."""

import dataclasses
import json
import math
import re
import types
import typing
from typing import Annotated, Any, Literal

import msgspec

from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.records.schema import SCHEMA_VERSION, Record, Settings

FIELD_TYPES = typing.get_type_hints(Record)
_SETTINGS_HINTS = typing.get_type_hints(Settings)
REQUIRED_FIELDS = {
    field.name for field in dataclasses.fields(Record) if field.default is dataclasses.MISSING
}


# All whole numbers of a record are counts or ids.
_LARGEST = 2**63 - 1
_COUNT = Annotated[int, msgspec.Meta(ge=0, le=_LARGEST)]


def _counted(hint: Any) -> Any:
    """A type with its whole numbers bounded."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is int:
        return _COUNT
    if origin is list:
        return list[_counted(arguments[0])]  # type: ignore[misc]  # no type, as mypy sees it
    if origin in (types.UnionType, typing.Union):
        return typing.Union[tuple(_counted(each) for each in arguments)]  # noqa: UP007
    return hint


# Decoders that check types as they read, many times as fast as `parse_record`. Dataclasses let
# unknown fields pass, structs don't, so a line goes through both. They only ever accept what
# `parse_record` accepts too; whatever they refuse goes there for a clear message.
_LINE = msgspec.defstruct(
    "_LINE",
    [
        (name, _counted(hint), msgspec.NODEFAULT if name in REQUIRED_FIELDS else None)
        for name, hint in (
            FIELD_TYPES
            | {
                "settings": msgspec.defstruct(
                    "_SETTINGS",
                    [(name, _counted(hint)) for name, hint in _SETTINGS_HINTS.items()],
                    forbid_unknown_fields=True,
                )
                | None
            }
        ).items()
    ],
    kw_only=True,
    forbid_unknown_fields=True,
)
_CHECK = msgspec.json.Decoder(_LINE).decode
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
        return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _LARGEST
    return isinstance(value, hint)


def type_name(hint: Any) -> str:
    """A type as messages name it."""
    name = hint.__name__ if isinstance(hint, type) else str(hint).replace("typing.", "")
    return f"{name}, 0 or above" if re.search(r"\bint\b", name) else name


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
        _CHECK(line)
        return _DECODE(line)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


def read_slowly(line: bytes, where: str) -> Record:
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError:
        raise ConfigError(f"{where}: expected UTF-8, got other bytes") from None
    return parse_record(text, where)
