"""Why a reading or a channel is refused, and what is kept of it."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Final, NamedTuple
from uuid import UUID


class Reason(StrEnum):
    """Why a reading is in quarantine; stable codes that operators filter by."""

    UNDECODABLE = "undecodable"
    UNSUPPORTED_MEDIA_TYPE = "unsupported-media-type"
    INVALID_SCHEMA = "invalid-schema"
    UNKNOWN_CHANNEL = "unknown-channel"
    INVALID_TIME = "invalid-time"
    TIME_IN_FUTURE = "time-in-future"
    TIME_TOO_OLD = "time-too-old"
    CLOCK_NOT_SET = "clock-not-set"
    UNKNOWN_PUMP = "unknown-pump"
    UNKNOWN_GATEWAY = "unknown-gateway"
    FOREIGN_GATEWAY = "foreign-gateway"
    NOT_FINITE = "not-finite"
    OUT_OF_RANGE = "out-of-range"
    SENTINEL_VALUE = "sentinel-value"
    STATUS_TEXT = "status-text"
    NO_CHANNELS = "no-channels"
    CONFLICT = "conflict"
    TOO_MANY_REFUSED = "too-many-refused"


UNKNOWN: Final = frozenset(
    {Reason.UNKNOWN_PUMP, Reason.UNKNOWN_GATEWAY, Reason.FOREIGN_GATEWAY, Reason.UNKNOWN_CHANNEL}
)
"""Refusals that a newer registry might not give."""


class Refusals(NamedTuple):
    """Numbers of refusals: of whole readings, and of single channels."""

    readings: int
    channels: int


NONE: Final = Refusals(0, 0)


@dataclass(frozen=True, slots=True)
class Quarantined:
    """One refused reading, or one refused channel; `id` follows from `payload` (`quarantine_id`).

    `channel`: the channel, or the name that is neither channel nor tag; None where the whole reading is
    refused. `payload`: what the gateway sent; for a channel its pump, its time and its value only, which is a
    reading of that channel alone: sent in again it fills that channel of the stored reading.
    `rest`: set for a summary row, the refusals of a message that have no rows of their own; its payload is
    the whole message.
    """

    id: UUID
    gateway_id: str
    message_id: str | None
    pump_id: str | None
    time: datetime | None
    reason: Reason
    detail: str
    payload: dict[str, Any]
    channel: str | None = None
    rest: Refusals | None = None

    @property
    def refusals(self) -> Refusals:
        """Return how many refusals the row stands for."""
        if self.rest is not None:
            return self.rest
        return Refusals(1, 0) if self.channel is None else Refusals(0, 1)
