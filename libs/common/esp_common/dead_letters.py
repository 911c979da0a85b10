"""Dead letters of a queue: list, show, replay and discard messages that could not be processed.

A service subclasses `DeadLetters` to decode and replay its own messages.
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, ClassVar, Final, Generic, Protocol, TypeVar

import aiormq
from aiormq.abc import AbstractChannel
from pamqp import commands

from esp_common import audit
from esp_common.amqp_nodes import connect_to_any
from esp_common.database import Pool
from esp_common.errors import BrokerUnavailable, Conflict, NotFound
from esp_common.messaging import Delivery, Publisher
from esp_common.messaging.link import LOST

CONNECT_TIMEOUT_S: Final = 10


class Letter(Protocol):
    """A dead letter; its id is derived from its content."""

    @property
    def id(self) -> str:
        """Id of the dead letter."""


LetterT = TypeVar("LetterT", bound=Letter)


class DeadLetters(ABC, Generic[LetterT]):
    """Dead letters of one queue; replays and discards are audited under `actor`.

    Listing takes messages off the queue and requeues them in order; a concurrent reader does not see them
    meanwhile.
    """

    service: ClassVar[str]
    """Service that owns the queue; its command is `esp-<service>`."""
    queue: ClassVar[str]

    def __init__(self, amqp_url: str) -> None:
        self._url = amqp_url

    @abstractmethod
    def read(self, message: Delivery) -> LetterT:
        """Decode a dead letter; never raises, whatever the message contains."""

    @abstractmethod
    async def send(self, letter: LetterT, publisher: Publisher) -> None:
        """Replay a dead letter; raise Conflict if it cannot be replayed."""

    @abstractmethod
    def told(self, letter: LetterT) -> dict[str, Any]:
        """Return the audit data of a dead letter."""

    async def list(self, limit: int = 100) -> list[LetterT]:
        """Return up to `limit` dead letters, oldest first."""
        async with self._opened() as messages:
            return [self.read(message) async for message in messages.get(limit)]

    async def show(self, id_: str) -> LetterT:
        """Return one dead letter; raise NotFound."""
        async with self._opened() as messages:
            async for message in messages.get():
                if (letter := self.read(message)).id == id_:
                    return letter
        raise self._unknown({id_})

    async def replay(self, ids: Collection[str] | None, actor: str, publisher: Publisher, pool: Pool) -> int:
        """Replay dead letters (None: all that can be replayed); return how many.

        A message leaves the queue once the broker has confirmed its copy. Raises NotFound if one does not
        exist, and Conflict if one cannot be replayed.
        """

        async def send(letter: LetterT) -> None:
            await self.send(letter, publisher)

        return await self._settle(ids, "replayed", actor, pool, send)

    async def discard(self, ids: Collection[str] | None, actor: str, pool: Pool) -> int:
        """Delete dead letters (None: all); return how many. Raises NotFound if one does not exist."""

        async def nothing(_: LetterT) -> None:
            return None

        return await self._settle(ids, "discarded", actor, pool, nothing)

    async def _settle(
        self,
        ids: Collection[str] | None,
        done: str,
        actor: str,
        pool: Pool,
        act: Callable[[LetterT], Awaitable[None]],
    ) -> int:
        missing, settled = set(ids or ()), 0
        async with self._opened() as messages:
            async for message in messages.get():
                letter = self.read(message)
                if ids is not None and letter.id not in ids:
                    continue
                try:
                    await act(letter)
                except Conflict:
                    if ids is None:
                        continue
                    raise
                await self._audit(pool, letter, done, actor)
                await messages.ack(message)
                missing.discard(letter.id)
                settled += 1
        if missing:
            raise self._unknown(missing)
        return settled

    @asynccontextmanager
    async def _opened(self) -> AsyncIterator["_Messages"]:
        """Open the queue; closing it requeues unacknowledged messages."""
        with _named_outages(self.queue):
            connection = await connect_to_any(
                self._url, lambda node: asyncio.wait_for(aiormq.connect(node), CONNECT_TIMEOUT_S)
            )
        try:
            with _named_outages(self.queue):
                channel = await connection.channel()
                declared = await channel.queue_declare(self.queue, passive=True)
            yield _Messages(channel, self.queue, declared.message_count or 0)
        finally:
            await connection.close()

    async def _audit(self, pool: Pool, letter: LetterT, done: str, actor: str) -> None:
        async with pool.acquire() as connection:
            await audit.record(
                connection,
                source=self.service,
                actor=actor,
                action=f"dead-letter.{done}",
                subject=letter.id,
                data=self.told(letter),
            )

    def _unknown(self, ids: set[str]) -> NotFound:
        fix = f"see `esp-{self.service} dead-letters list`"
        return NotFound(f"no dead letter {', '.join(sorted(ids))}", fix=fix)


@contextmanager
def _named_outages(queue: str) -> Iterator[None]:
    try:
        yield
    except LOST as error:
        raise BrokerUnavailable(f"cannot read {queue}: {error}") from error


class _Messages:
    """The messages in a queue when it was opened; a replayed one may be dead-lettered again meanwhile."""

    def __init__(self, channel: AbstractChannel, queue: str, count: int) -> None:
        self._channel = channel
        self._queue = queue
        self._count = count

    async def get(self, limit: int | None = None) -> AsyncIterator[Delivery]:
        for _ in range(self._count if limit is None else min(self._count, limit)):
            with _named_outages(self._queue):
                got = await self._channel.basic_get(self._queue, timeout=CONNECT_TIMEOUT_S)
            if not isinstance(got.delivery, commands.Basic.GetOk):
                return
            yield Delivery(got.delivery, got.header, bytes(got.body))

    async def ack(self, message: Delivery) -> None:
        await self._channel.basic_ack(message.delivery_tag)
