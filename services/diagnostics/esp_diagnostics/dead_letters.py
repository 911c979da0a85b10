"""Dead letters of notifications: messages that a destination did not take, seen, sent again or discarded."""

from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from hashlib import blake2b
from typing import Any, Final

import aio_pika
import orjson
from aio_pika.abc import AbstractIncomingMessage, AbstractQueue
from esp_common import audit, topology
from esp_common.contracts.events import decode_event
from esp_common.database import Pool
from esp_common.errors import BrokerUnavailable, Conflict, EspError, NotFound
from esp_common.messaging import Publisher

from esp_diagnostics.notifications import message_of
from esp_diagnostics.settings import SERVICE

QUEUE: Final = topology.dead_queue(topology.DIAGNOSTICS_NOTIFICATIONS)
CONNECT_TIMEOUT_S: Final = 10
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


class DeadLetters:
    """The dead letters of `diagnostics.notifications`; replays and discards are audited as by `actor`.

    Looking takes messages off the queue and gives them back, in their order; another who looks meanwhile
    does not see them.
    """

    def __init__(self, amqp_url: str) -> None:
        self._url = amqp_url

    async def list(self, limit: int = 100) -> list[DeadLetter]:
        """Return up to `limit` dead letters, oldest first."""
        async with self._queue() as queue:
            return [letter_of(message) async for message in _messages(queue, limit)]

    async def replay(self, ids: Collection[str] | None, actor: str, publisher: Publisher, pool: Pool) -> int:
        """Send letters (None: all that can be) in again; return how many.

        They go to those destinations only that do not have them. A letter leaves the queue when the broker
        has confirmed its copy. Raises NotFound if one is not there, and Conflict for one that is no message,
        or that another than this service sent: it would be believed once this service sends it.
        """

        async def send(letter: DeadLetter) -> None:
            if letter.refusal is not None:
                raise Conflict(f"dead letter {letter.id} stays: {letter.refusal}", fix="discard it")
            await publisher.publish(
                topology.ALERTS, REPLAYED_KEY, letter.body, headers=letter.headers, message_id=letter.event_id
            )

        return await self._settle(ids, "replayed", actor, pool, send)

    async def discard(self, ids: Collection[str] | None, actor: str, pool: Pool) -> int:
        """Remove letters (None: all) for good; return how many. Raises NotFound if one is not there."""

        async def nothing(_: DeadLetter) -> None:
            return None

        return await self._settle(ids, "discarded", actor, pool, nothing)

    async def _settle(
        self,
        ids: Collection[str] | None,
        done: str,
        actor: str,
        pool: Pool,
        act: Callable[[DeadLetter], Awaitable[None]],
    ) -> int:
        missing, settled = set(ids or ()), 0
        async with self._queue() as queue:
            async for message in _messages(queue):
                letter = letter_of(message)
                if ids is not None and letter.id not in ids:
                    continue
                try:
                    await act(letter)
                except Conflict:
                    if ids is None:
                        continue
                    raise
                await _audit(pool, letter, done, actor)
                await message.ack()
                missing.discard(letter.id)
                settled += 1
        if missing:
            raise NotFound(
                f"no dead letter {', '.join(sorted(missing))}", fix="see `esp-diagnostics dead-letters list`"
            )
        return settled

    @asynccontextmanager
    async def _queue(self) -> AsyncIterator[AbstractQueue]:
        """Closing the channel gives back what was looked at and not acknowledged."""
        try:
            connection = await aio_pika.connect(self._url, timeout=CONNECT_TIMEOUT_S)
        except (OSError, TimeoutError, aio_pika.exceptions.AMQPException) as error:
            raise BrokerUnavailable(f"cannot read {QUEUE}: {error}") from error
        async with connection, connection.channel() as channel:
            yield await channel.declare_queue(QUEUE, passive=True)


async def _messages(queue: AbstractQueue, limit: int | None = None) -> AsyncIterator[AbstractIncomingMessage]:
    """Yield what was there when the queue was opened: a letter that was replayed may well die again."""
    count = queue.declaration_result.message_count or 0
    for _ in range(count if limit is None else min(count, limit)):
        message = await queue.get(fail=False, timeout=CONNECT_TIMEOUT_S)
        if message is None:
            return
        yield message


def letter_of(message: AbstractIncomingMessage) -> DeadLetter:
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


def _refusal(message: AbstractIncomingMessage, headers: dict[str, Any]) -> str | None:
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


async def _audit(pool: Pool, letter: DeadLetter, done: str, actor: str) -> None:
    data = {"event_id": letter.event_id, "alert_id": letter.alert_id, "title": letter.title}
    async with pool.acquire() as connection:
        action = f"dead-letter.{done}"
        await audit.record(
            connection, source=SERVICE, actor=actor, action=action, subject=letter.id, data=data
        )
