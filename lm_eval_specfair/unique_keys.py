"""JSON and YAML with each key once: of two, their parsers keep the last without a word."""

import json
from typing import Any

import yaml


class RepeatedKeyError(ValueError):
    """A key that is given twice in one place."""

    def __init__(self, key: object) -> None:
        super().__init__(f"{str(key)[:60]!r} is given twice in one place; keep one of them")


def json_data(text: str | bytes) -> Any:
    """What a JSON text holds.

    Raises:
        RepeatedKeyError: If one object has a key twice.
        ValueError: If it is not JSON.
        RecursionError: If it is too deep.
    """
    return json.loads(text, object_pairs_hook=_object)


def yaml_data(text: str) -> Any:
    """What a YAML text holds.

    Raises:
        RepeatedKeyError: If one mapping has a key twice.
        yaml.YAMLError: If it is not YAML.
        ValueError: If a number has too many digits.
        RecursionError: If it is too deep.
    """
    data = yaml.safe_load(text)
    todo, seen = [yaml.compose(text, yaml.SafeLoader)], set()
    while todo:
        node = todo.pop()
        if id(node) in seen:  # an alias
            continue
        seen.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            todo += node.value
        if isinstance(node, yaml.MappingNode):
            _refuse_repeated([key.value for key, _ in node.value])
            todo += [value for _, value in node.value]
    return data


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        _refuse_repeated([key for key, _ in pairs])
    return found


def _refuse_repeated(keys: list[Any]) -> None:
    seen = set()
    for key in map(str, keys):
        if key in seen:
            raise RepeatedKeyError(key)
        seen.add(key)
