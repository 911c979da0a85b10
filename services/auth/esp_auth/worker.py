"""The worker's parts: the questions of every service answered, revocations copied, what is over forgotten."""

import asyncio
from collections.abc import Awaitable, Callable

import asyncpg
import structlog
from esp_common.database import OUTAGES
from esp_common.errors import EspError
from esp_common.messaging import Delivery, LeanConsumer, Publisher
from prometheus_client import Counter

from esp_auth.answers import Answers

log = structlog.get_logger()

PREFETCH = 200
DIRECT_REPLY = "amq.rabbitmq.reply-to."
"""What the broker makes of a direct reply-to; anywhere else an answer would be a message to a queue."""
_QUESTIONS = Counter(
    "esp_auth_questions_total", "Questions of other services, by outcome.", ["question", "outcome"]
)


class Questions(LeanConsumer):
    """Takes the questions of one queue and answers each to whoever asked."""

    def __init__(self, url: str, question: str, answers: Answers, publisher: Publisher) -> None:
        super().__init__(url, question, prefetch=PREFETCH, on_message=self._take, service="auth")
        self.question = question
        self._answers = answers
        self._publisher = publisher
        self._answering: set[asyncio.Task[None]] = set()

    def _take(self, question: Delivery) -> None:
        """Begin to answer; a question is done when answered, or when nobody can be answered."""
        task = asyncio.create_task(self._answer(question))
        self._answering.add(task)
        task.add_done_callback(self._answering.discard)
        task.add_done_callback(lambda _: self.done([question]))

    async def _answer(self, question: Delivery) -> None:
        outcome = "malformed"
        try:
            if (question.reply_to or "").startswith(DIRECT_REPLY):
                answer = await self._answers.answer(self.question, question.body)
                if answer is not None:
                    outcome = "answered"
                    await self._publisher.reply(question, answer)
        except EspError as error:
            # Whoever asked has gone, or will ask again; without an answer they do not take it for a no.
            outcome = "unanswered"
            log.warning("auth.unanswered", question=self.question, reason=error.detail)
        if outcome == "malformed":
            log.warning("auth.malformed-question", question=self.question, content_type=question.content_type)
        _QUESTIONS.labels(self.question, outcome).inc()


async def every(period_s: float, act: Callable[[], Awaitable[object]], name: str) -> None:
    """Do `act` every `period_s` seconds until cancelled; without the database it is tried again then."""
    while True:
        try:
            await act()
        except (*OUTAGES, asyncpg.PostgresError, EspError) as error:
            log.warning("auth.delayed", what=name, reason=str(error) or type(error).__name__)
        await asyncio.sleep(period_s)
