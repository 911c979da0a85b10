"""Posts on their way to a real broker: who shares a message, and who is told what."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable
from dataclasses import dataclass, field
from datetime import UTC, datetime

import aio_pika
import orjson
import pytest
from esp_common import topology
from esp_common.contracts.channels import CHANNEL_NAMES
from esp_common.errors import BrokerUnavailable, Nacked, Unavailable
from esp_common.messaging import Publisher
from esp_ingest.coalescer import Coalescer, MalformedBody, Receipt
from esp_ingest.domain.decode import ARROW_TYPE, JSON_TYPE, Body, decode
from esp_ingest.domain.readings import Reason
from esp_ingest.domain.registry import Pump, Registry
from esp_ingest.domain.screen import screen
from esp_ingest.settings import IngestSettings
from esp_stack.servers import Vhost

KNOWN = Registry.of([Pump(1, "P-1", "W-1", "north")], {"gw-01": [1], "gw-02": []})
SETTINGS = IngestSettings(coalesce_ms=20)


@dataclass
class Registries:
    """A registry that knows more once it is loaded again."""

    current: Registry = KNOWN
    newer: Registry = KNOWN
    loads: int = 0
    loaded: bool = True

    async def refresh(self) -> None:
        self.loads += 1
        self.current = self.newer


@pytest.fixture
async def publisher(vhost: Vhost) -> AsyncIterator[Publisher]:
    async with Publisher(vhost.url_for("ingest")) as publisher:
        yield publisher


@dataclass
class Queue:
    """What arrived on the queue that the worker consumes."""

    channel: aio_pika.abc.AbstractChannel
    messages: list[aio_pika.abc.AbstractIncomingMessage] = field(default_factory=list)

    async def take(self) -> list[aio_pika.abc.AbstractIncomingMessage]:
        queue = await self.channel.get_queue(topology.INGEST_TELEMETRY)
        while message := await queue.get(no_ack=True, fail=False):
            self.messages.append(message)
        return self.messages


@pytest.fixture
async def queue(vhost: Vhost) -> AsyncIterator[Queue]:
    async with await aio_pika.connect(vhost.url) as connection, connection.channel() as channel:
        await (await channel.get_queue(topology.INGEST_TELEMETRY)).purge()
        yield Queue(channel)


async def settled(receipt: Awaitable[Receipt]) -> Receipt | BaseException:
    (outcome,) = await asyncio.gather(receipt, return_exceptions=True)
    return outcome


def reading(pump_id: str = "P-1", **values: object) -> bytes:
    values = values or {"frequency_hz": 50.0}
    return orjson.dumps({"pump_id": pump_id, "time": datetime.now(UTC), **values})


def post(
    content: bytes, gateway_id: str = "gw-01", media_type: str = JSON_TYPE, key: str | None = None
) -> Body:
    return Body(content, media_type, gateway_id, key)


async def test_concurrent_posts_of_a_gateway_share_one_message(publisher: Publisher, queue: Queue) -> None:
    coalescer = Coalescer(publisher, Registries(), SETTINGS)
    bodies = [reading(motor_current_a=float(n)) for n in range(10)]
    receipts = await asyncio.gather(*(coalescer.post(post(body)) for body in bodies))
    (message,) = await queue.take()
    assert [receipt.accepted for receipt in receipts] == [1] * 10
    assert orjson.loads(message.body) == [orjson.loads(body) for body in bodies]
    assert message.routing_key == "telemetry.gw-01"
    assert message.delivery_mode == aio_pika.DeliveryMode.PERSISTENT


async def test_gateways_do_not_share_a_message(publisher: Publisher, queue: Queue) -> None:
    coalescer = Coalescer(publisher, Registries(), SETTINGS)
    await asyncio.gather(*(coalescer.post(post(reading(), gateway)) for gateway in ("gw-01", "_api")))
    assert {message.routing_key for message in await queue.take()} == {"telemetry.gw-01", "telemetry._api"}


async def test_each_post_gets_the_verdict_on_its_own_readings(publisher: Publisher, queue: Queue) -> None:
    coalescer = Coalescer(publisher, Registries(), SETTINGS)
    mixed = b"[%b,%b]" % (reading(), reading("P-9"))
    wrapped = b'{"readings": [%b]}' % reading(frequency_hz=1e9)
    good, both, refused, nothing = await asyncio.gather(
        coalescer.post(post(reading())),
        coalescer.post(post(mixed)),
        coalescer.post(post(wrapped)),
        coalescer.post(post(b" [ ] ")),
    )
    assert (good.accepted, list(good.rejected)) == (1, [])
    assert both.accepted == 1
    assert [(r.index, r.row.reason) for r in both.rejected] == [(1, Reason.UNKNOWN_PUMP)]
    assert refused.accepted == 0
    assert [r.row.reason for r in refused.rejected] == [Reason.OUT_OF_RANGE]
    assert nothing.accepted == 0
    sent = [orjson.loads(message.body) for message in await queue.take()]
    assert sum(len(each["readings"] if isinstance(each, dict) else each) for each in sent) == 4


@pytest.mark.parametrize("content", [b'{"pump_id":', b'{"a":1},{"b":2}', b"1],[2", b"[1]]", b"", b"\xff"])
async def test_a_malformed_body_spoils_only_its_own_post(
    publisher: Publisher, queue: Queue, content: bytes
) -> None:
    coalescer = Coalescer(publisher, Registries(), SETTINGS)
    good, bad = await asyncio.gather(
        coalescer.post(post(reading())), coalescer.post(post(content)), return_exceptions=True
    )
    assert isinstance(bad, MalformedBody)
    assert not isinstance(good, BaseException)
    assert good.accepted == 1
    (message,) = await queue.take()
    assert len(orjson.loads(message.body)) == 1


@pytest.mark.parametrize(
    "odd",
    [
        b'{"\\u0072eadings": [' + reading(frequency_hz=49.0) + b"]}",
        b'{"a":' + b"[" * 1020 + b"]" * 1020 + b"}",
        reading(frequency_hz=7).replace(b":7}", b":1" + b"0" * 30 + b"}"),
    ],
    ids=["escaped name", "deep", "huge integer"],
)
async def test_what_was_accepted_is_accepted_whatever_shares_its_message(
    publisher: Publisher, queue: Queue, odd: bytes
) -> None:
    coalescer = Coalescer(publisher, Registries(), SETTINGS)
    nan = reading(frequency_hz=7).replace(b":7", b":NaN")
    receipts = await asyncio.gather(*(coalescer.post(post(body)) for body in (reading(), odd, nan)))
    bodies = [Body(message.body, JSON_TYPE, "gw-01") for message in await queue.take()]
    taken = screen(decode(bodies), KNOWN, time.time_ns() // 1000)
    assert len(taken.accepted) == sum(receipt.accepted for receipt in receipts)
    assert int(taken.counts.sum()) == sum(receipt.accepted + len(receipt.rejected) for receipt in receipts)


@pytest.mark.parametrize("wrap", [b"%b\0", b"%b\0\0", b"\xef\xbb\xbf%b", b"\xef\xbb\xbf[%b]\0"])
async def test_a_body_in_bom_and_nul_shares_a_message_and_is_accepted(
    publisher: Publisher, queue: Queue, wrap: bytes
) -> None:
    coalescer = Coalescer(publisher, Registries(), SETTINGS)
    bodies = (reading(motor_current_a=1.0), wrap % reading(motor_current_a=2.0), reading(motor_current_a=3.0))
    receipts = await asyncio.gather(*(coalescer.post(post(body)) for body in bodies))
    assert [(receipt.accepted, receipt.rejected) for receipt in receipts] == [(1, ())] * 3
    taken = decode([Body(message.body, JSON_TYPE, "gw-01") for message in await queue.take()])
    accepted = screen(taken, KNOWN, time.time_ns() // 1000).accepted
    current = CHANNEL_NAMES.index("motor_current_a")
    assert sorted(accepted.values[:, current].tolist()) == [1.0, 2.0, 3.0]


async def test_not_a_number_is_refused_and_still_sent_to_quarantine(
    publisher: Publisher, queue: Queue
) -> None:
    coalescer = Coalescer(publisher, Registries(), SETTINGS)
    body = reading(frequency_hz=1.5).replace(b"1.5", b"NaN")
    receipt = await coalescer.post(post(body))
    assert [r.row.reason for r in receipt.rejected] == [Reason.NOT_FINITE]
    assert b"NaN" in (await queue.take())[0].body


async def test_a_named_batch_goes_alone_under_its_name(publisher: Publisher, queue: Queue) -> None:
    coalescer = Coalescer(publisher, Registries(), SETTINGS)
    await asyncio.gather(
        *(coalescer.post(post(reading())) for _ in range(3)), coalescer.post(post(reading(), key="batch-7"))
    )
    names = [message.message_id for message in await queue.take()]
    assert len(names) == 2
    assert "batch-7" in names


async def test_truncated_arrow_is_malformed_and_not_sent(publisher: Publisher, queue: Queue) -> None:
    coalescer = Coalescer(publisher, Registries(), SETTINGS)
    with pytest.raises(MalformedBody):
        await coalescer.post(post(b"\xff\xff\xff\xff\x10\x00", media_type=ARROW_TYPE))
    assert await queue.take() == []


async def test_an_unknown_pump_is_looked_for_once_more(publisher: Publisher, queue: Queue) -> None:
    newer = Registry.of([Pump(2, "P-2", "W-1", "north")], {"gw-01": [2]})
    registries = Registries(newer=newer)
    receipt = await Coalescer(publisher, registries, SETTINGS).post(post(reading("P-2")))
    assert (receipt.accepted, registries.loads) == (1, 1)
    await queue.take()


async def test_posts_beyond_the_bound_are_turned_away(publisher: Publisher, queue: Queue) -> None:
    coalescer = Coalescer(publisher, Registries(), IngestSettings(coalesce_ms=50, max_pending_requests=2))
    outcomes = await asyncio.gather(
        *(coalescer.post(post(reading())) for _ in range(3)), return_exceptions=True
    )
    assert [type(outcome).__name__ for outcome in outcomes] == ["Receipt", "Receipt", "Unavailable"]
    assert (await coalescer.post(post(reading()))).accepted == 1
    await queue.take()


async def test_bodies_beyond_the_bound_are_turned_away(publisher: Publisher) -> None:
    coalescer = Coalescer(publisher, Registries(), IngestSettings(max_pending_mib=0.0001))
    with pytest.raises(Unavailable):
        await coalescer.post(post(reading() + b" " * 200))


async def test_a_full_queue_is_not_taken_for_a_confirm(
    publisher: Publisher, queue: Queue, vhost: Vhost
) -> None:
    limit = {"pattern": "^ingest.telemetry$", "definition": {"max-length": 1}, "apply-to": "queues"}
    vhost.server.api("PUT", f"policies/{vhost.name}/full", limit)
    coalescer = Coalescer(publisher, Registries(), SETTINGS)
    outcomes = [await settled(coalescer.post(post(reading()))) for _ in range(20)]
    # Once the queue is full nothing is confirmed; between two refusals the channel may be opened again.
    refused = outcomes[[type(outcome) for outcome in outcomes].index(Nacked) :]
    assert {type(outcome) for outcome in refused} <= {Nacked, BrokerUnavailable}
    vhost.server.api("DELETE", f"policies/{vhost.name}/full")


async def test_without_a_broker_nothing_is_confirmed() -> None:
    publisher = Publisher("amqp://127.0.0.1:1/")
    with pytest.raises(Unavailable):
        await Coalescer(publisher, Registries(), SETTINGS).post(post(reading()))


async def test_closing_sends_what_waits(publisher: Publisher, queue: Queue) -> None:
    coalescer = Coalescer(publisher, Registries(), IngestSettings(coalesce_ms=60_000))
    waiting = asyncio.ensure_future(coalescer.post(post(reading())))
    await asyncio.sleep(0)
    await coalescer.close()
    assert (await waiting).accepted == 1
    assert len(await queue.take()) == 1
