"""Dead letters: messages that no worker could process, seen, sent again or discarded by an operator."""

from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Final

from aio_pika.abc import AbstractIncomingMessage
from esp_common import dead_letters, topology
from esp_common.errors import Conflict
from esp_common.messaging import Publisher

from esp_ingest.assets import SERVICE

UNKNOWN_KEY: Final = "unknown"
"""The routing key of a letter that claims to have died before: whose it is cannot be told."""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """One dead message. `id` follows from its content; `reason` is the worker's, or the broker's word."""

    id: str
    message_id: str | None
    routing_key: str
    content_type: str | None
    reason: str
    error_id: str | None
    died_at: str | None
    body: bytes


class DeadLetters(dead_letters.DeadLetters[DeadLetter]):
    """The dead letters of `ingest.telemetry`."""

    service = SERVICE
    queue = topology.INGEST_TELEMETRY_DEAD

    def read(self, message: AbstractIncomingMessage) -> DeadLetter:
        """Return what a dead message says."""
        return _letter(message)

    async def send(self, letter: DeadLetter, publisher: Publisher) -> None:
        """Send a letter in again under its first routing key; Conflict if whose it is cannot be told."""
        if letter.routing_key == UNKNOWN_KEY:
            raise Conflict(f"whose dead letter {letter.id} is cannot be told", fix="discard it")
        await publisher.publish(
            topology.INGEST,
            letter.routing_key,
            letter.body,
            content_type=letter.content_type or "",
            message_id=letter.message_id,
        )

    def told(self, letter: DeadLetter) -> dict[str, Any]:
        """Return what the audit trail says of a letter."""
        return {
            "message_id": letter.message_id,
            "routing_key": letter.routing_key,
            "reason": letter.reason,
        }


def _letter(message: AbstractIncomingMessage) -> DeadLetter:
    # The worker buries with headers of its own only. Where the broker did it, the others are the sender's.
    deaths: Any = message.headers.get("x-death")
    headers = {} if deaths else message.headers
    death = _only_death(deaths)
    key = (death.get("routing-keys") or [UNKNOWN_KEY])[0] if deaths else headers.get("esp-routing-key")
    died_at = death.get("time") or message.timestamp
    name = f"{message.message_id or ''}\0".encode() + message.body
    return DeadLetter(
        id=blake2b(name, digest_size=8).hexdigest(),
        message_id=message.message_id,
        routing_key=str(key or UNKNOWN_KEY),
        content_type=message.content_type,
        reason=str(headers.get("esp-reason") or death.get("reason") or "unknown"),
        error_id=str(headers["esp-error-id"]) if "esp-error-id" in headers else None,
        died_at=str(died_at) if died_at else None,
        body=message.body,
    )


def _only_death(deaths: Any) -> dict[str, Any]:
    """Return what the broker says of a letter's death; nothing where its sender may have put it there.

    A replay sends no headers, so a letter dies once; the broker counts on from what a sender wrote.
    """
    if isinstance(deaths, list) and len(deaths) == 1 and deaths[0].get("count") == 1:
        return dict(deaths[0])
    return {}
