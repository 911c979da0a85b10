"""The live stream: WebSocket in front, Redis behind, as the API and the worker's half run."""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import orjson
import pytest
from esp_common import topology
from esp_common.contracts.events import Event
from esp_common.messaging import Publisher
from esp_common.redis import connect_redis
from esp_common.revocations import REDIS_KEY
from esp_diagnostics.app import run_api
from esp_diagnostics.live.broadcast import KINDS, LiveHub, LivePublisher, Mailbox, Subscriber
from esp_diagnostics.live.tickets import Tickets
from esp_stack.programs import free_port
from waiting import beside, until
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus


def reading(pump_id: str = "P-1", field_id: str | None = "north", **fields: Any) -> dict[str, Any]:
    """Return a live message about a reading."""
    return {
        "kind": "reading",
        "pump_id": pump_id,
        "field_id": field_id,
        "time": "2026-05-01T00:00:00Z",
        "state": "running",
        "running": True,
        "values": {"frequency_hz": 50.0},
        **fields,
    }


class Client:
    """A client of the live stream: what it was told is in `told`, why it ended in `code`."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection
        self.told: list[dict[str, Any]] = []
        self.code: int | None = None

    async def listen(self) -> None:
        """Take what comes until the other side closes."""
        try:
            async for text in self.connection:
                self.told.append(orjson.loads(text))
        except ConnectionClosed:
            pass
        self.code = self.connection.close_code

    async def say(self, **message: Any) -> None:
        await self.connection.send(orjson.dumps(message).decode())

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [message for message in self.told if message["kind"] == kind]

    async def until(self, kind: str, count: int = 1) -> list[dict[str, Any]]:
        """Return the messages of a kind, once there are so many."""
        found: list[dict[str, Any]] = await until(
            lambda: len(self.of(kind)) >= count and self.of(kind), f"{count} {kind}, of {self.told[-5:]}"
        )
        return found

    async def subscribe(self, **wish: list[str]) -> None:
        """Subscribe, and wait until that is so and Redis is heard."""
        before = len(self.of("subscribed"))
        await self.say(subscribe=wish)
        await self.until("subscribed", before + 1)
        await until(lambda: [m["live"] for m in self.of("stream")][-1:] == [True], "the stream is live")

    async def until_closed(self, timeout_s: float = 30) -> int:
        """Return the code the connection was closed with."""
        code: int = await until(lambda: self.code, "the stream is closed", timeout_s)
        return code


@asynccontextmanager
async def opened(port: int, **options: Any) -> AsyncIterator[Client]:
    """Open a stream; nothing is said yet."""
    async with connect(f"ws://127.0.0.1:{port}/api/v1/live", max_size=None, **options) as connection:
        client = Client(connection)
        listening = asyncio.create_task(client.listen())
        try:
            yield client
        finally:
            listening.cancel()


@asynccontextmanager
async def logged_in(port: int, token: str, **options: Any) -> AsyncIterator[Client]:
    """Open a stream with a token or key."""
    async with opened(port, **options) as client:
        await client.say(token=token)
        await client.until("welcome")
        yield client


@pytest.fixture
async def publisher(redis_url: str) -> AsyncIterator[LivePublisher]:
    """The worker's half."""
    redis = connect_redis(redis_url)
    yield LivePublisher(redis)
    await redis.aclose()


@pytest.fixture(scope="module")
def port(diagnostics_api: Any) -> int:
    return int(diagnostics_api.settings.http_port)


@pytest.fixture
def viewer(auth_service: Any) -> str:
    """A token of somebody who may read."""
    return str(auth_service.token("viewer"))


async def test_only_messages_of_subscribed_pumps_and_fields_arrive(
    port: int, viewer: str, publisher: LivePublisher
) -> None:
    async with logged_in(port, viewer) as client:
        await client.subscribe(pumps=["P-5"], fields=["north"])
        others = [reading("P-6", "south"), reading("P-1", "north"), reading("P-5", "south")]
        await publisher.publish([*others, {**reading("P-5", "south"), "kind": "status"}])
        await client.until("status")
        assert [message["pump_id"] for message in client.of("reading")] == ["P-1", "P-5"]
        await client.say(unsubscribe={"fields": ["north"]})
        await client.until("subscribed", 2)
        await publisher.publish([reading("P-2", "north"), reading("P-5", "south", state="off")])
        assert (await client.until("reading", 3))[-1]["state"] == "off"
        assert {message["pump_id"] for message in client.of("reading")} == {"P-1", "P-5"}


async def test_the_star_subscribes_to_all_fields_and_messages_without_one(
    port: int, viewer: str, publisher: LivePublisher
) -> None:
    async with logged_in(port, viewer) as client:
        await client.subscribe(fields=["*"])
        alert = {"kind": "alert", "pump_id": None, "field_id": None, "alert_id": "a-1", "time": "…"}
        await publisher.publish([alert, reading("P-6", "south")])
        await client.until("reading")
        assert await client.until("alert") == [alert]


async def test_a_key_receives_only_permitted_kinds(
    port: int, auth_service: Any, publisher: LivePublisher
) -> None:
    key = auth_service.key("alerts:read")
    async with logged_in(port, key) as client:
        assert client.of("welcome")[0]["kinds"] == ["alert"]
        await client.subscribe(fields=["north"])
        finding = {**reading(), "kind": "finding", "finding_id": "f-1"}
        await publisher.publish([reading(), finding, {**reading(), "kind": "alert", "alert_id": "a-1"}])
        await client.until("alert")
        assert client.of("reading") == client.of("finding") == []


async def test_unknown_names_and_invalid_messages_are_reported(port: int, viewer: str) -> None:
    async with logged_in(port, viewer) as client:
        await client.say(subscribe={"pumps": ["P-1", "P-99"], "fields": ["nowhere", "*"]})
        (answer,) = await client.until("subscribed")
        assert answer["unknown"] == {"pumps": ["P-99"], "fields": ["nowhere"]}
        a_nul = orjson.dumps({"subscribe": {"pumps": ["P-1\0"]}, "unsubscribe": {"fields": ["\0"]}}).decode()
        for nonsense in ("{", "[]", '{"subscribe": {"wells": []}}', '{"subscribe": 3}', "ÿ", a_nul):
            await client.connection.send(nonsense)
        for error in await client.until("error", 6):
            assert error["code"] == "invalid-input"
            assert error["fix"]
        await client.connection.send(b'{"ping": 7}')
        assert (await client.until("pong"))[0]["ping"] == 7


async def test_a_stream_sends_heartbeats(
    diagnostics_settings: Any, diagnostics_api: Any, viewer: str, running: Any
) -> None:
    settings = diagnostics_settings.model_copy(update={"http_port": free_port(), "live_heartbeat_s": 0.2})
    async with running(run_api, settings), logged_in(settings.http_port, viewer) as client:
        assert [beat["skipped"] for beat in await client.until("heartbeat", 2)] == [0, 0]


async def test_a_stopping_api_closes_its_streams_and_ends(
    diagnostics_settings: Any, diagnostics_api: Any, viewer: str, running: Any
) -> None:
    settings = diagnostics_settings.model_copy(update={"http_port": free_port()})
    async with running(run_api, settings):
        connection = await connect(f"ws://127.0.0.1:{settings.http_port}/api/v1/live")
        client = Client(connection)
        listening = asyncio.create_task(client.listen())
        await client.say(token=viewer)
        await client.until("welcome")
        stopping_at = time.monotonic()
    await listening
    assert client.code == 1012
    assert time.monotonic() - stopping_at < 10


async def test_a_ticket_opens_exactly_one_stream(port: int, diagnostics_api: Any, viewer: str) -> None:
    header = {"Authorization": f"Bearer {viewer}"}
    answer = await diagnostics_api.bare.post("/api/v1/live/tickets", headers=header)
    assert answer.status_code == 201
    assert (await diagnostics_api.bare.post("/api/v1/live/tickets")).status_code == 401
    ticket = answer.json()["ticket"]
    async with opened(port) as client:
        await client.say(ticket=ticket, subscribe={"fields": ["north"]})
        await client.until("welcome")
        await client.until("subscribed")
    async with opened(port) as client:
        await client.say(ticket=ticket)
        assert await client.until_closed() == 4401


async def test_neither_ticket_nor_credential_can_be_read_in_redis(redis_url: str) -> None:
    redis = connect_redis(redis_url)
    before = {key async for key in redis.scan_iter("diagnostics:ticket:*")}
    ticket = await Tickets(redis).issue("the credential")
    (key,) = {key async for key in redis.scan_iter("diagnostics:ticket:*")} - before
    stored = key + await redis.get(key)
    assert 0 < await redis.ttl(key) <= 30
    assert b"credential" not in stored
    assert ticket.encode() not in stored
    assert await Tickets(redis).redeem(ticket) == "the credential"
    await redis.aclose()


@pytest.mark.parametrize(
    ("first", "code"),
    [
        ({"token": "nonsense"}, 4401),
        ({"ticket": "nonsense"}, 4401),
        ({"ticket": "x" * 8000}, 4401),
        ({"subscribe": {"pumps": ["P-1"]}}, 4401),
        ({"hello": 1}, 4400),
    ],
    ids=["bad-token", "bad-ticket", "long-ticket", "no-credential", "not-understood"],
)
async def test_an_invalid_first_message_is_rejected(port: int, first: dict[str, Any], code: int) -> None:
    async with opened(port) as client:
        await client.say(**first)
        assert await client.until_closed() == code
        assert client.told[-1]["kind"] == "error"
        assert client.of("welcome") == []


async def test_silent_sockets_do_not_block_other_clients(
    diagnostics_settings: Any,
    diagnostics_api: Any,
    viewer: str,
    running: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One address may have few that have not authenticated, and one of another address always gets in."""
    monkeypatch.setattr("esp_diagnostics.live.slots.MAX_UNAUTHENTICATED", 5)
    limits = {"live_logins_per_address": 3, "live_login_s": 60, "http_port": free_port()}
    settings = diagnostics_settings.model_copy(update=limits)

    def from_address(number: int) -> dict[str, Any]:
        return {"additional_headers": {"X-Forwarded-For": f"203.0.113.{number}"}}

    async with running(run_api, settings), AsyncExitStack() as stack:
        port = settings.http_port
        silent = [await stack.enter_async_context(opened(port, **from_address(1))) for _ in range(3)]
        async with opened(port, **from_address(1)) as one_too_many:
            assert await one_too_many.until_closed() == 4429
        for number in range(2, 4):
            await stack.enter_async_context(opened(port, **from_address(number)))
        async with logged_in(port, viewer, **from_address(9)):
            assert await silent[0].until_closed() == 4408
        assert {client.code for client in silent[1:]} == {None}


async def test_a_silent_socket_is_closed(
    diagnostics_settings: Any, diagnostics_api: Any, running: Any
) -> None:
    settings = diagnostics_settings.model_copy(update={"live_login_s": 0.3, "http_port": free_port()})
    async with running(run_api, settings), opened(settings.http_port) as silent:
        assert await silent.until_closed() == 4408


async def test_authenticated_streams_of_one_address_leave_room_for_others(
    diagnostics_settings: Any, diagnostics_api: Any, auth_service: Any, running: Any
) -> None:
    settings = diagnostics_settings.model_copy(
        update={"live_sockets_per_address": 1, "http_port": free_port()}
    )
    port = settings.http_port
    async with running(run_api, settings), logged_in(port, auth_service.token("viewer", sub="ann")):
        async with opened(port) as second:
            await second.say(token=auth_service.token("viewer", sub="ben"))
            assert await second.until_closed() == 4429
        elsewhere = {"X-Forwarded-For": "203.0.113.7"}
        async with logged_in(port, auth_service.token("viewer"), additional_headers=elsewhere):
            pass


@pytest.mark.parametrize(
    "origin", ["https://elsewhere.example", "null", "https://127.0.0.1", "https://[", "file://"]
)
async def test_a_page_of_another_origin_is_rejected(port: int, origin: str) -> None:
    with pytest.raises(InvalidStatus) as refused:
        async with opened(port, origin=origin):
            pass
    assert refused.value.response.status_code == 403


async def test_pages_of_own_and_listed_origins_are_accepted(
    diagnostics_settings: Any, diagnostics_api: Any, viewer: str, running: Any
) -> None:
    listed = "https://console.example"
    settings = diagnostics_settings.model_copy(update={"cors_origins": (listed,), "http_port": free_port()})
    port = settings.http_port
    async with running(run_api, settings):
        for origin in (listed, f"https://127.0.0.1:{port}", None):
            async with logged_in(port, viewer, origin=origin):
                pass


async def test_a_caller_without_any_live_permission_is_rejected(port: int, auth_service: Any) -> None:
    for credential in (auth_service.token("auditor"), auth_service.token("admin", must=["password"])):
        async with opened(port) as client:
            await client.say(token=credential)
            assert await client.until_closed() == 4403


async def test_the_key_may_be_sent_as_a_header(port: int, auth_service: Any) -> None:
    key = auth_service.key("telemetry:read")
    async with opened(port, additional_headers={"X-API-Key": key}) as client:
        await client.until("welcome")


async def test_a_revoked_session_is_disconnected_within_five_seconds(
    port: int, diagnostics_api: Any, auth_service: Any, publisher: LivePublisher
) -> None:
    token = auth_service.token("viewer", sid="session-of-the-thief")
    async with logged_in(port, token) as client:
        await client.subscribe(fields=["north"])
        entry = {"sessions": {"session-of-the-thief": time.time() + 900}}
        await say_event(diagnostics_api.vhost, "auth.revoked", "session-of-the-thief", entry)
        assert await client.until_closed(5) == 4401


async def test_a_session_revoked_without_an_event_is_disconnected_within_five_seconds(
    port: int, auth_service: Any, redis_url: str
) -> None:
    token = auth_service.token("viewer", sid="session-revoked-quietly")
    redis = connect_redis(redis_url)
    async with logged_in(port, token) as client:
        document = {"version": 2, "sessions": {"session-revoked-quietly": time.time() + 900}, "users": {}}
        auth_service.revocations = document
        await redis.set(REDIS_KEY, orjson.dumps(document))
        assert await client.until_closed(5) == 4401
    await redis.aclose()


async def test_a_revoked_key_is_disconnected_within_five_seconds(
    port: int, diagnostics_api: Any, auth_service: Any
) -> None:
    key = auth_service.key("telemetry:read")
    digest, principal = list(auth_service.keys.items())[-1]
    async with logged_in(port, key) as client:
        del auth_service.keys[digest]
        await say_event(diagnostics_api.vhost, "auth.key-revoked", principal.id, {"key_id": principal.id})
        assert await client.until_closed(5) == 4401


async def test_an_expired_token_is_disconnected_unless_renewed(port: int, auth_service: Any) -> None:
    soon = {"sub": "maria", "exp": time.time() + 2}
    async with (
        logged_in(port, auth_service.token("viewer", **soon)) as forgetful,
        logged_in(port, auth_service.token("viewer", **soon)) as careful,
    ):
        await careful.say(token=auth_service.token("viewer", sub="maria"))
        assert await forgetful.until_closed(5) == 4401
        assert "expired" in forgetful.told[-1]["detail"]
        await careful.say(ping=1)
        await careful.until("pong")
        await careful.say(token=auth_service.token("admin", sub="peter"))
        assert await careful.until_closed(5) == 4403


async def say_event(vhost: Any, type_: str, subject: str, data: Mapping[str, Any]) -> None:
    """Say what auth says."""
    event = Event(type=type_, source="auth", subject=subject, data=data)
    async with Publisher(vhost.url_for("auth")) as publisher:
        await publisher.publish(
            topology.EVENTS, type_, event.body(), headers=event.headers(), message_id=event.id
        )


async def test_streams_and_subscriptions_are_limited(
    diagnostics_settings: Any, diagnostics_api: Any, auth_service: Any, running: Any
) -> None:
    few = {"live_sockets": 3, "live_sockets_per_caller": 2, "live_subscriptions": 2, "http_port": free_port()}
    settings = diagnostics_settings.model_copy(update={**few, "rate_limit_per_minute": 5})
    port = settings.http_port
    async with running(run_api, settings):
        ann, ben = auth_service.token("viewer", sub="ann"), auth_service.token("viewer", sub="ben")
        async with logged_in(port, ann) as first, logged_in(port, ann):
            async with opened(port) as third:
                await third.say(token=ann)
                assert await third.until_closed() == 4429
            async with logged_in(port, ben), opened(port) as fourth:
                await fourth.say(token=ben)
                assert await fourth.until_closed() == 1013
            await first.say(subscribe={"pumps": ["P-1", "P-2", "P-3"]})
            assert "maximum of 2" in (await first.until("error"))[0]["detail"]
            for _ in range(5):
                await first.say(ping=1)
            assert await first.until_closed() == 4429


async def test_a_slow_client_gets_the_newest_messages_within_a_bound(
    port: int, auth_service: Any, publisher: LivePublisher
) -> None:
    async with logged_in(port, auth_service.token("viewer"), compression=None) as client:
        await client.subscribe(fields=["north"])
        client.connection.transport.pause_reading()
        padding = "x" * 4000
        for round_ in range(100):
            await publisher.publish([reading(f"P-{n}", number=round_, padding=padding) for n in range(20)])
        # The last is on its way through Redis: another client that is not slow has it.
        async with logged_in(port, auth_service.token("viewer")) as quick:
            await quick.subscribe(pumps=["P-marker"])
            await publisher.publish([reading("P-marker")])
            await quick.until("reading")
        client.connection.transport.resume_reading()
        await until(lambda: {r["pump_id"] for r in client.of("reading")[-21:]} >= {"P-marker"}, "the last")
        newest = {r["pump_id"]: r["number"] for r in client.of("reading") if r["pump_id"] != "P-marker"}
        assert newest == {f"P-{n}": 99 for n in range(20)}
        assert len(client.of("reading")) < 2000


async def test_a_mailbox_keeps_the_newest_per_subject_within_its_limit() -> None:
    mailbox = Mailbox(10)
    mailbox.put("a", "1")
    mailbox.put("b", "2")
    mailbox.put("a", "3")
    assert mailbox.skipped == 1
    assert [await mailbox.take(), await mailbox.take()] == ["3", "2"]
    mailbox.put("c", "x" * 6)
    mailbox.put("d", "y" * 6)
    assert (len(mailbox), mailbox.skipped, await mailbox.take()) == (1, 2, "y" * 6)


async def test_the_redis_acl_of_the_service_suffices(redis_server: Any, redis_url: str) -> None:
    url = redis_server.url_of(int(redis_url.rpartition("/")[2]), "diagnostics")
    hub, subscriber, redis = LiveHub(url), Subscriber(KINDS, 10_000), connect_redis(url)
    async with beside(hub.run()):
        hub.join(subscriber)
        hub.subscribe(subscriber, pumps={"P-1"}, fields=())
        await until(lambda: hub.live, "Redis is heard")
        await LivePublisher(redis).publish([reading()])
        await until(lambda: len(subscriber.mailbox) == 2, "that it is heard, and the reading")
    tickets = Tickets(redis)
    assert await tickets.redeem(await tickets.issue("the credential")) == "the credential"
    await redis.aclose()


async def test_a_removed_subscriber_leaves_no_state(redis_url: str) -> None:
    hub, subscriber = LiveHub(redis_url), Subscriber(KINDS, 1000)
    hub.join(subscriber)
    hub.subscribe(subscriber, pumps={"P-1"}, fields={"north"})
    hub.leave(subscriber)
    hub.deliver(orjson.dumps(reading()))
    assert len(subscriber.mailbox) == 1  # that Redis is not heard yet
    assert hub._by_pump == hub._by_field == {}


async def test_streams_and_rejections_are_audited(port: int, auth_service: Any, auditor: Any) -> None:
    async with logged_in(port, auth_service.token("viewer", sub="u-live")) as client:
        await client.subscribe(pumps=["P-1"])
    async with opened(port) as client:
        await client.say(token="nonsense")
        await client.until_closed()
    (opened_record,) = await auditor.until(1, action="live.opened")
    assert (opened_record["actor_id"], opened_record["outcome"]) == ("u-live", "success")
    (subscribed,) = await auditor.until(1, action="live.subscribed")
    assert subscribed["detail"] == {"pumps": ["P-1"], "fields": []}
    closed = {record["actor_id"]: record for record in await auditor.until(2, action="live.closed")}
    assert closed["u-live"]["outcome"] == "success"
    assert (closed[None]["outcome"], closed[None]["status"]) == ("denied", 401)
    assert "nonsense" not in str(auditor.records)


async def test_clients_are_informed_of_a_redis_outage_and_the_stream_resumes(
    diagnostics_settings: Any,
    diagnostics_api: Any,
    auth_service: Any,
    redis_server: Any,
    publisher: LivePublisher,
    running: Any,
) -> None:
    settings = diagnostics_settings.model_copy(update={"http_port": free_port()})
    async with (
        running(run_api, settings),
        logged_in(settings.http_port, auth_service.token("viewer")) as client,
    ):
        await client.subscribe(fields=["north"])
        redis_server.stop()
        try:
            await until(lambda: not client.of("stream")[-1]["live"], "the client is told")
            before = time.monotonic()
            await publisher.publish([reading()])  # dropped, without an error
            assert time.monotonic() - before < 3
            answer = await diagnostics_api.bare.post(
                "/api/v1/live/tickets",
                headers={"Authorization": f"Bearer {auth_service.token('viewer')}"},
            )
            assert answer.status_code == 503
        finally:
            redis_server.start()
        await until(lambda: client.of("stream")[-1]["live"], "the stream resumes")

        async def heard() -> bool:
            await publisher.publish([reading()])
            return bool(client.of("reading"))

        await until(heard, "readings again")


async def test_messages_reach_the_socket_complete_and_in_order(
    port: int, viewer: str, publisher: LivePublisher
) -> None:
    """Nothing of three seconds of 500 pumps at 1 Hz is dropped, repeated or overtaken."""
    values = {f"channel_{n}": 1.5 for n in range(20)}
    sent = [(f"P-{n}", f"2026-05-01T00:00:0{second}Z") for second in range(3) for n in range(500)]
    async with logged_in(port, viewer) as client:
        await client.subscribe(fields=["*"])
        for second in range(3):
            of_second = sent[500 * second : 500 * (second + 1)]
            await publisher.publish([reading(pump_id, time=at, values=values) for pump_id, at in of_second])
        # A repeated reading would come before this one, so it cannot be missed.
        await publisher.publish([reading("P-last")])
        await until(lambda: [m["pump_id"] for m in client.of("reading")[-1:]] == ["P-last"], "the last one")
        received = [(message["pump_id"], message["time"]) for message in client.of("reading")]
    assert received[:-1] == sent
