"""The notifier as it runs: real mail and webhooks, retries, dead letters, and the platform's own failures."""

import asyncio
import base64
import json
import os
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from datetime import UTC, datetime, timedelta
from email import message_from_bytes
from email.message import Message as Mail
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from secrets import token_hex
from typing import Any
from uuid import UUID, uuid4

import aio_pika
import asyncpg
import httpx
import orjson
import pytest
from aiosmtpd.controller import Controller
from esp_common import topology
from esp_common.contracts.events import Event, decode_event
from esp_common.messaging import Publisher
from esp_diagnostics.alerts.model import Signal
from esp_diagnostics.alerts.rules import shipped_alert_rules
from esp_diagnostics.alerts.transitions import report
from esp_diagnostics.app import run_api, run_notifier
from esp_diagnostics.settings import DiagnosticsSettings
from esp_stack.programs import free_port
from waiting import until

NOTIFICATIONS = "/api/v1/notifications"
PASSWORD, TOKEN = token_hex(12), token_hex(12)


class Post:
    """The mailbox of everybody: keeps what is sent by SMTP."""

    def __init__(self) -> None:
        self.mails: list[tuple[list[str], Mail]] = []

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:  # noqa: N802 - aiosmtpd's
        self.mails.append((envelope.rcpt_tos, message_from_bytes(envelope.content)))
        return "250 OK"

    def about(self, condition: str) -> list[Mail]:
        return [mail for _, mail in self.mails if condition in str(mail["Subject"])]


class Hooks:
    """A web server that takes what is posted to it; `failures` says which it refuses at first."""

    def __init__(self) -> None:
        self.posted: list[tuple[str, str | None, dict[str, Any]]] = []
        self.failures: dict[str, int] = {}
        """How many more posts to a path are answered with 500."""
        hooks = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = orjson.loads(self.rfile.read(int(self.headers["Content-Length"])))
                left = hooks.failures.get(self.path, 0)
                hooks.failures[self.path] = left - 1
                if left <= 0:
                    hooks.posted.append((self.path, self.headers.get("X-Token"), body))
                self.send_response(500 if left > 0 else 204)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                """Say nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def about(self, condition: str, path: str = "/hook") -> list[dict[str, Any]]:
        return [body for to, _, body in self.posted if condition in body["title"] and to == path]


@pytest.fixture(scope="module")
def hooks() -> Iterator[Hooks]:
    hooks = Hooks()
    yield hooks
    hooks.server.shutdown()
    hooks.server.server_close()


@pytest.fixture(scope="module")
def post() -> Post:
    return Post()


@pytest.fixture(scope="module")
def smtp(post: Post) -> Iterator[str]:
    controller = Controller(post, hostname="127.0.0.1", port=free_port())
    controller.start()
    yield f"127.0.0.1:{controller.port}"
    controller.stop()


@pytest.fixture(scope="module")
def settings(diagnostics_settings: DiagnosticsSettings) -> DiagnosticsSettings:
    return diagnostics_settings.model_copy(
        update={
            "master_key": base64.b64encode(os.urandom(32)).decode(),
            "notify_schemes": ("json", "mailto"),
            "notify_hosts": ("127.0.0.1",),
            "notify_attempts": 3,
            "notify_retry_s": 0.05,
            "alerts_tick_s": 0.1,
        }
    )


@pytest.fixture(scope="module")
async def notifier(settings: DiagnosticsSettings, running: Any) -> AsyncIterator[httpx.AsyncClient]:
    """The notifier, running; a client of its health."""
    async with running(run_notifier, settings.model_copy(update={"metrics_port": free_port()})) as client:
        yield client


@pytest.fixture(scope="module")
async def client(
    settings: DiagnosticsSettings, running: Any, notifier: httpx.AsyncClient, auth_service: Any
) -> AsyncIterator[httpx.AsyncClient]:
    """The API beside the notifier; a client with the rights of an engineer who may see alerts."""
    key = auth_service.key("notifications:read", "notifications:write", "alerts:read", "alerts:write")
    headers = {"X-API-Key": key}
    async with (
        running(run_api, settings) as bare,
        httpx.AsyncClient(base_url=bare.base_url, headers=headers, timeout=30) as client,
    ):
        yield client


@pytest.fixture(scope="module")
async def destinations(client: httpx.AsyncClient, hooks: Hooks, smtp: str) -> None:
    """Mail and a hook for the north, another hook that fails at first, and a hook for the platform."""
    urls = {
        "mail": f"mailto://{smtp}?from=esp@example.com&to=op@example.com&mode=insecure",
        "hook": f"json://{hooks.url}/hook?+X-Token={TOKEN}",
        "flaky": f"json://{hooks.url}/flaky",
    }
    for id_, url in urls.items():
        answer = await client.put(f"{NOTIFICATIONS}/destinations/{id_}", json={"name": id_, "url": url})
        assert answer.status_code == 200, answer.text
    routes: dict[str, dict[str, Any]] = {
        "north": {"field_ids": ["north"], "destination_ids": ["mail", "hook"]},
        "south": {"field_ids": ["south"], "destination_ids": ["hook", "flaky"]},
        "all": {"least_priority": "high", "destination_ids": ["hook"]},
    }
    for id_, route in routes.items():
        answer = await client.put(f"{NOTIFICATIONS}/routes/{id_}", json={"name": id_, **route})
        assert answer.status_code == 200, answer.text


Raise = Callable[..., Awaitable[UUID]]


@pytest.fixture
async def say(settings: DiagnosticsSettings) -> AsyncIterator[Raise]:
    """Report a signal as the worker does; gives the alert's id."""
    connection = await asyncpg.connect(settings.database_url)

    async def say(condition: str, active: bool = True, **other: Any) -> UUID:
        given = {"pump_id": "P-1", "field_id": "north", "severity": "medium", "source": "finding"}
        given |= {"title": condition, "time": datetime.now(UTC), "active": active, **other}
        async with connection.transaction():
            changes = await report(connection, [Signal(condition=condition, **given)], shipped_alert_rules())
        return changes[0].alert.alert_id

    yield say
    await connection.close()


async def log_of(client: httpx.AsyncClient, **wanted: Any) -> list[dict[str, Any]]:
    answer = await client.get(NOTIFICATIONS, params=wanted)
    assert answer.status_code == 200
    items: list[dict[str, Any]] = answer.json()["items"]
    return items


async def settled(client: httpx.AsyncClient, count: int, **wanted: Any) -> dict[str, tuple[str, int]]:
    """Wait for entries of the log and return outcome and attempts by destination."""

    async def found() -> list[dict[str, Any]] | None:
        rows = await log_of(client, **wanted)
        return rows if len(rows) >= count else None

    rows = await until(found, f"{count} notifications of {wanted}")
    return {row["destination_id"]: (row["outcome"], row["attempts"]) for row in rows}


async def test_an_alert_is_delivered_by_mail_and_webhook(
    client: httpx.AsyncClient, destinations: None, say: Raise, post: Post, hooks: Hooks
) -> None:
    alert_id = await say("gas_interference", action="Vent the casing.")
    done = await settled(client, 2, alert_id=alert_id)
    assert done == {"mail": ("sent", 1), "hook": ("sent", 1)}
    (mail,) = post.about("gas_interference")
    assert mail["Subject"] == "[MEDIUM] raised: gas_interference (P-1)"
    text = next(part for part in mail.walk() if part.get_content_type() == "text/plain")
    assert b"Vent the casing." in text.get_payload(decode=True)  # type: ignore[operator]
    (body,) = hooks.about("gas_interference")
    assert "What to do: Vent the casing." in body["message"]
    assert [token for path, token, _ in hooks.posted if path == "/hook"][-1] == TOKEN


async def test_a_redelivered_message_is_sent_once(
    client: httpx.AsyncClient, destinations: None, vhost: Any, hooks: Hooks
) -> None:
    data = {"notice": "raised", "priority": "medium", "title": "twice", "field_id": "north"}
    event = Event("alert.notice", "diagnostics", "x", {**data, "time": datetime.now(UTC)})
    after = Event(
        "alert.notice", "diagnostics", "x", {**data, "title": "afterwards", "time": datetime.now(UTC)}
    )
    async with Publisher(vhost.url_for("diagnostics")) as publisher:
        for each in (event, event):
            await _publish(publisher, each)
        await until(lambda: hooks.about("twice"), "sent once")
        await _publish(publisher, event)
        await _publish(publisher, after)
        await until(lambda: hooks.about("afterwards"), "sent afterwards")
    await settled(client, 4, field_id="north", **{"from": event.time.isoformat()})
    assert len(hooks.about("twice")) == 1


async def _publish(publisher: Publisher, event: Event) -> None:
    await publisher.publish(topology.ALERTS, "alert.raised.medium", event.body(), headers=event.headers())


async def test_a_toggling_alert_notifies_once(
    client: httpx.AsyncClient, destinations: None, say: Raise, hooks: Hooks
) -> None:
    start = datetime.now(UTC)
    alert_id = await say("chatter", time=start)
    await settled(client, 2, alert_id=alert_id)
    await say("chatter", active=False, time=start + timedelta(seconds=1))
    await say("chatter", time=start + timedelta(seconds=2))
    done = await settled(client, 4, alert_id=alert_id)
    assert done.keys() == {"mail", "hook"}
    assert len(await log_of(client, alert_id=alert_id, outcome="repeated")) == 2
    assert len(hooks.about("chatter")) == 1


async def test_a_failing_destination_is_retried_without_delaying_others(
    client: httpx.AsyncClient, destinations: None, say: Raise, hooks: Hooks
) -> None:
    hooks.failures["/flaky"] = 2
    alert_id = await say("tried_again", pump_id="P-5", field_id="south")
    done = await settled(client, 2, alert_id=alert_id)
    assert done == {"hook": ("sent", 1), "flaky": ("sent", 3)}


Command = Callable[..., Awaitable[tuple[int, str]]]


@pytest.fixture
def command(settings: DiagnosticsSettings) -> Command:
    """`await command("list")`: exit code and output of `esp-diagnostics dead-letters list`."""
    environment = {
        **os.environ,
        "ESP_DIAGNOSTICS_DATABASE_URL": settings.database_url,
        "ESP_DIAGNOSTICS_AMQP_URL": settings.amqp_url,
    }

    async def run(*arguments: str) -> tuple[int, str]:
        process = await asyncio.create_subprocess_exec(
            Path(sys.executable).with_name("esp-diagnostics"),
            "dead-letters",
            *arguments,
            env=environment,
            stdout=asyncio.subprocess.PIPE,
        )
        out, _ = await process.communicate()
        return process.returncode or 0, out.decode()

    return run


async def test_an_undeliverable_message_is_dead_lettered_and_replayed_where_missing(
    client: httpx.AsyncClient,
    destinations: None,
    say: Raise,
    hooks: Hooks,
    vhost: Any,
    command: Command,
) -> None:
    hooks.failures["/flaky"] = 1000
    alert_id = await say("dead_letter", pump_id="P-5", field_id="south")
    assert await settled(client, 2, alert_id=alert_id) == {"hook": ("sent", 1), "flaky": ("failed", 3)}
    (failed,) = await log_of(client, alert_id=alert_id, outcome="failed")
    assert "500" in failed["reason"]
    hooks.failures["/flaky"] = 0

    async def listed() -> list[list[str]]:
        return [line.split("\t") for line in (await command("list"))[1].splitlines()[1:]]

    (letter,) = await until(listed, "the dead letter")
    id_, died_at, event_id, alert, priority, title, refusal = letter
    assert (event_id, alert, priority) == (failed["event_id"], str(alert_id), "medium")
    assert title == "dead_letter"
    assert datetime.fromisoformat(died_at) <= datetime.now(UTC)
    assert refusal == "-"
    shown = json.loads((await command("show", id_))[1])
    assert json.loads(shown["body"])["title"] == "dead_letter"
    assert (await command("replay", "unknown"))[0] == 4
    async with await aio_pika.connect(vhost.url) as connection:
        audited = await (await connection.channel()).declare_queue(exclusive=True)
        await audited.bind(topology.AUDIT, "diagnostics.dead-letter.replayed")
        assert await command("replay", id_) == (0, "1 replayed\n")
        record = await until(lambda: audited.get(no_ack=True, fail=False), "it is audited")
    assert decode_event(record.headers, record.body).subject == id_
    assert await listed() == []

    async def sent() -> bool:
        return bool(await log_of(client, alert_id=alert_id, outcome="sent", destination_id="flaky"))

    await until(sent, "sent after the replay")
    assert len(hooks.about("dead_letter")) == 1
    assert len(hooks.about("dead_letter", "/flaky")) == 1


async def test_forged_and_invalid_dead_letters_are_not_replayed(
    client: httpx.AsyncClient, destinations: None, vhost: Any, hooks: Hooks, command: Command
) -> None:
    data = {"notice": "raised", "priority": "high", "title": "forged", "time": datetime.now(UTC)}
    forged = Event("alert.notice", "diagnostics", "x", data)
    queue = topology.dead_queue(topology.DIAGNOSTICS_NOTIFICATIONS)
    async with await aio_pika.connect(vhost.url) as connection:
        channel = await connection.channel()
        for body in (forged.body(), b"[]"):
            await channel.default_exchange.publish(aio_pika.Message(body, headers=forged.headers()), queue)
    code, listed = await command("list")
    refusals = [line.split("\t")[-1] for line in listed.splitlines()[1:]]
    assert code == 0
    assert refusals[0] == "an unknown sender may not publish alert.notice"
    assert refusals[1].startswith("not a notification message")
    forged_id = listed.splitlines()[1].split("\t")[0]
    assert (await command("replay", forged_id))[0] == 2
    assert await command("replay", "--all") == (0, "0 replayed\n")
    assert await command("discard", "--all") == (0, "2 discarded\n")
    assert (await command("discard"))[0] == 2
    assert hooks.about("forged") == []


async def test_unrouted_messages_are_logged(
    client: httpx.AsyncClient, destinations: None, say: Raise
) -> None:
    alert_id = await say("nobodys", field_id="east", severity="low")
    assert await settled(client, 1, alert_id=alert_id) == {"": ("unrouted", 0)}


async def test_a_destination_can_be_tested(
    client: httpx.AsyncClient, destinations: None, hooks: Hooks
) -> None:
    answer = await client.post(f"{NOTIFICATIONS}/destinations/hook/test")
    assert answer.status_code == 202
    await until(lambda: hooks.about("Test of this destination"), "the test message")
    assert (await client.post(f"{NOTIFICATIONS}/destinations/nowhere/test")).status_code == 404


@pytest.mark.parametrize("body", [b"{", b"[]", b'{"notice": "raised"}'], ids=["broken", "list", "half"])
async def test_an_invalid_message_is_dead_lettered_and_others_are_sent(
    body: bytes, client: httpx.AsyncClient, destinations: None, say: Raise, vhost: Any, hooks: Hooks
) -> None:
    headers = Event("alert.notice", "diagnostics", "x", None).headers()
    condition = f"neighbour_{uuid4().hex}"
    async with Publisher(vhost.url_for("diagnostics")) as publisher:
        await publisher.publish(topology.ALERTS, "alert.raised.low", body, headers=headers)
    await say(condition)
    await until(lambda: hooks.about(condition), "the neighbour")
    async with await aio_pika.connect(vhost.url_for("diagnostics")) as connection:
        channel = await connection.channel()
        queue = await channel.get_queue(topology.dead_queue(topology.DIAGNOSTICS_NOTIFICATIONS))
        dead = await until(lambda: queue.get(fail=False), "the dead letter")
        assert dead is not None
        assert dead.body == body
        await dead.ack()


async def test_messages_wait_during_a_database_outage(
    client: httpx.AsyncClient,
    notifier: httpx.AsyncClient,
    destinations: None,
    fleet: Any,
    vhost: Any,
    hooks: Hooks,
) -> None:
    title = f"while_away {token_hex(4)}"  # the hooks remember what an earlier run of this test sent
    data = {"notice": "raised", "priority": "medium", "title": title, "field_id": "north"}
    event = Event("alert.notice", "diagnostics", "x", {**data, "time": datetime.now(UTC)})
    name = fleet.database.name
    connection = await asyncpg.connect(fleet.database.server.url("postgres", "postgres"))

    async def health() -> int:
        return (await notifier.get("/health/ready")).status_code

    async def away() -> bool:
        return await health() == 503

    async def back() -> bool:
        return await health() == 200

    try:
        await connection.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')
        await connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", name
        )
        async with Publisher(vhost.url_for("diagnostics")) as publisher:
            await _publish(publisher, event)
        await until(away, "not ready without the database")
        assert hooks.about(title) == []
    finally:
        await connection.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true')
        await connection.close()
    await until(lambda: hooks.about(title), "sent when the database was back")
    await until(back, "ready again")
    async with await aio_pika.connect(vhost.url_for("diagnostics")) as broker:
        queue = await (await broker.channel()).get_queue(
            topology.dead_queue(topology.DIAGNOSTICS_NOTIFICATIONS)
        )
        assert await queue.get(fail=False) is None


async def test_a_failed_backup_alerts_until_the_same_kind_succeeds(
    client: httpx.AsyncClient, destinations: None, vhost: Any, hooks: Hooks
) -> None:
    def event(type_: str, kind: str) -> Event:
        return Event(type_, "backup", kind, {"kind": kind, "reason": "no room left"})

    async def alerts() -> dict[str, str]:
        params = {"condition": "backup_failed", "source": "platform"}
        items = (await client.get("/api/v1/alerts", params=params)).json()["items"]
        return {alert["subject"]: alert["state"] for alert in items}

    async with Publisher(vhost.url_for("backup")) as publisher:
        for type_, kind in (
            ("backup.failed", "full"),
            ("backup.failed", "dump"),
            ("backup.completed", "dump"),
        ):
            each = event(type_, kind)
            await publisher.publish(topology.EVENTS, type_, each.body(), headers=each.headers())
    expected = {"full": "active_unacknowledged", "dump": "cleared_unacknowledged"}

    async def as_expected() -> bool:
        return await alerts() == expected

    await until(as_expected, "both alerts")
    await until(lambda: hooks.about("A backup failed (full): no room left (platform)"), "told")


async def test_forged_backup_events_are_rejected(
    client: httpx.AsyncClient, destinations: None, vhost: Any
) -> None:
    forged = Event("backup.drill-failed", "backup", "x", {})
    true = Event("backup.drill-failed", "backup", "x", {"reason": "true"})
    async with await aio_pika.connect(vhost.url) as connection:
        # As a service might by a queue of its own that forwards to this one.
        channel = await connection.channel()
        body = aio_pika.Message(forged.body(), headers=forged.headers())
        await channel.default_exchange.publish(body, topology.DIAGNOSTICS_PLATFORM)
        queue = await channel.get_queue(topology.dead_queue(topology.DIAGNOSTICS_PLATFORM))
        dead = await until(lambda: queue.get(fail=False), "the dead letter")
        assert dead is not None
        await dead.ack()
    params = {"condition": "backup_drill_failed"}
    assert (await client.get("/api/v1/alerts", params=params)).json()["items"] == []
    async with Publisher(vhost.url_for("backup")) as publisher:
        await publisher.publish(topology.EVENTS, true.type, true.body(), headers=true.headers())

    async def there() -> bool:
        return bool((await client.get("/api/v1/alerts", params=params)).json()["items"])

    await until(there, "the true one")


async def test_the_notifier_ends_shelving_at_its_time(
    client: httpx.AsyncClient, destinations: None, say: Raise, hooks: Hooks
) -> None:
    alert_id = await say("shelved_a_moment", severity="high")
    await settled(client, 1, alert_id=alert_id)
    shelving = {"minutes": 0.005, "reason": "a moment"}
    assert (await client.post(f"/api/v1/alerts/{alert_id}/shelve", json=shelving)).json()[
        "state"
    ] == "shelved"

    async def back() -> bool:
        return bool(
            (await client.get(f"/api/v1/alerts/{alert_id}")).json()["state"] == "active_unacknowledged"
        )

    await until(back, "unshelved")


async def test_secrets_of_destinations_are_sealed_and_never_returned(
    client: httpx.AsyncClient, destinations: None, fleet: Any, smtp: str
) -> None:
    url = f"mailto://relay:{PASSWORD}@{smtp}?from=esp@example.com&to=op@example.com"
    answer = await client.put(f"{NOTIFICATIONS}/destinations/secret", json={"name": "Secret", "url": url})
    assert answer.json()["shown_url"] == f"mailto://{smtp}/…"
    renamed = await client.put(f"{NOTIFICATIONS}/destinations/secret", json={"name": "Renamed"})
    assert (renamed.status_code, renamed.json()["name"]) == (200, "Renamed")
    texts = [
        answer.text,
        (await client.get(f"{NOTIFICATIONS}/destinations")).text,
        (await client.get(f"{NOTIFICATIONS}/destinations/secret")).text,
        (await client.get(NOTIFICATIONS)).text,
    ]
    for table in ("notification_destinations", "outbox"):
        rows = await fleet.rows(f"SELECT t::text FROM diagnostics.{table} AS t")
        texts += [row[0] for row in rows]
    bodies = [bytes(row["body"]) for row in await fleet.rows("SELECT body FROM diagnostics.outbox")]
    for secret in (PASSWORD, TOKEN):
        assert not [text for text in texts if secret in text]
        assert not [body for body in bodies if secret.encode() in body]
        (sealed,) = await fleet.rows(
            "SELECT count(*) FROM diagnostics.notification_destinations WHERE position($1 IN sealed_url) > 0",
            secret.encode(),
        )
        assert sealed[0] == 0
    assert (await client.delete(f"{NOTIFICATIONS}/destinations/secret")).status_code == 204
    assert (await client.get(f"{NOTIFICATIONS}/destinations/secret")).status_code == 404


@pytest.mark.parametrize(
    "body",
    [
        {"name": "x", "url": "file:///etc/passwd"},
        {"name": "x", "url": "json://10.0.0.1/hook?+X-Token=secret-word"},
        {"name": "x"},
        {"name": "", "url": "json://127.0.0.1/"},
        {"name": "x", "url": "json://127.0.0.1/", "password": "secret-word"},
    ],
    ids=["scheme", "host", "no-url", "no-name", "unknown"],
)
async def test_an_invalid_destination_is_rejected_without_quoting_it(
    body: dict[str, Any], client: httpx.AsyncClient
) -> None:
    answer = await client.put(f"{NOTIFICATIONS}/destinations/new", json=body)
    assert answer.status_code == 422
    assert "secret-word" not in answer.text


async def test_a_route_is_stored_as_given(client: httpx.AsyncClient, destinations: None) -> None:
    shift = {"time_zone": "Europe/Oslo", "days": ["mon", "sun"], "begins": "22:00", "ends": "06:30"}
    route = {
        "name": "Nights",
        "field_ids": ["north"],
        "least_priority": "high",
        "notices": ["raised", "cleared"],
        "shift": shift,
        "destination_ids": ["hook"],
        "enabled": False,
    }
    written = await client.put(f"{NOTIFICATIONS}/routes/nights", json=route)
    assert written.status_code == 200
    shown = (await client.get(f"{NOTIFICATIONS}/routes/nights")).json()
    assert {name: shown[name] for name in route} == route
    assert "nights" in [row["route_id"] for row in (await client.get(f"{NOTIFICATIONS}/routes")).json()]
    assert (await client.delete(f"{NOTIFICATIONS}/destinations/hook")).status_code == 409
    assert (await client.delete(f"{NOTIFICATIONS}/routes/nights")).status_code == 204
    assert (await client.delete(f"{NOTIFICATIONS}/routes/nights")).status_code == 404


@pytest.mark.parametrize(
    "change",
    [
        {"destination_ids": ["nowhere"]},
        {"destination_ids": []},
        {"least_priority": "urgent"},
        {"notices": ["sung"]},
        {"shift": {"time_zone": "Mars/Base", "begins": "06:00", "ends": "18:00"}},
        {"shift": {"time_zone": "../etc/passwd", "begins": "06:00", "ends": "18:00"}},
        {"shift": {"time_zone": "UTC", "begins": "06:00+02:00", "ends": "18:00"}},
        {"shift": {"time_zone": "UTC", "begins": "25:00", "ends": "18:00"}},
    ],
    ids=["unknown", "none", "priority", "notice", "zone", "path", "offset", "clock"],
)
async def test_an_invalid_route_is_rejected(
    change: dict[str, Any], client: httpx.AsyncClient, destinations: None
) -> None:
    route = {"name": "x", "destination_ids": ["hook"], **change}
    assert (await client.put(f"{NOTIFICATIONS}/routes/new", json=route)).status_code == 422


async def test_destinations_require_their_permissions(
    client: httpx.AsyncClient, destinations: None, auth_service: Any
) -> None:
    path = f"{NOTIFICATIONS}/destinations"
    for role, status in (("viewer", 403), ("operator", 403), ("engineer", 200), ("admin", 200)):
        headers = {"Authorization": f"Bearer {auth_service.token(role)}", "X-API-Key": ""}
        assert (await client.get(path, headers=headers)).status_code == status
    reader = {"X-API-Key": auth_service.key("notifications:read")}
    body = {"name": "x", "url": "json://127.0.0.1/"}
    assert (await client.put(f"{path}/x", json=body, headers=reader)).status_code == 403
