"""Decode AMQP properties, headers and routing keys that anybody may have written.

The broker checks that they are well-formed, not that text is UTF-8 or that a timestamp is one. pamqp raises
for those, aiormq then drops the connection, and the message that did it is delivered again. `install` makes
pamqp's decoder total: whatever a short string holds becomes printable text that fits into a short string
again, so it can be logged, stored, shown and sent on.
"""

import struct
from collections.abc import Callable
from datetime import UTC, datetime
from hashlib import blake2b
from typing import Any, Final

from pamqp import decode

from esp_common.text import printable

MAX_SHORT_STRING_BYTES: Final = 255
MAX_DEPTH: Final = 16
"""Levels of tables and arrays that are read; deeper ones become None."""

_UINT32: Final = struct.Struct(">I")
_UINT64: Final = struct.Struct(">Q")
_KEPT_CHARACTERS: Final = 200


def short_text(raw: bytes) -> str:
    """Return `raw` as printable text of at most 255 bytes; a longer one is cut and ends in its digest."""
    text = printable(raw)
    if len(text.encode()) <= MAX_SHORT_STRING_BYTES:
        return text
    kept = text.encode()[:_KEPT_CHARACTERS].decode("utf-8", "ignore")
    return f"{kept}…{blake2b(raw, digest_size=8).hexdigest()}"


def short_string(value: bytes) -> tuple[int, str]:
    """Decode a short string; return the bytes it takes and its text."""
    end = value[0] + 1 if value else 1
    raw = value[1:end]
    # Nearly all are plain: ASCII has no character that takes more room once it is escaped.
    if raw.isascii() and (text := raw.decode("ascii")).isprintable():
        return end, text
    return end, short_text(raw)


def timestamp(value: bytes) -> tuple[int, datetime | None]:
    """Decode a timestamp, None where it is beyond what a datetime holds."""
    return 8, _moment(value, 0)


def table(value: bytes) -> tuple[int, dict[str, Any]]:
    """Decode a field table; of one that is malformed return what comes before the fault."""
    reader = _Reader(value)
    found: dict[str, Any] = reader.table(MAX_DEPTH)
    return 4 + (_UINT32.unpack_from(value)[0] if len(value) >= 4 else 0), found


class _Reader:
    """Reads tables by position: pamqp copies the rest of the table for each field, quadratic in its size."""

    def __init__(self, value: bytes) -> None:
        self._value = value
        self._at = 0

    def table(self, depth: int) -> dict[str, Any]:
        fields: dict[str, Any] = {}
        end = self._end()
        try:
            while self._at < end:
                key = short_text(self._take(self._byte()))
                fields[key] = self._field(depth)
        except (IndexError, struct.error):
            pass
        self._at = end
        return fields

    def _array(self, depth: int) -> list[Any]:
        items: list[Any] = []
        end = self._end()
        try:
            while self._at < end:
                items.append(self._field(depth))
        except (IndexError, struct.error):
            pass
        self._at = end
        return items

    def _field(self, depth: int) -> Any:
        kind = self._byte()
        if kind in (_TABLE, _ARRAY):
            if depth == 0:
                self._at = self._end()
                return None
            return self.table(depth - 1) if kind == _TABLE else self._array(depth - 1)
        if kind == _LONG_STRING:
            return self._take(self._length()).decode("utf-8", "backslashreplace")
        if kind == _BYTES:
            return self._take(self._length())
        size, convert = _SCALARS[kind] if kind in _SCALARS else self._unknown()
        self._at += size
        return convert(self._value, self._at - size)

    def _unknown(self) -> tuple[int, Callable[[bytes, int], Any]]:
        raise IndexError("a field of unknown type: where the next one begins cannot be told")

    def _end(self) -> int:
        length = self._length()
        return min(self._at + length, len(self._value))

    def _length(self) -> int:
        self._at += 4
        return int(_UINT32.unpack_from(self._value, self._at - 4)[0])

    def _byte(self) -> int:
        self._at += 1
        return self._value[self._at - 1]

    def _take(self, length: int) -> bytes:
        self._at += length
        return self._value[self._at - length : self._at]


def _moment(value: bytes, at: int) -> datetime | None:
    seconds = int(_UINT64.unpack_from(value, at)[0])
    try:
        # As pamqp takes it: beyond the year 2106 they are milliseconds.
        return datetime.fromtimestamp(seconds / 1000 if seconds > 0xFFFFFFFF else seconds, UTC)
    except (OverflowError, OSError, ValueError):
        return None


def _decimal(value: bytes, at: int) -> float:
    places, digits = struct.unpack_from(">Bi", value, at)
    scale: float = 10.0**places
    return float(digits) / scale


def _scalar(form: str) -> tuple[int, Callable[[bytes, int], Any]]:
    packed = struct.Struct(form)
    return packed.size, lambda value, at: packed.unpack_from(value, at)[0]


_TABLE, _ARRAY, _LONG_STRING, _BYTES = b"FASx"
_SCALARS: Final[dict[int, tuple[int, Callable[[bytes, int], Any]]]] = {
    ord("t"): _scalar(">?"),
    ord("b"): _scalar(">b"),
    ord("B"): _scalar(">B"),
    ord("s"): _scalar(">h"),
    ord("u"): _scalar(">H"),
    ord("I"): _scalar(">i"),
    ord("i"): _scalar(">I"),
    ord("l"): _scalar(">q"),
    ord("L"): _scalar(">q"),
    ord("f"): _scalar(">f"),
    ord("d"): _scalar(">d"),
    ord("D"): (5, _decimal),
    ord("T"): (8, _moment),
    ord("V"): (0, lambda _value, _at: None),
    0: (0, lambda _value, _at: None),
}


def install() -> None:
    """Have pamqp, and all that is built on it, decode what others wrote with this module."""
    decode.METHODS |= {"shortstr": short_string, "table": table, "timestamp": timestamp}
