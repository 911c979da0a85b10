"""JSON objects that name a key twice: parsers keep the last value and say nothing, here all are kept."""

import json
from collections.abc import Callable
from typing import Any


class Repeated(list[Any]):
    """All values of a key that an object names more than once; of no type that a reading may carry."""


def may_repeat(content: bytes, value: Any) -> bool:
    """Return whether JSON `content`, parsed as `value`, may name a key of an object twice.

    False is certain: without escapes, and without space before a colon, each key of the text ends in `":`.
    """
    if b"\\" in content or content.count(b'":') != _keys(value):
        return True
    # Looking for one byte is much faster, and compact JSON has no space at all.
    return any(space in content and space + b":" in content for space in (b" ", b"\t", b"\n", b"\r"))


def loads(text: str, parse_int: Callable[[str], Any]) -> Any:
    """Parse JSON, NaN and Infinity too; the values of a repeated key become a `Repeated`."""
    return json.loads(text, parse_int=parse_int, object_pairs_hook=_object)


def _keys(value: Any) -> int:
    """Return how many keys a body of readings has."""
    if type(value) is dict:
        readings = value.get("readings")
        return len(value) + (_keys(readings) if type(readings) is list else 0)
    if type(value) is list:
        return sum(len(row) for row in value if type(row) is dict)
    return 0


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = dict(pairs)
    if len(found) == len(pairs):
        return found
    values: dict[str, list[Any]] = {}
    for key, value in pairs:
        values.setdefault(key, []).append(value)
    return {key: each[0] if len(each) == 1 else Repeated(each) for key, each in values.items()}
