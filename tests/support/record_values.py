"""Records with any values that the schema allows, for properties of whatever stores them."""

import typing

from hypothesis import strategies as st

from lm_eval_specfair.records import Record, Settings

LARGEST = 2**63 - 1


def values(hint) -> st.SearchStrategy:
    """Whatever a field may hold, integers of 64 bits."""
    arguments = typing.get_args(hint)
    if hint is Settings:
        hints = typing.get_type_hints(Settings)
        return st.builds(Settings, **{name: values(each) for name, each in hints.items()})
    if hint is int:
        return st.integers(0, LARGEST)
    if hint is float:
        return st.floats(allow_nan=False, allow_infinity=False)
    if typing.get_origin(hint) is list:
        return st.lists(values(arguments[0]), max_size=4)
    if typing.get_origin(hint) is dict:
        return st.dictionaries(st.text(), values(arguments[1]), max_size=3)
    if type(None) in arguments or str in arguments:
        return st.one_of(*map(values, arguments))
    return st.from_type(hint)


RECORDS = st.lists(
    st.builds(
        Record, **{name: values(hint) for name, hint in typing.get_type_hints(Record).items()}
    ),
    max_size=7,
)
