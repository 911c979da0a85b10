"""Readings for diagnostics: what is only in the archive, as an answer of bounded size over the broker."""

import asyncio
from typing import Any, Final

import orjson
import pyarrow as pa
import structlog
from esp_common import topology
from esp_common.errors import EspError, InvalidInput
from esp_common.messaging import Delivery, LeanConsumer, Publisher
from esp_common.times import parse_time

from esp_archiver.domain.datasets import FAULT_CHANNELS
from esp_archiver.reading import Question, Reader, columns_named
from esp_archiver.settings import SERVICE

log = structlog.get_logger()

MOST_ROWS: Final = 50_000
"""Readings of one answer: some megabytes."""

AT_ONCE: Final = 4
ASKER: Final = "diagnostics"
DIRECT_REPLY: Final = "amq.rabbitmq.reply-to."
"""What the broker makes of a direct reply-to; anywhere else an answer would be a message to a queue."""


class ReadQuestions(LeanConsumer):
    """Answers `archiver.read` of diagnostics: `{"pump_id", "from", "to", "channels", "limit"}`.

    The answer is an Arrow stream of up to `limit` readings, oldest first, or JSON `{"problem"}`. Diagnostics
    has checked who asks; of anybody else nothing is answered.
    """

    def __init__(self, url: str, reader: Reader, publisher: Publisher) -> None:
        super().__init__(
            url, topology.ARCHIVER_READ, prefetch=AT_ONCE, on_message=self._take, service=SERVICE
        )
        self._reader = reader
        self._publisher = publisher
        self._answering: set[asyncio.Task[None]] = set()

    def _take(self, question: Delivery) -> None:
        task = asyncio.create_task(self._answer(question))
        self._answering.add(task)
        task.add_done_callback(self._answering.discard)
        task.add_done_callback(lambda _: self.done([question]))

    async def _answer(self, question: Delivery) -> None:
        if question.user_id != ASKER or not (question.reply_to or "").startswith(DIRECT_REPLY):
            log.warning("archive.not-answered", sender=question.user_id)
            return
        try:
            answer = await self._read(question.body)
        except EspError as error:
            answer = orjson.dumps({"problem": error.detail})
        try:
            await self._publisher.reply(question, answer)
        except EspError as error:
            # Whoever asked has gone, or will ask again.
            log.warning("archive.unanswered", reason=error.detail)

    async def _read(self, body: bytes) -> bytes:
        question, limit = _understood(body)
        found: list[pa.Table] = []
        rows = 0
        async for table in self._reader.tables(question, await self._reader.parts(question)):
            found.append(table.slice(0, limit - rows))
            rows += found[-1].num_rows
            if rows >= limit:
                break
        return await asyncio.to_thread(_encoded, found, question.schema)


def _understood(body: bytes) -> tuple[Question, int]:
    try:
        asked: dict[str, Any] = orjson.loads(body)
        since, until = (parse_time(asked[name]) for name in ("from", "to"))
        columns = columns_named([*asked["channels"], "running", "trip_code", FAULT_CHANNELS])
        return Question(str(asked["pump_id"]), since, until, columns), min(int(asked["limit"]), MOST_ROWS)
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidInput(f"not a question: {error!r}") from None


def _encoded(tables: list[pa.Table], schema: pa.Schema) -> bytes:
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    with pa.ipc.new_stream(sink, schema, options=options) as writer:
        for table in tables:
            writer.write_table(table)
    return bytes(sink.getvalue().to_pybytes())
