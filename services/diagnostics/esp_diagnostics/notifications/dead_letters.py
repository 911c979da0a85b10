"""Dead letters of notifications: list, replay and discard."""

from dataclasses import dataclass
from datetime import datetime
from hashlib import blake2b
from typing import Any, Final

import orjson
from esp_common import dead_letters, topology
from esp_common.contracts.events import decode_event
from esp_common.errors import Conflict, EspError
from esp_common.messaging import Delivery, Publisher

from esp_diagnostics.notifications.delivery import parse_message
from esp_diagnostics.settings import SERVICE

REPLAYED_KEY: Final = "alert.replayed"
"""Routing key of replayed dead letters; the queue of notifications is bound to every key."""

_OF_EVENTS: Final = "cloudEvents"
MAX_SHOWN_REASON: Final = 200


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """One dead letter; `id` is derived from its content.

    `alert_id`, `priority` and `title` as far as they can be read; `refusal`: why it cannot be replayed, None
    if it can. `headers`: those of the event.
    """

    id: str
    died_at: datetime | None
    event_id: str | None
    alert_id: str | None
    priority: str | None
    title: str | None
    refusal: str | None
    headers: dict[str, Any]
    body: bytes


class DeadLetters(dead_letters.DeadLetters[DeadLetter]):
    """Dead letters of `diagnostics.notifications`."""

    service = SERVICE
    queue = topology.dead_queue(topology.DIAGNOSTICS_NOTIFICATIONS)

    def read(self, message: Delivery) -> DeadLetter:
        """Parse a dead letter, and decide whether it can be replayed."""
        headers = {name: value for name, value in message.headers.items() if name.startswith(_OF_EVENTS)}
        name = f"{message.message_id or ''}\0{sorted(headers.items())}\0".encode() + message.body
        data = _data(message.body)
        return DeadLetter(
            id=blake2b(name, digest_size=8).hexdigest(),
            died_at=_died_at(message.headers.get("x-death")),
            event_id=message.message_id,
            alert_id=_text(data.get("alert_id")),
            priority=_text(data.get("priority")),
            title=_text(data.get("title")),
            refusal=_refusal(message, headers),
            headers=headers,
            body=message.body,
        )

    async def send(self, letter: DeadLetter, publisher: Publisher) -> None:
        """Replay a dead letter; it is sent only to destinations that do not have it.

        Raise Conflict for one that is not a valid message, or that another sender than this service
        published: a replay would make it look genuine.
        """
        if letter.refusal is not None:
            raise Conflict(f"dead letter {letter.id} cannot be replayed: {letter.refusal}", fix="discard it")
        await publisher.publish(
            topology.ALERTS, REPLAYED_KEY, letter.body, headers=letter.headers, message_id=letter.event_id
        )

    def told(self, letter: DeadLetter) -> dict[str, Any]:
        """Return the audit data of a dead letter."""
        return {"event_id": letter.event_id, "alert_id": letter.alert_id, "title": letter.title}


def _refusal(message: Delivery, headers: dict[str, Any]) -> str | None:
    """Return why a dead letter must not be replayed, if so. The broker has verified its sender."""
    try:
        event = decode_event(headers, message.body)
        parse_message(event)
    except EspError as error:
        return error.detail[:MAX_SHOWN_REASON]
    if topology.speaker_of(event.type) != SERVICE or message.user_id != SERVICE:
        return f"{message.user_id or 'an unknown sender'} may not publish {event.type}"[:MAX_SHOWN_REASON]
    return None


def _data(body: bytes) -> dict[str, Any]:
    try:
        data = orjson.loads(body)
    except orjson.JSONDecodeError:
        return {}
    return data if isinstance(data, dict) else {}


def _text(value: Any) -> str | None:
    return None if value is None else " ".join(str(value).split())[:MAX_SHOWN_REASON]


def _died_at(deaths: Any) -> datetime | None:
    death = deaths[0] if isinstance(deaths, list) and deaths else {}
    time = death.get("time") if isinstance(death, dict) else None
    return time if isinstance(time, datetime) else None
