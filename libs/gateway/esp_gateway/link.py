"""The link: one AMQP connection of a gateway, on which every publish is answered or raises."""

import asyncio
from contextlib import suppress
from typing import Final

import aio_pika
from aio_pika.abc import AbstractConnection, AbstractExchange
from aio_pika.exceptions import (
    CONNECTION_EXCEPTIONS,
    AuthenticationError,
    DeliveryError,
    ProbableAuthenticationError,
    PublishError,
)
from aiormq.exceptions import ChannelAccessRefused, ConnectionNotAllowed
from esp_common import topology
from esp_common.errors import BrokerUnavailable, Nacked, Unroutable
from yarl import URL

from esp_gateway.errors import LinkRefused
from esp_gateway.spool import Spooled

CONNECT_TIMEOUT_S: Final = 10.0
# A broker that blocks publishers (memory, disk) confirms nothing and says nothing: without a limit the
# gateway could not tell that from a link that is gone.
CONFIRM_TIMEOUT_S: Final = 60.0

_REFUSALS: Final = (
    AuthenticationError,
    ProbableAuthenticationError,
    ConnectionNotAllowed,
    ChannelAccessRefused,
)


def with_credentials(url: str, gateway_id: str, key: str) -> str:
    """Return the broker's address `url` with a gateway's credentials in place of any it has."""
    return str(URL(url).with_user(gateway_id).with_password(key))


class Link:
    """A gateway's connection to the broker at `url`; connects when first used, and again after a loss."""

    def __init__(self, url: str, gateway_id: str) -> None:
        self._url = url
        self._routing_key = topology.telemetry_key(gateway_id)
        self._connection: AbstractConnection | None = None
        # One attempt to connect serves (or fails) everyone who waits to publish.
        self._opening: asyncio.Task[AbstractExchange] | None = None

    async def publish(self, batch: Spooled) -> None:
        """Return once the broker has confirmed `batch`.

        Raises Nacked, Unroutable, BrokerUnavailable (keep it and try again) or LinkRefused.
        """
        opening = self._opening = self._opening or asyncio.create_task(self._open())
        try:
            exchange = await asyncio.shield(opening)
            await exchange.publish(
                _message(batch), self._routing_key, mandatory=True, timeout=CONFIRM_TIMEOUT_S
            )
        except PublishError as error:
            raise Unroutable("the broker has no queue for readings") from error
        except DeliveryError as error:
            raise Nacked("the broker's queue is full or failing") from error
        except _REFUSALS as error:
            await self._drop(opening)
            raise LinkRefused(
                _reason(error), fix="check the gateway's id and key, and whose readings these are"
            ) from error
        except (*CONNECTION_EXCEPTIONS, TimeoutError) as error:
            await self._drop(opening)
            raise BrokerUnavailable(_reason(error)) from error
        except asyncio.CancelledError as error:
            # aiormq cancels the confirmations it still owes when a connection ends; that is not ours.
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            await self._drop(opening)
            raise BrokerUnavailable("connection lost before the broker confirmed") from error

    async def close(self) -> None:
        """Close the connection."""
        connection, opening = self._connection, self._opening
        self._connection = self._opening = None
        if opening is not None:
            opening.cancel()
        if connection is not None:
            await connection.close()

    async def _open(self) -> AbstractExchange:
        self._connection = await aio_pika.connect(self._url, timeout=CONNECT_TIMEOUT_S)
        channel = await self._connection.channel(publisher_confirms=True, on_return_raises=True)
        return await channel.get_exchange(topology.INGEST, ensure=False)

    async def _drop(self, failed: asyncio.Task[AbstractExchange]) -> None:
        """Close the connection, unless it is a newer one than that on which a publish has `failed`."""
        if failed is self._opening:
            with suppress(*CONNECTION_EXCEPTIONS, TimeoutError):  # it may be broken already
                await asyncio.wait_for(self.close(), CONNECT_TIMEOUT_S)


def _message(batch: Spooled) -> aio_pika.Message:
    return aio_pika.Message(
        batch.body,
        content_type=batch.content_type,
        message_id=batch.message_id,
        delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
    )


def _reason(error: BaseException) -> str:
    return str(error) or type(error).__name__
