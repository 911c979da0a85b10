"""Send messages that cannot be processed to the dead-letter exchange, with their reason."""

import asyncio
from typing import Any, Final
from uuid import uuid4

import structlog

from esp_common import topology
from esp_common.errors import EspError
from esp_common.messaging.consumer import LeanConsumer
from esp_common.messaging.delivery import Delivery
from esp_common.messaging.publisher import Publisher

log = structlog.get_logger()

POISON_PAUSE_S: Final = 1.0
"""Pause before a failed message is requeued: its cause may pass."""

MAX_REASON_LENGTH: Final = 500


class DeadLetterer:
    """Dead-letters deliveries of one queue.

    `key`: routing key of the queue's dead letters on `esp.dlx`. The original message's own headers are left
    out: a replay reads the sender from `esp-routing-key`.
    """

    def __init__(self, publisher: Publisher, key: str) -> None:
        self._publisher = publisher
        self._key = key

    async def publish(
        self, delivery: Delivery, reason: str, *, error_id: str, body: bytes | None = None
    ) -> None:
        """Publish `delivery`, or the part of it in `body`, as a dead letter; raise EspError if refused."""
        headers: dict[str, Any] = {
            "esp-reason": reason[:MAX_REASON_LENGTH],
            "esp-error-id": error_id,
            "esp-routing-key": delivery.routing_key,
        }
        await self._publisher.publish(
            topology.DLX,
            self._key,
            delivery.body if body is None else body,
            headers=headers,
            content_type=delivery.content_type or "",
            message_id=delivery.message_id,
        )

    async def refuse(self, consumer: LeanConsumer, delivery: Delivery, error: Exception) -> None:
        """Requeue a message that failed, after a pause; dead-letter it on its last delivery."""
        error_id = uuid4().hex
        if delivery.delivery_count < topology.DELIVERY_LIMIT:
            log.error("message.failed", error_id=error_id, key=delivery.routing_key, error=repr(error)[:300])
            await asyncio.sleep(POISON_PAUSE_S)
            consumer.reject(delivery, requeue=True)
            return
        log.error("message.dead-lettered", error_id=error_id, key=delivery.routing_key, exc_info=error)
        try:
            await self.publish(delivery, repr(error), error_id=error_id)
        except EspError as trouble:
            # The broker dead-letters it as well, without the reason.
            log.warning("message.rejected", error_id=error_id, reason=trouble.detail)
            consumer.reject(delivery, requeue=False)
        else:
            consumer.done([delivery])

    async def refuse_part(self, consumer: LeanConsumer, delivery: Delivery, body: bytes, reason: str) -> bool:
        """Dead-letter a part of a message; requeue the message and return False if the broker refuses it."""
        error_id = uuid4().hex
        log.error("message.part-refused", error_id=error_id, key=delivery.routing_key, reason=reason)
        try:
            await self.publish(delivery, reason, error_id=error_id, body=body)
        except EspError as trouble:
            log.warning("message.requeued", error_id=error_id, reason=trouble.detail)
            await asyncio.sleep(POISON_PAUSE_S)
            consumer.reject(delivery, requeue=True)
            return False
        return True
