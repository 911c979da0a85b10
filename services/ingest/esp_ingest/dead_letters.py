"""Dead letters: messages that no worker could process, seen, sent again or discarded by an operator."""

from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Final

from esp_common import dead_letters, topology
from esp_common.errors import Conflict
from esp_common.messaging import Delivery, Publisher
from esp_common.text import printable

from esp_ingest.assets import SERVICE

UNKNOWN_KEY: Final = "unknown"
"""The routing key of a dead letter that claims to have been one before: whose it is cannot be told."""

MAX_SHOWN: Final = 600
"""Characters of a header that are shown: more than the worker's reasons have."""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """One dead letter. `id` follows from its content; `reason` is the worker's, or the broker's word."""

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

    def read(self, message: Delivery) -> DeadLetter:
        """Return what a dead message says; never raises, whatever its sender put into it."""
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


def _letter(message: Delivery) -> DeadLetter:
    # The worker writes headers of its own only. Where the broker dead-lettered, the others are the sender's.
    deaths: Any = message.headers.get("x-death")
    headers = {} if deaths else message.headers
    death = _only_death(deaths)
    key = _first(death.get("routing-keys")) if deaths else headers.get("esp-routing-key")
    died_at = death.get("time") or message.timestamp
    name = f"{message.message_id or ''}\0".encode() + message.body
    return DeadLetter(
        id=blake2b(name, digest_size=8).hexdigest(),
        message_id=message.message_id,
        routing_key=_shown(key) or UNKNOWN_KEY,
        content_type=message.content_type,
        reason=_shown(headers.get("esp-reason")) or _shown(death.get("reason")) or "unknown",
        error_id=_shown(headers.get("esp-error-id")),
        died_at=_shown(died_at),
        body=message.body,
    )


def _only_death(deaths: Any) -> dict[str, Any]:
    """Return the broker's `x-death` entry; nothing where the sender may have written it.

    A replay sends no headers, so a message is dead-lettered once; the broker counts on from what it finds.
    """
    if isinstance(deaths, list) and len(deaths) == 1 and isinstance(deaths[0], dict):
        return deaths[0] if deaths[0].get("count") == 1 else {}
    return {}


def _first(keys: Any) -> Any:
    return keys[0] if isinstance(keys, list) and keys else None


def _shown(value: Any) -> str | None:
    """Return a header as one line of bounded text, None where there is none."""
    return None if value is None else printable(str(value).encode(errors="backslashreplace"))[:MAX_SHOWN]
