"""From the bodies that gateways sent to readings not yet screened, many bodies at a time."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Body:
    """One message as it arrived: an AMQP delivery, or one HTTP request of `gateway_id`."""

    content: bytes
    content_type: str | None
    gateway_id: str
    message_id: str | None = None


@dataclass(frozen=True, slots=True)
class Decoded:
    """What `bodies` hold, parsed."""

    bodies: Sequence[Body]


def decode(bodies: Sequence[Body]) -> Decoded:
    """Parse `bodies`; never raises for what a gateway sent."""
    raise NotImplementedError
