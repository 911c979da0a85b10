"""Meaning of texts and numbers in state columns: one table for CSV, JSON, Parquet and Arrow.

A flag is `running`; a whole number is `trip_code`. A status text is written by historians and OPC servers in
place of a missing value.
"""

from collections.abc import Mapping
from typing import Final

States = Mapping[str, bool | int]
"""A tag's own words (in the form of `normalise`) and the state of each."""

FLAG_WORDS: Final[Mapping[str, bool]] = {
    **dict.fromkeys(("true", "on", "yes", "run", "running", "started"), True),
    **dict.fromkeys(("false", "off", "no", "stop", "stopped"), False),
}
"""Words for a flag, in lower case. Others need a state map: "down" and "idle" differ from site to site."""

STATUS_TEXTS: Final = frozenset(
    {
        # PI and other historians
        *("bad", "bad data", "bad input", "bad output", "bad quality", "bad total", "bad value", "no data"),
        *("no good", "no result", "no sample", "no value", "not available", "not connect", "not connected"),
        *("inp outrange", "out of range", "over range", "under range", "invalid", "invalid data"),
        *("invalid float", "scan off", "scan timeout", "timeout", "i/o timeout", "set to bad", "pt created"),
        *("calc failed", "calc off", "configure", "failed", "intf shut", "access denied", "archive offline"),
        *(
            "arc off-line",
            "arc offline",
            "snapshot bad data",
            "unknown",
            "wrong type",
            "shutdown",
            "unit down",
        ),
        *("offline", "off-line", "disconnected", "stale", "doubtful", "questionable", "uncertain"),
        *("comm fail", "comm failure", "comm error", "communication error", "communication failure"),
        *("equip fail", "device failure", "sensor failure", "sensor fault", "output error", "error", "fault"),
        *("config error", "configuration error", "last known", "last usable", "out of service"),
        *("good", "substituted", "coerced", "filtered", "digital state", "(null)"),
        # spreadsheets and programs
        *("null", "none", "nil", "nan", "n/a", "na", "n.a.", "#n/a", "#na", "#value!", "#div/0!", "#ref!"),
        *("#name?", "#num!", "#null!", "inf", "-inf", "+inf", "infinity", "-infinity", "nat", "missing"),
    }
)
"""Texts that mean "no value", in the form of `normalise`."""

_NUMBER_FLAGS: Final[Mapping[float | None, bool]] = {0.0: False, 1.0: True}
_FILLERS: Final = frozenset("-–—_.*?#")
_INT32_MAX: Final = 2**31 - 1


def normalise(text: str) -> str:
    """Return `text` in lower case with single spaces, so that spellings of one word compare equal."""
    return " ".join(text.casefold().split())


def status_text(value: object) -> str | None:
    """Return `value` if it is a status text ("Bad", "No Data", "Inp OutRange", "---"), else None."""
    if type(value) is not str or len(value) > 60:
        return None
    word = normalise(value).strip("[]<>")
    if word in STATUS_TEXTS or (word and _FILLERS.issuperset(word)):
        return value.strip()
    return None


def parse_flag(value: object, states: States | None = None) -> bool | None:
    """Return the flag for `value` (true, 1, 1.0, "ON", "Running", …), or None if it is not one.

    `states` take precedence over the common words; they name numbers as text ("2").
    """
    if type(value) is bool:
        return value
    word = _word(value)
    if word is None:
        return None
    mapped = states.get(word) if states else None
    if type(mapped) is bool:
        return mapped
    return FLAG_WORDS[word] if word in FLAG_WORDS else _NUMBER_FLAGS.get(_decimal(word))


def parse_whole(value: object, states: States | None = None) -> int | None:
    """Return the whole number for `value` (16, 16.0, "16", "16.0"), or None; within 32 bits.

    `states` take precedence over the number itself.
    """
    word = _word(value)
    if word is None:
        return None
    mapped = states.get(word) if states else None
    if type(mapped) is int:
        return mapped
    number = _decimal(word) if type(value) is str else value
    if type(number) is float and number.is_integer():
        number = int(number)
    return number if type(number) is int and abs(number) <= _INT32_MAX else None


def _word(value: object) -> str | None:
    """Return a text or number as a key of the tables: 1.0 as "1"."""
    if type(value) is str:
        return normalise(value)
    if type(value) is int:
        return str(value) if abs(value) <= _INT32_MAX else None
    if type(value) is float:
        return str(int(value)) if value.is_integer() and abs(value) <= _INT32_MAX else str(value)
    return None


def _decimal(word: str) -> float | None:
    """Return plain decimal digits as a number; `float` would also accept "1_6", "1e1" and "inf"."""
    digits = word.lstrip("+-")
    if len(word) > 20 or not digits.isascii() or not digits.replace(".", "", 1).isdigit():
        return None
    try:
        return float(word)
    except ValueError:
        return None
