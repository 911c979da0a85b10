"""Dead letters: messages that no worker could process, seen, sent again or discarded by an operator."""

from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Final

import aio_pika
from aio_pika.abc import AbstractIncomingMessage, AbstractQueue
from esp_common import audit, topology
from esp_common.database import Pool
from esp_common.errors import BrokerUnavailable, Conflict, NotFound
from esp_common.messaging import Publisher

QUEUE: Final = topology.INGEST_TELEMETRY_DEAD
CONNECT_TIMEOUT_S: Final = 10
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


class DeadLetters:
    """The dead letters of `ingest.telemetry`; replays and discards are audited in the name of `actor`.

    Looking takes messages off the queue and gives them back, in their order; another operator looking
    meanwhile does not see them.
    """

    def __init__(self, amqp_url: str) -> None:
        self._url = amqp_url

    async def list(self, limit: int = 100) -> list[DeadLetter]:
        """Return up to `limit` dead letters, oldest first."""
        async with self._queue() as queue:
            return [_letter(message) async for message in _messages(queue, limit)]

    async def show(self, id_: str) -> DeadLetter:
        """Return one; raise NotFound."""
        async with self._queue() as queue:
            async for message in _messages(queue):
                if (letter := _letter(message)).id == id_:
                    return letter
        raise _unknown({id_})

    async def replay(self, ids: Collection[str] | None, actor: str, publisher: Publisher, pool: Pool) -> int:
        """Send letters (None: all there are now) in again under their first routing key; return how many.

        A letter leaves the queue when the broker has confirmed its copy. Raises NotFound if one is not there,
        and Conflict for one whose sender cannot be told (of all, such are left).
        """

        async def send(letter: DeadLetter) -> None:
            if letter.routing_key == UNKNOWN_KEY:
                raise Conflict(f"whose dead letter {letter.id} is cannot be told", fix="discard it")
            await publisher.publish(
                topology.INGEST,
                letter.routing_key,
                letter.body,
                content_type=letter.content_type or "",
                message_id=letter.message_id,
            )

        return await self._settle(ids, "replayed", actor, pool, send)

    async def discard(self, ids: Collection[str] | None, actor: str, pool: Pool) -> int:
        """Remove letters (None: all) for good; return how many. Raises NotFound if one is not there."""

        async def nothing(_: DeadLetter) -> None:
            return None

        return await self._settle(ids, "discarded", actor, pool, nothing)

    async def _settle(self, ids: Collection[str] | None, done: str, actor: str, pool: Pool, act: Any) -> int:
        missing, settled = set(ids or ()), 0
        async with self._queue() as queue:
            async for message in _messages(queue):
                letter = _letter(message)
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
            raise _unknown(missing)
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


async def _audit(pool: Pool, letter: DeadLetter, done: str, actor: str) -> None:
    data = {"message_id": letter.message_id, "routing_key": letter.routing_key, "reason": letter.reason}
    async with pool.acquire() as connection:
        action = f"dead-letter.{done}"
        await audit.record(
            connection, source="ingest", actor=actor, action=action, subject=letter.id, data=data
        )


def _unknown(ids: set[str]) -> NotFound:
    return NotFound(f"no dead letter {', '.join(sorted(ids))}", fix="see `esp-ingest dead-letters list`")
