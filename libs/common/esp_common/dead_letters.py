"""Dead letters of a queue: messages that nobody could process, seen, sent again or discarded by an operator.

What a letter says and how it is sent in again is the service's: it derives from `DeadLetters`.
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
    """What every dead letter has: an id that follows from its content."""

    @property
    def id(self) -> str:
        """Names it."""


LetterT = TypeVar("LetterT", bound=Letter)


class DeadLetters(ABC, Generic[LetterT]):
    """The dead letters of one queue; replays and discards are audited in the name of `actor`.

    Looking takes messages off the queue and gives them back, in their order; another who looks meanwhile
    does not see them.
    """

    service: ClassVar[str]
    """Whose queue it is: the name of its command is `esp-<service>`."""
    queue: ClassVar[str]

    def __init__(self, amqp_url: str) -> None:
        self._url = amqp_url

    @abstractmethod
    def read(self, message: Delivery) -> LetterT:
        """Return what a dead message says; never raises, whatever its sender put into it."""

    @abstractmethod
    async def send(self, letter: LetterT, publisher: Publisher) -> None:
        """Send a letter in again; raise Conflict for one that must not be."""

    @abstractmethod
    def told(self, letter: LetterT) -> dict[str, Any]:
        """Return what the audit trail says of a letter."""

    async def list(self, limit: int = 100) -> list[LetterT]:
        """Return up to `limit` dead letters, oldest first."""
        async with self._opened() as messages:
            return [self.read(message) async for message in messages.get(limit)]

    async def show(self, id_: str) -> LetterT:
        """Return one; raise NotFound."""
        async with self._opened() as messages:
            async for message in messages.get():
                if (letter := self.read(message)).id == id_:
                    return letter
        raise self._unknown({id_})

    async def replay(self, ids: Collection[str] | None, actor: str, publisher: Publisher, pool: Pool) -> int:
        """Send letters (None: all there are now that can be) in again; return how many.

        A letter leaves the queue when the broker has confirmed its copy. Raises NotFound if one is not there,
        and Conflict for one that must stay.
        """

        async def send(letter: LetterT) -> None:
            await self.send(letter, publisher)

        return await self._settle(ids, "replayed", actor, pool, send)

    async def discard(self, ids: Collection[str] | None, actor: str, pool: Pool) -> int:
        """Remove letters (None: all) for good; return how many. Raises NotFound if one is not there."""

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
        """Open the queue; closing it requeues what was looked at and not acknowledged."""
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
    """The messages that a queue held when it was opened: a replayed one may be dead-lettered again."""

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
