"""One message as a consumer gets it."""

from datetime import datetime
from typing import Any

from pamqp import commands
from pamqp.header import ContentHeader


class Delivery:
    """One message as it came; `generation` says on which opening of the channel.

    All of it is its sender's: see `esp_common.messaging.properties` for what text and headers can hold.
    """

    __slots__ = ("_header", "_method", "body", "generation")

    def __init__(
        self,
        method: commands.Basic.Deliver | commands.Basic.GetOk,
        header: ContentHeader,
        body: bytes,
        generation: int = 0,
    ) -> None:
        self._method = method
        self._header = header
        self.body = body
        self.generation = generation

    @property
    def delivery_tag(self) -> int:
        """Position on the channel."""
        return self._method.delivery_tag or 0

    @property
    def routing_key(self) -> str:
        """Key it was published under."""
        return self._method.routing_key or ""

    @property
    def redelivered(self) -> bool:
        """Whether it may have been delivered before."""
        return bool(self._method.redelivered)

    @property
    def content_type(self) -> str | None:
        """Media type, if the publisher gave one (MQTT gives none)."""
        return self._header.properties.content_type

    @property
    def message_id(self) -> str | None:
        """The publisher's name for it, if any."""
        return self._header.properties.message_id

    @property
    def correlation_id(self) -> str | None:
        """What a reply to it must carry."""
        return self._header.properties.correlation_id

    @property
    def reply_to(self) -> str | None:
        """Where a reply to it goes."""
        return self._header.properties.reply_to

    @property
    def user_id(self) -> str | None:
        """The broker user who sent it, if it says; the broker lets nobody say another's name."""
        return self._header.properties.user_id

    @property
    def content_encoding(self) -> str | None:
        """How the body is compressed, if the publisher says so."""
        return self._header.properties.content_encoding

    @property
    def timestamp(self) -> datetime | None:
        """When the publisher says it was sent."""
        return self._header.properties.timestamp

    @property
    def headers(self) -> dict[str, Any]:
        """Application headers."""
        return self._header.properties.headers or {}

    @property
    def delivery_count(self) -> int:
        """How often it was delivered and came back before (quorum queues count)."""
        # On a first delivery the header, if any, is the publisher's own.
        count = self.headers.get("x-delivery-count") if self.redelivered else None
        return count if isinstance(count, int) else 0
