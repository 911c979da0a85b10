"""Publishing and consuming through everything a broker does to its clients."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from urllib.parse import quote

import aio_pika
import pytest
from esp_common import topology
from esp_common.contracts.events import Event
from esp_common.errors import BrokerUnavailable, EspError, Nacked, Unroutable
from esp_common.messaging import Delivery, EventListener, LeanConsumer, Publisher, Requester
from esp_stack.servers import RabbitMQ, Vhost
from rabbitmqctl import rabbitmqctl
from waiting import until

QUEUE = topology.INGEST_TELEMETRY
KEY = "telemetry.gw-01"


@pytest.fixture
async def fresh(rabbitmq: RabbitMQ) -> AsyncIterator[Vhost]:
    """A virtual host of the test."""
    vhost = rabbitmq.vhost()
    yield vhost
    vhost.delete()


@pytest.fixture
async def publisher(fresh: Vhost) -> AsyncIterator[Publisher]:
    """The ingest service's publisher."""
    async with Publisher(fresh.url_for("ingest")) as publisher:
        yield publisher


class Taken:
    """A consumer and what it has been given."""

    def __init__(self, vhost: Vhost, **options: object) -> None:
        self.deliveries: list[Delivery] = []
        self.consumer = LeanConsumer(
            vhost.url_for("ingest"),
            QUEUE,
            prefetch=100,
            on_message=self.deliveries.append,
            service="ingest",
            linger_s=0.05,
            **options,  # type: ignore[arg-type]
        )

    def bodies(self) -> list[bytes]:
        return [delivery.body for delivery in self.deliveries]


@asynccontextmanager
async def consuming(vhost: Vhost) -> AsyncIterator[Taken]:
    taken = Taken(vhost)
    running = asyncio.create_task(taken.consumer.run())
    await until(lambda: taken.consumer.alive, "the consumer is alive")
    yield taken
    await taken.consumer.stop()
    await running


async def depth(vhost: Vhost, queue: str = QUEUE) -> int:
    """Return how many messages wait in the queue, those with consumers not counted."""
    async with await aio_pika.connect(vhost.url) as connection, connection.channel() as channel:
        declared = await channel.declare_queue(queue, passive=True)
        return declared.declaration_result.message_count or 0


def close_connections(vhost: Vhost) -> int:
    """Close every connection to `vhost` from the broker's side; return how many there were."""
    found = [c for c in vhost.server.api("GET", "connections").json() if c["vhost"] == vhost.name]
    for connection in found:
        vhost.server.api("DELETE", f"connections/{quote(connection['name'], safe='')}")
    return len(found)


# --- publishing -------------------------------------------------------------------------------------------


async def test_a_message_arrives_as_it_was_published(publisher: Publisher, fresh: Vhost) -> None:
    large = bytes(1_000_000)
    await publisher.publish(
        topology.INGEST, KEY, b"[]", headers={"a": "b"}, content_type="application/x", message_id="m-1"
    )
    await publisher.publish(topology.INGEST, KEY, b"")
    await publisher.publish(topology.INGEST, KEY, large)
    async with consuming(fresh) as taken:
        await until(lambda: len(taken.deliveries) == 3, "three messages")
    first = taken.deliveries[0]
    assert taken.bodies() == [b"[]", b"", large]
    assert (first.routing_key, first.content_type, first.message_id) == (KEY, "application/x", "m-1")
    assert (first.headers, first.redelivered, first.delivery_count) == ({"a": "b"}, False, 0)


async def test_a_message_nobody_takes_raises_and_its_neighbours_do_not(publisher: Publisher) -> None:
    outcomes = await asyncio.gather(
        *(publisher.publish(topology.COMMANDS, "nobody", b"x", message_id="same") for _ in range(5)),
        *(publisher.publish(topology.INGEST, KEY, b"x", message_id="same") for _ in range(5)),
        return_exceptions=True,
    )
    assert [type(outcome) for outcome in outcomes] == [Unroutable] * 5 + [type(None)] * 5


async def test_a_message_that_need_not_be_taken_does_not_raise(publisher: Publisher) -> None:
    await publisher.publish(topology.EVENTS, "asset.pump-changed", b"{}", mandatory=False)


async def test_a_queue_that_is_full_raises(publisher: Publisher, fresh: Vhost) -> None:
    policy = {"pattern": f"^{QUEUE}$", "definition": {"max-length": 1}, "apply-to": "queues"}
    fresh.server.api("PUT", f"policies/{fresh.name}/full", policy)

    async def refused() -> bool:
        try:
            await publisher.publish(topology.INGEST, KEY, b"x")
        except Nacked:
            return True
        return False

    await until(refused, "the broker refuses")


async def test_a_channel_that_goes_on_refusing_is_opened_again_once_the_queue_has_room(
    publisher: Publisher, fresh: Vhost
) -> None:
    policy = {"pattern": f"^{QUEUE}$", "definition": {"max-length": 1}, "apply-to": "queues"}
    fresh.server.api("PUT", f"policies/{fresh.name}/full", policy)

    async def outcome() -> str:
        try:
            await publisher.publish(topology.INGEST, KEY, b"x")
        except EspError as error:
            return error.code
        return "confirmed"

    async def refused() -> bool:
        return await outcome() == "nacked"

    async def confirmed() -> bool:
        return await outcome() == "confirmed"

    await until(refused, "the broker refuses")
    assert publisher.obstacle == f"the broker refuses messages to {topology.INGEST}: a queue is full"
    fresh.server.api("DELETE", f"policies/{fresh.name}/full")
    fresh.server.api("DELETE", f"queues/{fresh.name}/{QUEUE}/contents")
    await until(confirmed, "a message is confirmed again")
    assert publisher.obstacle is None


async def test_refused_audit_records_make_no_role_unready(publisher: Publisher, fresh: Vhost) -> None:
    policy = {"pattern": f"^{topology.AUTH_AUDIT}$", "definition": {"max-length": 1}, "apply-to": "queues"}
    fresh.server.api("PUT", f"policies/{fresh.name}/full", policy)

    async def refused() -> bool:
        try:
            await publisher.publish(topology.AUDIT, "ingest.post", b"{}")
        except Nacked:
            return publisher.obstacle in (None, "not connected")
        return False

    await until(refused, "the broker refuses a record, and the publisher is none the worse")


async def test_a_publisher_says_at_once_that_the_broker_has_its_alarm_on(server_home: Path) -> None:
    server = RabbitMQ(server_home / "rabbitmq-alarm")
    server.start()
    try:
        async with Publisher(server.url_for("ingest")) as publisher:
            await publisher.publish(topology.INGEST, KEY, b"before")
            limit = server.home / "rabbitmq.conf"
            assert "disk_free_limit" in limit.read_text()
            rabbitmqctl(server, "set_disk_free_limit", "900000GB")

            async def said() -> bool:
                try:
                    async with asyncio.timeout(1):
                        await publisher.publish(topology.INGEST, KEY, b"x")
                except (TimeoutError, BrokerUnavailable):
                    pass
                return "alarm" in (publisher.obstacle or "")

            await until(said, "the publisher says so")
            with pytest.raises(BrokerUnavailable, match="disk or memory alarm"):
                await publisher.publish(topology.INGEST, KEY, b"x")
            rabbitmqctl(server, "set_disk_free_limit", "1MB")
            await until(lambda: publisher.obstacle is None, "the alarm is over")
            await publisher.publish(topology.INGEST, KEY, b"after")
    finally:
        server.kill()


async def test_an_unknown_exchange_raises_and_the_publisher_recovers(
    publisher: Publisher,
) -> None:
    with pytest.raises(EspError):
        await publisher.publish("esp.ingest.misspelt", KEY, b"x")
    await until(lambda: publisher.connected, "connected again")
    await publisher.publish(topology.INGEST, KEY, b"x")


async def test_what_was_in_flight_when_the_connection_dropped_raises_and_the_rest_goes_on(
    publisher: Publisher, fresh: Vhost
) -> None:
    confirmed = 0
    stopping = asyncio.Event()

    async def stream() -> int:
        nonlocal confirmed
        refused = 0
        while not stopping.is_set():
            try:
                await publisher.publish(topology.INGEST, KEY, b"x")
                confirmed += 1
            except BrokerUnavailable:
                refused += 1
                await asyncio.sleep(0.02)
        return refused

    streams = [asyncio.create_task(stream()) for _ in range(20)]
    await until(lambda: asyncio.to_thread(lambda: close_connections(fresh) > 0), "closed by the broker")
    before = confirmed
    await until(lambda: not publisher.connected or confirmed > before + 1000, "noticed")
    await until(lambda: publisher.connected and confirmed > before + 100, "publishing again")
    stopping.set()
    assert sum(await asyncio.gather(*streams)) > 0
    await until(lambda: at_least(fresh, confirmed), "every confirmed message is in the queue")


async def test_confirms_are_told_apart_by_who_published_while_the_link_was_being_opened(
    rabbitmq: RabbitMQ, fresh: Vhost
) -> None:
    async with Requester(fresh.url_for("ingest"), timeout_s=3) as requester:

        async def impatient() -> None:
            while not stopping.is_set():
                with suppress(BrokerUnavailable):
                    await requester.publish(topology.INGEST, KEY, b"x")
                await asyncio.sleep(0)

        stopping = asyncio.Event()
        streams = [asyncio.create_task(impatient()) for _ in range(5)]
        await until(lambda: asyncio.to_thread(lambda: close_connections(fresh) > 0), "closed by the broker")
        await until(lambda: not requester.connected, "noticed")
        await until(lambda: requester.connected, "connected again")
        stopping.set()
        await asyncio.gather(*streams)
        # Were a confirm taken for another message's, this one would wait for the next one's for ever.
        await requester.publish(topology.INGEST, KEY, b"the last")


async def at_least(vhost: Vhost, count: int) -> bool:
    return await depth(vhost) >= count


async def test_a_publisher_starts_without_a_broker_and_says_so() -> None:
    publisher = Publisher("amqp://127.0.0.1:1/")
    await publisher.start(timeout_s=0.1)
    with pytest.raises(BrokerUnavailable):
        await publisher.publish(topology.INGEST, KEY, b"x")
    await publisher.close()


async def test_a_confirm_that_does_not_come_is_given_up(rabbitmq: RabbitMQ, fresh: Vhost) -> None:
    async with Publisher(fresh.url_for("ingest"), timeout_s=0.5) as publisher:
        rabbitmq.pause()
        try:
            with pytest.raises(BrokerUnavailable, match="no confirm"):
                await publisher.publish(topology.INGEST, KEY, b"x")
        finally:
            rabbitmq.resume()


# --- consuming --------------------------------------------------------------------------------------------


async def test_what_is_done_is_gone_and_what_is_not_comes_again(publisher: Publisher, fresh: Vhost) -> None:
    for number in range(6):
        await publisher.publish(topology.INGEST, KEY, str(number).encode())
    async with consuming(fresh) as taken:
        await until(lambda: len(taken.deliveries) == 6, "six messages")
        taken.consumer.done(taken.deliveries[3:5])
        taken.consumer.done(taken.deliveries[:2])
    async with consuming(fresh) as again:
        await until(lambda: len(again.deliveries) == 2, "what was not done")
        assert sorted(again.bodies()) == [b"2", b"5"]
        assert all(d.redelivered and d.delivery_count == 1 for d in again.deliveries)


async def test_a_deleted_queue_makes_it_not_alive_until_it_has_declared_and_consumed_again(
    publisher: Publisher, fresh: Vhost
) -> None:
    async with consuming(fresh) as taken:
        seen_dead = watch(lambda: taken.consumer.alive)
        fresh.server.api("DELETE", f"queues/{fresh.name}/{QUEUE}")
        await until(seen_dead, "not alive while the socket is")
        await until(lambda: taken.consumer.alive, "alive again")
        await publisher.publish(topology.INGEST, KEY, b"after")
        await until(lambda: b"after" in taken.bodies(), "consuming again")


def watch(alive: Callable[[], bool]) -> Callable[[], bool]:
    """Return a condition that holds once `alive` has been seen not to."""
    return lambda: not alive()


async def test_a_channel_the_broker_closes_is_opened_again(publisher: Publisher, fresh: Vhost) -> None:
    await publisher.publish(topology.INGEST, KEY, b"before")
    async with consuming(fresh) as taken:
        await until(lambda: len(taken.deliveries) == 1, "the message")
        old = taken.deliveries[0]
        taken.consumer.done([old])
        await until(lambda: nothing_unsettled(fresh), "acked")
        taken.consumer.reject(old, requeue=True)  # a tag twice: the broker closes the channel
        await until(lambda: not taken.consumer.alive, "not alive")
        await until(lambda: taken.consumer.alive, "alive again")
        await publisher.publish(topology.INGEST, KEY, b"after")
        await until(lambda: b"after" in taken.bodies(), "consuming again")


async def nothing_unsettled(vhost: Vhost) -> bool:
    def messages() -> int:
        found = vhost.server.api("GET", f"queues/{vhost.name}/{QUEUE}").json()
        return int(found.get("messages", 1))

    return await asyncio.to_thread(messages) == 0


async def test_a_closed_connection_gives_messages_back_and_late_acks_do_no_harm(
    publisher: Publisher, fresh: Vhost
) -> None:
    await publisher.publish(topology.INGEST, KEY, b"x")
    async with consuming(fresh) as taken:
        await until(lambda: len(taken.deliveries) == 1, "the message")
        await until(lambda: asyncio.to_thread(lambda: close_connections(fresh) > 0), "closed")
        await until(lambda: len(taken.deliveries) == 2, "the message again")
        first, second = taken.deliveries
        taken.consumer.done([first])
        taken.consumer.reject(first, requeue=False)
        assert second.redelivered
        taken.consumer.done([second])
        await until(lambda: nothing_unsettled(fresh), "acked once")
        assert await depth(fresh, topology.INGEST_TELEMETRY_DEAD) == 0


async def test_a_rejected_message_lies_with_the_dead_letters(publisher: Publisher, fresh: Vhost) -> None:
    await publisher.publish(topology.INGEST, KEY, b"poison")
    async with consuming(fresh) as taken:
        await until(lambda: len(taken.deliveries) == 1, "the message")
        taken.consumer.reject(taken.deliveries[0], requeue=False)
        await until(lambda: at_least_dead(fresh), "dead-lettered")


async def at_least_dead(vhost: Vhost) -> bool:
    return await depth(vhost, topology.INGEST_TELEMETRY_DEAD) == 1


async def test_a_message_given_back_too_often_lies_with_the_dead_letters(
    publisher: Publisher, fresh: Vhost
) -> None:
    await publisher.publish(topology.INGEST, KEY, b"poison")
    async with consuming(fresh) as taken:
        given_back = 0

        async def dead() -> bool:
            nonlocal given_back
            for delivery in taken.deliveries[given_back:]:
                given_back += 1
                taken.consumer.reject(delivery, requeue=True)
            return await at_least_dead(fresh)

        await until(dead, "dead-lettered")
    assert [d.delivery_count for d in taken.deliveries] == list(range(topology.DELIVERY_LIMIT + 1))


async def test_a_paused_consumer_takes_nothing_and_may_still_ack(publisher: Publisher, fresh: Vhost) -> None:
    await publisher.publish(topology.INGEST, KEY, b"1")
    async with consuming(fresh) as taken:
        await until(lambda: len(taken.deliveries) == 1, "the message")
        await taken.consumer.pause()
        await publisher.publish(topology.INGEST, KEY, b"2")
        taken.consumer.done(taken.deliveries)
        await until(lambda: at_least(fresh, 1), "the second waits")
        assert not taken.consumer.alive
        assert taken.bodies() == [b"1"]
        await taken.consumer.resume()
        await until(lambda: taken.bodies() == [b"1", b"2"], "the second came, and the first not again")


async def test_a_pause_can_give_back_what_is_not_settled(publisher: Publisher, fresh: Vhost) -> None:
    await publisher.publish(topology.INGEST, KEY, b"1")
    async with consuming(fresh) as taken:
        await until(lambda: len(taken.deliveries) == 1, "the message")
        await taken.consumer.pause(give_back=True)
        await until(lambda: at_least(fresh, 1), "given back")
        await taken.consumer.resume()
        await until(lambda: len(taken.deliveries) == 2, "taken again")
        assert taken.deliveries[1].delivery_count == 1


# --- the broker itself ------------------------------------------------------------------------------------


async def test_a_restart_of_the_broker_loses_nothing_confirmed(server_home: Path) -> None:
    server = RabbitMQ(server_home / "restarted")
    server.start()
    try:
        vhost = Vhost("/", server)
        async with Publisher(vhost.url_for("ingest")) as publisher, consuming(vhost) as taken:
            await publisher.publish(topology.INGEST, KEY, b"before")
            await until(lambda: len(taken.deliveries) == 1, "the message")
            await asyncio.to_thread(server.restart)
            await until(lambda: publisher.connected and taken.consumer.alive, "both are back")
            await publisher.publish(topology.INGEST, KEY, b"after")
            await until(lambda: {b"before", b"after"} <= set(taken.bodies()[1:]), "both messages")
    finally:
        server.kill()


# --- asking and hearing -----------------------------------------------------------------------------------


async def test_a_question_nobody_serves_raises_at_once(fresh: Vhost) -> None:
    async with Requester(fresh.url_for("ingest")) as requester:
        with pytest.raises(Unroutable):
            await requester.request(topology.COMMANDS, "nobody", b"?", timeout_s=10)


async def test_a_question_not_answered_raises(fresh: Vhost) -> None:
    async with Requester(fresh.url_for("ingest")) as requester:
        with pytest.raises(BrokerUnavailable, match="no answer"):
            await requester.request(topology.COMMANDS, topology.AUTH_VERIFY_KEY, b"?", timeout_s=0.3)


async def test_every_listener_hears_each_event_and_goes_on_after_a_lost_connection(
    publisher: Publisher, fresh: Vhost
) -> None:
    heard: list[list[str]] = [[], []]
    beginnings: list[int] = []

    def listener(index: int) -> EventListener:
        return EventListener(
            fresh.url_for("ingest"),
            ["asset.*"],
            on_event=lambda event: heard[index].append(event.subject),
            on_connected=lambda: beginnings.append(index),
        )

    listeners = [listener(0), listener(1)]
    running = [asyncio.create_task(each.run()) for each in listeners]

    async def say(subject: str) -> None:
        event = Event("asset.pump-changed", "ingest", subject, {})
        await publisher.publish(topology.EVENTS, event.type, event.body(), headers=event.headers())

    await until(lambda: all(each.alive for each in listeners), "both listen")
    await say("P-1")
    await until(lambda: heard == [["P-1"], ["P-1"]], "both heard")
    await until(lambda: asyncio.to_thread(lambda: close_connections(fresh) >= 3), "all closed")
    await until(lambda: len(beginnings) >= 4, "both begin again")
    await until(lambda: publisher.connected and all(each.alive for each in listeners), "all are back")
    await say("P-2")
    await until(lambda: heard == [["P-1", "P-2"]] * 2, "both heard again")
    for each in listeners:
        await each.stop()
    await asyncio.gather(*running)
