"""Read the broker's log for events that MQTT 3.1.1 cannot report: refused bodies and shared client ids.

If RabbitMQ refuses a QoS 1 message with a channel error (for example a body over `max_message_size`), its
MQTT plugin keeps the connection open and acknowledges nothing on it any more. Only the log shows it.
"""

import re
from time import monotonic
from typing import Any, Final

import structlog
from aiormq.abc import AbstractChannel
from esp_common import topology
from esp_common.messaging.link import Link
from pamqp.header import ContentHeader
from prometheus_client import Counter

from esp_auth.broker_sessions import BrokerSessions

log = structlog.get_logger()

CHECK_S: Final = 1.0
"""Period of `MqttGuard.end_stuck`, seconds."""
LISTED_WITHIN_S: Final = 15.0
"""How long the management API may take to list a new connection, seconds."""
MAX_WAITING: Final = 1000
# Matched at the start of a line only: the rest may contain text chosen by a client.
_PREFIX: Final = rb"\S+ \S+ \[\w+\] <[\d.]+> "
_CHANNEL_ERROR: Final = re.compile(_PREFIX + rb"Channel error on connection <[\d.]+> \((\S+ -> \S+), vhost: ")
# RabbitMQ 3.10 writes "name", 4 writes <<"name">>.
_TAKEOVER: Final = re.compile(
    _PREFIX + rb'MQTT disconnecting client (?:<<)?"\S+ -> \S+"(?:>>)? with duplicate id \'(.*)\''
)

_STUCK: Final = Counter("esp_auth_mqtt_stuck_total", "MQTT connections closed after a refused message.")
_TAKEOVERS: Final = Counter(
    "esp_auth_mqtt_takeovers_total", "MQTT connections replaced by another with the same client id."
)


def channel_error_on(entry: bytes) -> str | None:
    """Return the connection with a channel error in a log entry; None for other entries."""
    found = _CHANNEL_ERROR.match(entry)
    return found[1].decode() if found else None


def taken_over(entry: bytes) -> str | None:
    """Return the MQTT client id that a log entry reports for a second connection; None for others."""
    found = _TAKEOVER.match(entry)
    return found[1].decode(errors="replace") if found else None


class MqttGuard(Link):
    """Read the broker's log; close stuck MQTT connections and count takeovers of client ids."""

    def __init__(self, url: str, sessions: BrokerSessions) -> None:
        super().__init__(url, name="esp-auth broker log", confirms=False)
        self._sessions = sessions
        self._failed: dict[str, float] = {}

    async def end_stuck(self) -> None:
        """Close the MQTT connections that had a channel error; raise Unavailable."""
        if not self._failed:
            return
        for name in await self._sessions.end_stuck(self._failed):
            _STUCK.inc()
            self._failed.pop(name, None)
        oldest = monotonic() - LISTED_WITHIN_S
        self._failed = {name: since for name, since in self._failed.items() if since > oldest}

    async def _opened(self, channel: AbstractChannel) -> None:
        declared = await channel.queue_declare(
            "", exclusive=True, auto_delete=True, arguments={"x-max-length": MAX_WAITING}
        )
        queue = declared.queue or ""
        await channel.queue_bind(queue, topology.BROKER_LOG, "#")
        channel.on_consumer_cancel_callbacks.add(lambda _: self._lost.set())
        await channel.basic_consume(queue, lambda _: None, no_ack=True)  # type: ignore[arg-type,return-value]

    def _on_frame(self, frame: Any, header: ContentHeader | None, body: bytes) -> None:
        if header is None:
            return
        if (name := channel_error_on(body)) is not None:
            self._failed[name] = monotonic()
        elif (client_id := taken_over(body)) is not None:
            _TAKEOVERS.inc()
            log.warning("broker.mqtt-takeover", client_id=client_id)
