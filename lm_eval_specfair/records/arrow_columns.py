"""Records' columns of Arrow as NumPy arrays, without an object for each record.

Every value is checked as where records are read one by one; what is refused is said in the words of
that way.
"""

from collections.abc import Callable
from typing import Any, Literal, get_args, get_origin

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lm_eval_specfair.records import arrow
from lm_eval_specfair.records.record_batch import (
    LIST_FIELDS,
    NUMBER_FIELDS,
    Categories,
    FloatColumn,
    Lists,
    Numbers,
    RecordBatch,
)

_NO_RECORD = arrow.Refused(0, None)  # which row and value it is is asked afterwards


def batch_from(columns: pa.RecordBatch, where: str, first_row: int = 0) -> RecordBatch:
    """A batch from columns that `check_columns` let pass, after `first_row` others of the file.

    Raises:
        ConfigError: If a value is none that a record may hold.
    """
    try:
        return _batch(_as_declared(columns))
    except (arrow.Refused, pa.ArrowException, UnicodeDecodeError):
        # One by one, to say which row and value it is.
        for _ in arrow.records_of(columns, where, first_row):
            pass
        raise


def _as_declared(columns: pa.RecordBatch) -> dict[str, pa.Array]:
    """The columns with the schema's types, whatever their width and encoding; None fills others."""
    declared = arrow.arrow_schema()
    given = {}
    for field in declared:
        place = columns.schema.get_field_index(field.name)
        if place < 0:
            array = pa.nulls(len(columns), field.type)
        else:
            array = arrow.as_type(columns.column(place), field.type)
            array.validate(full=True)  # UTF-8, and lists that end where they should
        if not field.nullable and array.null_count:
            raise _NO_RECORD
        given[field.name] = array
    return given


def _batch(columns: dict[str, pa.Array]) -> RecordBatch:
    for name, hint in arrow.FIELD_TYPES.items():
        kind, _ = arrow.bare_type(hint)
        if get_origin(kind) is Literal:
            known = set(pc.unique(columns[name].drop_null()).to_pylist())
            if not known <= set(get_args(kind)):
                raise _NO_RECORD
    return RecordBatch(
        request_ids=columns["request_id"].to_pylist(),
        is_failed=columns["failure"].is_valid().to_numpy(zero_copy_only=False),
        tasks=_strings(columns["task"]),
        request_types=_strings(columns["request_type"]),
        group_fields=_distinct(columns, "group_fields", _codes_of_fields),
        settings=_distinct(columns, "settings", _codes_of_settings),
        doc_ids=columns["doc_id"].to_numpy(),
        numbers={name: _numbers(columns[name]) for name in NUMBER_FIELDS},
        lists={name: _lists(columns[name]) for name in LIST_FIELDS},
    )


def _numbers(array: pa.Array) -> FloatColumn:
    if pa.types.is_boolean(array.type):
        array = array.cast(pa.int8())
    else:
        values = array.drop_null().to_numpy()
        are_right = values >= 0 if pa.types.is_integer(array.type) else np.isfinite(values)
        if not are_right.all():
            raise _NO_RECORD
    if array.null_count:
        array = array.cast(pa.float64(), safe=False)  # counts beyond 2^53 are rounded
    return np.asarray(array.to_numpy(zero_copy_only=False), dtype=np.float64)


def _lists(array: pa.ListArray) -> Lists:
    lengths = np.diff(array.offsets.to_numpy()).astype(np.int64)
    if array.null_count:
        lengths[~array.is_valid().to_numpy(zero_copy_only=False)] = -1
    flat = array.flatten()
    if flat.null_count:
        raise _NO_RECORD
    values = flat.to_numpy()
    if not (values >= 0).all():
        raise _NO_RECORD
    return Lists(values, lengths)


def _strings(array: pa.StringArray) -> Categories[str]:
    encoded = array.dictionary_encode()
    return Categories(encoded.dictionary.to_pylist(), encoded.indices.to_numpy().astype(np.int64))


def _distinct(
    columns: dict[str, pa.Array], name: str, codes_of: Callable[[pa.Array], Numbers | None]
) -> Categories[Any]:
    """The different values of a column; `codes_of` numbers them where they are of a simple kind."""
    array, hint = columns[name], arrow.FIELD_TYPES[name]
    codes = codes_of(array)
    if codes is None:
        return Categories.of(arrow.values_of(array, hint), repr)
    distinct, firsts, places = np.unique(codes, return_index=True, return_inverse=True)
    order = np.argsort(firsts)
    ranks = np.empty(len(distinct), dtype=np.int64)
    ranks[order] = np.arange(len(distinct))
    return Categories(arrow.values_of(array.take(pa.array(firsts[order])), hint), ranks[places])


def _codes_of_fields(array: pa.MapArray) -> Numbers | None:
    """Equal numbers for equal fields of documents; None unless all have as many, one text each."""
    offsets = array.offsets.to_numpy()
    [count, *others] = np.unique(np.diff(offsets)).tolist() or [0]
    begin, length = int(offsets[0]), int(offsets[-1] - offsets[0])
    texts = array.items.slice(begin, length)
    if others or texts.null_count or texts.field("text").null_count:
        return None
    # What a struct's field has is that of the whole array, wherever this part of it begins.
    if texts.field("texts").null_count < length:
        return None
    codes = np.zeros(len(array), dtype=np.int64)
    for part in (array.keys.slice(begin, length), texts.field("text")):
        encoded = part.dictionary_encode()
        for column in encoded.indices.to_numpy().reshape(len(array), count).T:
            codes = _combined(codes, column, len(encoded.dictionary))
    return codes


def _codes_of_settings(array: pa.StructArray) -> Numbers:
    """Equal numbers for equal settings, missing ones included."""
    codes: Numbers = array.is_valid().to_numpy(zero_copy_only=False).astype(np.int64)
    for number in range(array.type.num_fields):
        encoded = array.field(number).dictionary_encode(null_encoding="encode")
        codes = _combined(codes, encoded.indices.to_numpy(), len(encoded.dictionary))
    return codes


def _combined(codes: Numbers, column: np.ndarray, size: int) -> Numbers:
    """Numbers for pairs; they stay below the number of rows, so that nothing overflows."""
    codes = np.unique(codes * (size + 1) + column, return_inverse=True)[1]
    return np.asarray(codes, dtype=np.int64)
