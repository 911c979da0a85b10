"""The worker: answers `auth.verify-key` for every service."""

import asyncio
import signal
from typing import Any

import orjson
import structlog
from esp_common import topology
from esp_common.auth import encode_answer
from esp_common.errors import EspError
from esp_common.health import Health, serve_health
from esp_common.messaging import Delivery, LeanConsumer, Publisher
from prometheus_client import Counter

from esp_auth.keys import Keys
from esp_auth.settings import AuthSettings

log = structlog.get_logger()

PREFETCH = 200
DIRECT_REPLY = "amq.rabbitmq.reply-to."
"""What the broker makes of a direct reply-to; anywhere else an answer would be a message to a queue."""
_QUESTIONS = Counter("esp_auth_key_questions_total", "Questions for a key, by answer.", ["answer"])


class KeyAnswers:
    """Takes questions from the broker and answers each to whoever asked."""

    def __init__(self, keys: Keys, publisher: Publisher) -> None:
        self._keys = keys
        self._publisher = publisher
        self._answering: set[asyncio.Task[None]] = set()

    def take(self, question: Delivery, consumer: LeanConsumer) -> None:
        """Begin to answer one question; it is done when answered, or when nobody can be answered."""
        task = asyncio.create_task(self._answer(question))
        self._answering.add(task)
        task.add_done_callback(self._answering.discard)
        task.add_done_callback(lambda _: consumer.done([question]))

    async def _answer(self, question: Delivery) -> None:
        digest = digest_of(question.body)
        if digest is None or not (question.reply_to or "").startswith(DIRECT_REPLY):
            _QUESTIONS.labels("malformed").inc()
            log.warning("auth.malformed-question", content_type=question.content_type)
            return
        principal = self._keys.find(digest)
        _QUESTIONS.labels("valid" if principal else "invalid").inc()
        try:
            await self._publisher.reply(question, encode_answer(principal))
        except EspError as error:
            # Whoever asked has gone, or will ask again.
            _QUESTIONS.labels("unanswered").inc()
            log.debug("auth.answer-lost", reason=error.detail)


def digest_of(body: bytes) -> str | None:
    """Return the `key_sha256` that a question carries, None when it carries none."""
    try:
        question: Any = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    digest = question.get("key_sha256") if isinstance(question, dict) else None
    return digest if isinstance(digest, str) else None


async def run(settings: AuthSettings) -> None:
    """Answer until SIGTERM or SIGINT."""
    if settings.bootstrap_key is None:
        log.warning("auth.no-bootstrap-key", fix="set ESP_AUTH_BOOTSTRAP_KEY_FILE")
    health = Health()
    async with Publisher(settings.amqp_url, name="esp-auth replies") as publisher:
        answers = KeyAnswers(Keys(settings.bootstrap_key), publisher)
        consumer = LeanConsumer(
            settings.amqp_url,
            topology.AUTH_VERIFY_KEY,
            prefetch=PREFETCH,
            on_message=lambda question: answers.take(question, consumer),
            service="auth",
        )
        health.add_flag("consumer", lambda: consumer.alive, "the broker does not have this consumer")
        health.add_flag("publisher", lambda: publisher.connected, "not connected to the broker")
        async with serve_health(health, settings):
            parts = [asyncio.ensure_future(part) for part in (consumer.run(), _until_told_to_stop())]
            await asyncio.wait(parts, return_when=asyncio.FIRST_COMPLETED)
            await consumer.stop()
            await parts[0]
            parts[1].cancel()


async def _until_told_to_stop() -> None:
    told = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, told.set)
    await told.wait()
