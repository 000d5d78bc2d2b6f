"""Records as typed columns of Arrow, and back; the types are those that the schema declares.

A field of another type, or a value that no record may hold, is refused as in a line of JSON. Whole
columns are converted at once: Arrow's own way through dictionaries takes several times as long.
Imported only where columns are needed, since pyarrow takes long to load.
"""

import bisect
import itertools
import re
import typing
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import msgspec
import numpy as np
import pyarrow as pa
from msgspec import structs

from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.records.schema import Record, Settings

FIELD_TYPES = typing.get_type_hints(Record)
REQUIRED_FIELDS = {field.name for field in msgspec.structs.fields(Record) if field.required}
_SCALARS = {int: pa.int64(), float: pa.float64(), bool: pa.bool_(), str: pa.string()}
# A field of a document holds one text or several: one of the two is there.
_TEXTS = pa.struct([("text", pa.string()), ("texts", pa.list_(pa.string()))])


class Refused(Exception):
    """A value that no record may hold, and its row in its array."""

    def __init__(self, row: int, value: object) -> None:
        super().__init__(row, value)
        self.row, self.value = row, value


def arrow_schema() -> pa.Schema:
    """The columns of a record, in the order of its fields."""
    return pa.schema(_arrow_fields(FIELD_TYPES))


def batch_of(records: Sequence[Record]) -> pa.RecordBatch:
    """Records as columns; a `ConfigError` if a number is larger than 64 bits hold."""
    columns, schema = [], arrow_schema()
    for field in schema:
        values = [getattr(record, field.name) for record in records]
        if field.name == "settings":
            ways = {used: used and msgspec.structs.asdict(used) for used in values}
            values = [ways[used] for used in values]
        elif field.name == "group_fields":
            values = [
                [(k, {"text" if isinstance(v, str) else "texts": v}) for k, v in fields.items()]
                for fields in values
            ]
        try:
            columns.append(pa.array(values, type=field.type))
        except (pa.ArrowInvalid, OverflowError):
            largest = max(range(len(values)), key=lambda row: _magnitude(values[row]))
            raise ConfigError(
                f"request {records[largest].request_id!r:.100}: {field.name} must fit into 64 "
                "bits to become a column; keep such records as JSON Lines"
            ) from None
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def records_of(batch: pa.RecordBatch, where: str, first_row: int = 0) -> Iterator[Record]:
    """Records from columns that `check_columns` let pass, after `first_row` others of the file.

    Raises:
        ConfigError: If a value is none that a record may hold.
    """
    columns = {}
    for name, array in zip(batch.schema.names, batch.columns, strict=True):
        hint = FIELD_TYPES[name]
        expected = _arrow_type(bare_type(hint)[0])
        try:
            columns[name] = values_of(as_type(array, expected), hint)
        except Refused as refused:
            raise ConfigError(
                f"{where}: row {first_row + refused.row}: {name} must be {type_name(hint)}, got "
                f"{refused.value!r:.60}"
            ) from None
        except (pa.ArrowException, UnicodeDecodeError) as error:
            raise ConfigError(
                f"{where}: {name} must be {type_name(hint)}: {first_line(error)}"
            ) from None
    names = list(columns)
    for row in zip(*columns.values(), strict=True):
        yield Record(**dict(zip(names, row, strict=True)))


def check_columns(schema: pa.Schema, where: str) -> None:
    """Refuse columns that are not those of records.

    Integers of other widths, 32-bit floats, large and dictionary-encoded strings and lists pass:
    that is how other programs write the same.

    Raises:
        ConfigError: If a column is unknown, missing, there twice, or of another type.
    """
    unknown = sorted(set(schema.names) - set(FIELD_TYPES))
    missing = sorted(REQUIRED_FIELDS - set(schema.names))
    twice = sorted({name for name in schema.names if schema.names.count(name) > 1})
    if unknown or missing or twice:
        raise ConfigError(
            f"{where}: unknown columns {unknown!r:.200}, missing columns {missing}, columns there "
            f"twice {twice!r:.200}; expected a file that `specfair export` wrote"
        )
    for field in schema:
        hint, is_optional = bare_type(FIELD_TYPES[field.name])
        wanted = _arrow_type(hint)
        if not (_fits(field.type, wanted) or (is_optional and pa.types.is_null(field.type))):
            raise ConfigError(
                f"{where}: column {field.name} must be {wanted}, got {field.type!s:.80}"
            )


def first_line(error: Exception) -> str:
    """The first line of Arrow's message, which may have pages."""
    return next(iter(str(error).splitlines()), type(error).__name__)[:160]


def type_name(hint: Any) -> str:
    """A type as messages name it."""
    is_plain = isinstance(hint, type) and not typing.get_origin(hint)
    name = hint.__name__ if is_plain else str(hint).replace("typing.", "")
    name = re.sub(r"^Optional\[(.*)\]$", r"\1 | None", name)
    return f"{name}, 0 or above" if re.search(r"\bint\b", name) else name


def bare_type(hint: Any) -> tuple[Any, bool]:
    """A type without `| None`, and whether that was there."""
    arguments = typing.get_args(hint)
    if type(None) not in arguments:
        return hint, False
    return next(kind for kind in arguments if kind is not type(None)), True


_DEFAULTS = {
    field.name: field.default
    for field in structs.fields(Settings)
    if field.default is not msgspec.NODEFAULT
}


def _arrow_fields(hints: dict[str, Any]) -> list[pa.Field]:
    bare = {name: bare_type(hint) for name, hint in hints.items()}
    return [
        pa.field(name, _arrow_type(hint), nullable=optional)
        for name, (hint, optional) in bare.items()
    ]


def _arrow_type(hint: Any) -> pa.DataType:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Settings:
        return pa.struct(_arrow_fields(typing.get_type_hints(Settings)))
    if origin is Literal:
        return pa.string()
    if origin is list:
        return pa.list_(_arrow_type(arguments[0]))
    if origin is dict:
        return pa.map_(pa.string(), _TEXTS)
    return _SCALARS[hint]


def _fits(given: pa.DataType, expected: pa.DataType) -> bool:
    """Whether values of one type are values of the other, up to width and encoding."""
    kinds = pa.types
    if kinds.is_dictionary(given):
        return kinds.is_string(expected) and _fits(given.value_type, expected)
    if kinds.is_int64(expected):
        return bool(kinds.is_integer(given))
    if kinds.is_float64(expected):
        return bool(kinds.is_floating(given) or kinds.is_integer(given))
    if kinds.is_string(expected):
        return bool(kinds.is_string(given) or kinds.is_large_string(given))
    if kinds.is_list(expected):
        is_list = kinds.is_list(given) or kinds.is_large_list(given)
        return is_list and _fits(given.value_type, expected.value_type)
    if kinds.is_struct(expected):
        # Of structs there are the settings only; older files lack what has a default.
        names = [field.name for field in given]
        wanted = [
            field.name for field in expected if field.name in names or field.name not in _DEFAULTS
        ]
        return names == wanted and all(
            _fits(given.field(name).type, expected.field(name).type) for name in names
        )
    return bool(given == expected)


def as_type(array: pa.Array, expected: pa.DataType) -> pa.Array:
    """An array of a type that `check_columns` let pass as one of the expected type.

    Raises:
        pa.ArrowException: If a value does not fit.
    """
    if array.type == expected:
        return array
    if pa.types.is_struct(expected) and array.type.num_fields < expected.num_fields:
        children = {field.name: array.field(field.name) for field in array.type}
        for name in _DEFAULTS.keys() - children.keys():
            children[name] = pa.array([_DEFAULTS[name]] * len(array), expected.field(name).type)
        return pa.StructArray.from_arrays(
            [children[field.name].cast(field.type) for field in expected],
            fields=list(expected),
            mask=array.is_null(),
        )
    return array.cast(expected)


def _magnitude(value: Any) -> int | float:
    if isinstance(value, list):
        return max(map(_magnitude, value), default=-1)
    return abs(value) if isinstance(value, (int, float)) else -1


def values_of(array: pa.Array, hint: Any) -> list[Any]:
    """An array as a list of what a record holds; `Refused` for what it may not hold."""
    hint, is_optional = bare_type(hint)
    present = None
    if array.null_count:
        present = array.is_valid().to_numpy(zero_copy_only=False)
        if not is_optional:
            raise Refused(int(np.argmin(present)), None)
        array = array.drop_null()
    try:
        kept = _present_values(array, hint)
    except Refused as refused:
        if present is None:
            raise
        raise Refused(int(np.flatnonzero(present)[refused.row]), refused.value) from None
    if present is None:
        return kept
    following = iter(kept)
    return [next(following) if there else None for there in present.tolist()]


def _present_values(array: pa.Array, hint: Any) -> list[Any]:
    """The same of an array without nulls."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is list:
        return _slices(array, values_of, array.values, arguments[0])
    if origin is dict:
        # Keys and items of a map are those of the whole array, wherever this part of it begins.
        keys = _slices(array, values_of, array.keys, str)
        texts = _slices(array, _texts, array.items, None)
        return [dict(zip(*each, strict=True)) for each in zip(keys, texts, strict=True)]
    if hint is Settings:
        hints = typing.get_type_hints(Settings)
        parts = [values_of(array.field(name), each) for name, each in hints.items()]
        each_way = list(zip(*parts, strict=True))
        ways = {way: Settings(**dict(zip(hints, way, strict=True))) for way in set(each_way)}
        return [ways[way] for way in each_way]
    items = array.to_numpy(zero_copy_only=False)
    values: list[Any] = items.tolist()
    if hint is int:
        _refuse_unless(items >= 0, values)
    if hint is float:
        _refuse_unless(np.isfinite(items), values)
    if origin is Literal and not set(values) <= set(arguments):
        _refuse_unless(np.array([value in arguments for value in values]), values)
    return values


def _texts(array: pa.Array, _hint: Any) -> list[Any]:
    """What fields of documents say: one text, or several."""
    one = values_of(array.field("text"), str | None)
    several = values_of(array.field("texts"), list[str] | None)
    texts = [a if b is None else b for a, b in zip(one, several, strict=True)]
    is_one = [(a is None) != (b is None) for a, b in zip(one, several, strict=True)]
    _refuse_unless(np.array(is_one, dtype=bool), texts)
    return texts


def _slices(array: pa.Array, convert: Any, values: pa.Array, hint: Any) -> list[list[Any]]:
    """The parts of `values` that belong to each row of a list or map."""
    offsets = array.offsets.to_numpy().tolist()
    start = offsets[0]
    try:
        flat = convert(values.slice(start, offsets[-1] - start), hint)
    except Refused as refused:
        row = bisect.bisect_right(offsets, start + refused.row) - 1
        raise Refused(row, refused.value) from None
    return [flat[a - start : b - start] for a, b in itertools.pairwise(offsets)]


def _refuse_unless(right: np.ndarray, values: list[Any]) -> None:
    if not right.all():
        row = int(np.argmin(right))
        raise Refused(row, values[row])
