"""A gateway's connection to the broker, which distinguishes refusal from loss."""

from typing import Final

from aiormq.exceptions import (
    AuthenticationError,
    ChannelAccessRefused,
    ConnectionNotAllowed,
    ProbableAuthenticationError,
)
from esp_common import topology
from esp_common.errors import BrokerUnavailable
from esp_common.messaging import Publisher
from yarl import URL

from esp_gateway.errors import LinkRefused
from esp_gateway.spool import Spooled

START_TIMEOUT_S: Final = 1.0
# A broker that blocks publishers (memory, disk) confirms nothing and sends no error: without a timeout
# that looks like a lost link.
CONFIRM_TIMEOUT_S: Final = 60.0

_REFUSALS: Final = (
    AuthenticationError,
    ProbableAuthenticationError,
    ConnectionNotAllowed,
    ChannelAccessRefused,
)


def with_credentials(url: str, gateway_id: str, key: str) -> str:
    """Return the broker's `url` with a gateway's credentials in place of any in it."""
    return str(URL(url).with_user(gateway_id).with_password(key))


class Link:
    """Publish the batches of `gateway_id` to the broker at `url`, with its credentials."""

    def __init__(self, url: str, gateway_id: str) -> None:
        self._url = url
        self._name = f"gateway {gateway_id}"
        self._routing_key = topology.telemetry_key(gateway_id)
        self._publisher = self._new_publisher()

    async def start(self) -> None:
        """Connect in the background, and again after each loss."""
        await self._publisher.start(START_TIMEOUT_S)

    async def publish(self, batch: Spooled) -> None:
        """Return once the broker has confirmed `batch`.

        Raises Nacked, Unroutable, BrokerUnavailable (retry later) or LinkRefused.
        """
        try:
            await self._publisher.publish(
                topology.INGEST,
                self._routing_key,
                batch.body,
                content_type=batch.content_type,
                message_id=batch.message_id,
            )
        except BrokerUnavailable as error:
            failure = self._publisher.failure
            if isinstance(failure, _REFUSALS):
                raise LinkRefused(
                    str(failure), fix="check the gateway's id and key, and whose readings these are"
                ) from error
            raise BrokerUnavailable(str(failure or error)) from error

    async def reopen(self) -> None:
        """Reconnect; messages in flight on the old connection raise BrokerUnavailable."""
        old, self._publisher = self._publisher, self._new_publisher()
        await old.close()
        await self.start()

    async def close(self) -> None:
        """Close the connection."""
        await self._publisher.close()

    def _new_publisher(self) -> Publisher:
        return Publisher(self._url, name=self._name, timeout_s=CONFIRM_TIMEOUT_S)
