"""Convert between microseconds since 1970 (UTC), as used by the core, and datetimes."""

from datetime import UTC, datetime, timedelta
from typing import Final

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)


def as_us(time: datetime) -> int:
    """Return microseconds since 1970."""
    return (time - _EPOCH) // _MICROSECOND


def as_time(time_us: int) -> datetime:
    """Return the datetime (UTC) of microseconds since 1970."""
    return _EPOCH + timedelta(microseconds=int(time_us))
