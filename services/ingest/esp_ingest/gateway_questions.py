"""Tells auth whether a gateway exists, over the broker: auth binds keys to gateways that do."""

import asyncio
from typing import Any, Final

import orjson
import structlog
from esp_common import topology
from esp_common.errors import EspError
from esp_common.messaging import Delivery, LeanConsumer, Publisher

from esp_ingest.assets import SERVICE
from esp_ingest.consumers import LiveRegistry

log = structlog.get_logger()

PREFETCH: Final = 20
REQUESTER: Final = "auth"
DIRECT_REPLY: Final = "amq.rabbitmq.reply-to."
"""What the broker makes of a direct reply-to; anywhere else an answer would be a message to a queue."""


class GatewayQuestions(LeanConsumer):
    """Answers `ingest.find-gateway` of auth: `{"gateway_id"}` with `{"exists"}`.

    A request of anybody else, or one that cannot be read, gets no answer.
    """

    def __init__(self, url: str, registry: LiveRegistry, publisher: Publisher) -> None:
        super().__init__(
            url, topology.INGEST_FIND_GATEWAY, prefetch=PREFETCH, on_message=self._take, service=SERVICE
        )
        self._registry = registry
        self._publisher = publisher
        self._answering: set[asyncio.Task[None]] = set()

    def _take(self, question: Delivery) -> None:
        task = asyncio.create_task(self._answer(question))
        self._answering.add(task)
        task.add_done_callback(self._answering.discard)
        task.add_done_callback(lambda _: self.done([question]))

    async def _answer(self, question: Delivery) -> None:
        gateway_id = _gateway_id(question.body)
        is_asked = question.user_id == REQUESTER and (question.reply_to or "").startswith(DIRECT_REPLY)
        if not is_asked or gateway_id is None:
            log.warning("gateway-question.not-answered", sender=question.user_id)
            return
        if gateway_id not in self._registry.current.gateways:
            await self._registry.refresh()  # it may have been registered a moment ago
        if not self._registry.loaded:
            return
        exists = gateway_id in self._registry.current.gateways
        try:
            await self._publisher.reply(question, orjson.dumps({"exists": exists}))
        except EspError as error:
            log.warning("gateway-question.unanswered", reason=error.detail)


def _gateway_id(body: bytes) -> str | None:
    try:
        asked: Any = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    gateway_id = asked.get("gateway_id") if isinstance(asked, dict) else None
    return gateway_id if isinstance(gateway_id, str) else None
