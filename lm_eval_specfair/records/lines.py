"""A record from one line of JSON, checked against the schema while it is decoded."""

import msgspec

from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.escape import one_line
from lm_eval_specfair.records.schema import SCHEMA_VERSION, Record

_LONGEST_REASON = 200
_NOT_JSON = "expected one JSON object per line, in UTF-8"
_decode = msgspec.json.Decoder(Record).decode


def parse_record(line: bytes | str, *where: object) -> Record:
    """A record from one line of JSON; `where` are file and line number, for the error message.

    Raises:
        ConfigError: If the line is not a JSON object, misses a field, has an unknown one, or one of
            another type; it says which (`$.field`).
    """
    try:
        return _decode(line)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        is_object = isinstance(error, msgspec.ValidationError)
        problem = f"not a record of schema {SCHEMA_VERSION}" if is_object else _NOT_JSON
        place = ":".join(map(str, where)) or "record"
        raise ConfigError(f"{place}: {problem}: {one_line(error)[:_LONGEST_REASON]}") from None
