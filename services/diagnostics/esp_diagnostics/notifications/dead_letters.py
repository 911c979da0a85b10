"""Dead letters of notifications: messages that a destination did not take, seen, sent again or discarded."""

from dataclasses import dataclass
from datetime import datetime
from hashlib import blake2b
from typing import Any, Final

import orjson
from esp_common import dead_letters, topology
from esp_common.contracts.events import decode_event
from esp_common.errors import Conflict, EspError
from esp_common.messaging import Delivery, Publisher

from esp_diagnostics.notifications.destinations import message_of
from esp_diagnostics.settings import SERVICE

REPLAYED_KEY: Final = "alert.replayed"
"""The routing key of letters that are sent in again: the queue of notifications takes every key."""

_OF_EVENTS: Final = "cloudEvents"
_SHOWN_REASON: Final = 200


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """One dead message. `id` follows from its content.

    `alert_id`, `priority` and `title` as far as they can be read; `refusal`: why it cannot be sent in again,
    None if it can. `headers` are the event's own.
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
    """The dead letters of `diagnostics.notifications`."""

    service = SERVICE
    queue = topology.dead_queue(topology.DIAGNOSTICS_NOTIFICATIONS)

    def read(self, message: Delivery) -> DeadLetter:
        """Return what a dead message says, and whether it may be sent in again."""
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
        """Send a letter in again: it goes to those destinations only that do not have it.

        Conflict for one that is no message, or that another than this service sent: it would be believed
        once this service sends it.
        """
        if letter.refusal is not None:
            raise Conflict(f"dead letter {letter.id} stays: {letter.refusal}", fix="discard it")
        await publisher.publish(
            topology.ALERTS, REPLAYED_KEY, letter.body, headers=letter.headers, message_id=letter.event_id
        )

    def told(self, letter: DeadLetter) -> dict[str, Any]:
        """Return what the audit trail says of a letter."""
        return {"event_id": letter.event_id, "alert_id": letter.alert_id, "title": letter.title}


def _refusal(message: Delivery, headers: dict[str, Any]) -> str | None:
    """Return why a letter must not be sent in again. The broker has checked who its sender is."""
    try:
        event = decode_event(headers, message.body)
        message_of(event)
    except EspError as error:
        return error.detail[:_SHOWN_REASON]
    if topology.speaker_of(event.type) != SERVICE or message.user_id != SERVICE:
        return f"{message.user_id or 'nobody known'} may not say {event.type}"[:_SHOWN_REASON]
    return None


def _data(body: bytes) -> dict[str, Any]:
    try:
        data = orjson.loads(body)
    except orjson.JSONDecodeError:
        return {}
    return data if isinstance(data, dict) else {}


def _text(value: Any) -> str | None:
    return None if value is None else " ".join(str(value).split())[:_SHOWN_REASON]


def _died_at(deaths: Any) -> datetime | None:
    death = deaths[0] if isinstance(deaths, list) and deaths else {}
    time = death.get("time") if isinstance(death, dict) else None
    return time if isinstance(time, datetime) else None
