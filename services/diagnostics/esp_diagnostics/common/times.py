"""Times as the core has them, microseconds since 1970 (UTC), and as the database has them."""

from datetime import UTC, datetime, timedelta
from typing import Final

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)


def as_us(time: datetime) -> int:
    """Return microseconds since 1970."""
    return (time - _EPOCH) // _MICROSECOND


def as_time(time_us: int) -> datetime:
    """Return the instant, UTC."""
    return _EPOCH + timedelta(microseconds=int(time_us))
