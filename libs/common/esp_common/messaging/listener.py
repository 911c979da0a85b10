"""Events for every replica: a queue of its own for as long as the process lives."""

from collections.abc import Callable
from typing import Any

import structlog
from aiormq.abc import AbstractChannel
from pamqp.header import ContentHeader

from esp_common import topology
from esp_common.contracts.events import Event, decode_event
from esp_common.errors import InvalidInput
from esp_common.messaging.link import Link

log = structlog.get_logger()


class EventListener(Link):
    """Hears the domain events whose type matches one of `patterns` (`asset.*`), while it is connected.

    Who may say what is `topology.SUBJECTS`: an event of a service that another's broker user sent is
    dropped. Routing keys cannot be relied on for that, since a service may have a queue or an exchange of its
    own forward to `esp.events` under any key.

    `on_event(event)` is synchronous. `on_connected()` is called each time listening begins: events may have
    been missed before it, so load again whatever they would have changed.
    """

    def __init__(
        self,
        url: str,
        patterns: list[str],
        *,
        on_event: Callable[[Event], None],
        on_connected: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(url, name=f"events {' '.join(patterns)}", confirms=False)
        self._patterns = patterns
        self._on_event = on_event
        self._on_connected = on_connected
        self._consumer_tag: str | None = None

    @property
    def alive(self) -> bool:
        """Whether the broker has this listener's consumer."""
        channel = self._channel
        return channel is not None and self.connected and self._consumer_tag in channel.consumers  # type: ignore[attr-defined]

    async def _opened(self, channel: AbstractChannel) -> None:
        queue = (await channel.queue_declare("", exclusive=True, auto_delete=True)).queue or ""
        for pattern in self._patterns:
            await channel.queue_bind(queue, topology.EVENTS, pattern)
        channel.on_consumer_cancel_callbacks.add(lambda _: self._lost.set())
        answer = await channel.basic_consume(queue, lambda _: None, no_ack=True)  # type: ignore[arg-type,return-value]
        self._consumer_tag = answer.consumer_tag
        self._on_connected()

    def _on_frame(self, frame: Any, header: ContentHeader | None, body: bytes) -> None:
        if header is None:
            return
        try:
            event = decode_event(header.properties.headers or {}, body)
        except InvalidInput as error:
            log.warning("event.unreadable", routing_key=frame.routing_key, reason=error.detail)
        else:
            self._hear(event, header.properties.user_id)

    def _hear(self, event: Event, sender: str | None) -> None:
        speaker = topology.speaker_of(event.type)
        if speaker is None or sender in (speaker, self._user):
            self._on_event(event)
        else:
            log.critical("event.forged", type=event.type, subject=event.subject, sender=sender)
