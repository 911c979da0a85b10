"""Alerts in the database and the API: reports, operator actions, lists, statistics and rules."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import orjson
import pytest
from esp_common.auth import scopes_of
from esp_common.redis import connect_redis
from esp_diagnostics.alerts.model import AlertState, Signal, TransitionKind
from esp_diagnostics.alerts.rule_sets import load_rules
from esp_diagnostics.alerts.rules import AlertRules, shipped_alert_rules, shipped_text
from esp_diagnostics.alerts.transaction import AlertChange
from esp_diagnostics.alerts.transitions import pass_time, report
from esp_diagnostics.live.broadcast import channel_of
from waiting import until

ALERTS = "/api/v1/alerts"
NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)
RULES = shipped_alert_rules()

Reporter = Callable[..., Awaitable[list[AlertChange]]]


def signal(condition: str, active: bool = True, seconds: float = 0, **other: Any) -> Signal:
    given = {"pump_id": "P-1", "field_id": "north", "severity": "medium", "source": "finding"}
    given |= {"title": condition, "time": NOON + timedelta(seconds=seconds), **other}
    return Signal(condition=condition, active=active, **given)


@pytest.fixture(scope="module")
async def connection(diagnostics_api: Any) -> AsyncIterator[asyncpg.Connection]:
    """The worker's connection, with its rights."""
    connection = await asyncpg.connect(diagnostics_api.settings.database_url)
    yield connection
    await connection.close()


@pytest.fixture
def report_signals(connection: asyncpg.Connection) -> Reporter:
    """Report signals in a transaction, as the worker does."""

    async def report_signals(*signals: Signal, rules: AlertRules = RULES, now: datetime | None = None) -> Any:
        async with connection.transaction():
            return await report(connection, signals, rules, now=now)

    return report_signals


@pytest.fixture
def pass_to(connection: asyncpg.Connection) -> Callable[[datetime], Awaitable[list[AlertChange]]]:
    """Do what is due by a time."""

    async def to(now: datetime) -> list[AlertChange]:
        async with connection.transaction():
            return await pass_time(connection, RULES, now)

    return to


@pytest.fixture
async def raised(report_signals: Reporter) -> UUID:
    """An alert of a condition of its own."""
    (change,) = await report_signals(signal(f"test_{uuid4().hex}"))
    return change.alert.alert_id


async def show(api: Any, alert_id: UUID) -> dict[str, Any]:
    answer = await api.client.get(f"{ALERTS}/{alert_id}")
    assert answer.status_code == 200
    shown: dict[str, Any] = answer.json()
    return shown


async def act(api: Any, alert_id: UUID, name: str, body: Any = None, status: int = 200) -> dict[str, Any]:
    answer = await api.client.post(f"{ALERTS}/{alert_id}/{name}", json=body)
    assert answer.status_code == status, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def test_a_signal_becomes_an_alert_with_its_log_event_and_message(
    diagnostics_api: Any, report_signals: Reporter
) -> None:
    finding_id = uuid4()
    said = signal("announced", severity="high", action="Look.", finding_id=finding_id)
    (change,) = await report_signals(said)
    alert = await show(diagnostics_api, change.alert.alert_id)
    expected = {
        "pump_id": "P-1",
        "field_id": "north",
        "condition": "announced",
        "priority": "high",
        "state": "active_unacknowledged",
        "occurrences": 1,
        "raised_at": "2026-06-01T12:00:00Z",
        "action": "Look.",
        "finding_id": str(finding_id),
    }
    assert expected.items() <= alert.items()
    assert [(entry["what"], entry["notice"]) for entry in alert["log"]] == [("raised", "raised")]
    mine = [e for e in await diagnostics_api.fleet.events("alert.raised") if e["condition"] == "announced"]
    assert [(event["change"], event["priority"]) for event in mine] == [("raised", "high")]
    rows = await diagnostics_api.rows(
        "SELECT routing_key, body FROM diagnostics.outbox WHERE exchange = 'esp.alerts'"
    )
    announced = [row["routing_key"] for row in rows if orjson.loads(row["body"])["condition"] == "announced"]
    assert announced == ["alert.raised.high"]


async def test_the_same_signals_again_change_nothing(diagnostics_api: Any, report_signals: Reporter) -> None:
    story = [signal("again"), signal("again", False, 60), signal("again", seconds=120)]
    assert [change.what for change in await report_signals(*story)] == [
        TransitionKind.RAISED,
        TransitionKind.CLEARED,
        TransitionKind.RAISED,
    ]
    before = await diagnostics_api.rows("SELECT count(*) FROM diagnostics.outbox")
    assert await report_signals(*story) == []
    assert await report_signals(story[0]) == []
    assert await diagnostics_api.rows("SELECT count(*) FROM diagnostics.outbox") == before


async def test_two_reporters_at_once_raise_one_alert(diagnostics_api: Any) -> None:
    async def one() -> list[AlertChange]:
        connection = await asyncpg.connect(diagnostics_api.settings.database_url)
        try:
            async with connection.transaction():
                return await report(connection, [signal("race"), signal("race", pump_id="P-2")], RULES)
        finally:
            await connection.close()

    found = await asyncio.gather(*(one() for _ in range(8)))
    assert sorted(map(len, found)) == [0] * 7 + [2]


async def test_an_alert_is_rolled_back_with_the_transaction_that_raised_it(
    diagnostics_api: Any, connection: asyncpg.Connection
) -> None:
    transaction = connection.transaction()
    await transaction.start()
    (change,) = await report(connection, [signal("undone")], RULES)
    await transaction.rollback()
    assert (await diagnostics_api.client.get(f"{ALERTS}/{change.alert.alert_id}")).status_code == 404


async def test_a_finding_without_handling_raises_no_alert_and_clears_an_open_one(
    report_signals: Reporter,
) -> None:
    assert await report_signals(signal("insufficient_data", severity="critical")) == []
    assert await report_signals(signal("fading", severity="info")) == []
    await report_signals(signal("fading"))
    assert [c.what for c in await report_signals(signal("fading", seconds=60, severity="info"))] == [
        TransitionKind.CLEARED
    ]


async def test_delays_end_by_the_clock_between_signals(
    diagnostics_api: Any, report_signals: Reporter, pass_to: Any
) -> None:
    # anomaly: off_delay_s 600
    (change,) = await report_signals(signal("anomaly"), now=NOON)
    gone = signal("anomaly", False, 100)
    assert await report_signals(gone, now=gone.time) == []
    assert await pass_to(NOON + timedelta(seconds=699)) == []
    (cleared,) = await pass_to(NOON + timedelta(seconds=700))
    assert (cleared.what, cleared.time) == (TransitionKind.CLEARED, gone.time)
    shown = await show(diagnostics_api, change.alert.alert_id)
    assert shown["cleared_at"] == "2026-06-01T12:01:40Z"


async def test_a_condition_that_clears_within_its_delay_leaves_no_trace(
    diagnostics_api: Any, report_signals: Reporter
) -> None:
    patient = RULES.model_copy(update={"default": RULES.default.model_copy(update={"on_delay_s": 300.0})})
    assert await report_signals(signal("brief"), rules=patient, now=NOON) == []
    query = "SELECT state FROM diagnostics.alerts WHERE condition = 'brief'"
    assert [row["state"] for row in await diagnostics_api.rows(query)] == ["pending"]
    assert (await diagnostics_api.client.get(ALERTS, params={"condition": "brief"})).json()["items"] == []
    assert await report_signals(signal("brief", False, 60), rules=patient, now=NOON) == []
    assert await diagnostics_api.rows(query) == []


async def test_alerts_of_a_pump_out_of_service_are_suppressed_until_it_is_back(
    diagnostics_api: Any, report_signals: Reporter, pass_to: Any
) -> None:
    set_service = "UPDATE diagnostics.pumps SET in_service = $1 WHERE pump_id = 'P-3'"
    now = datetime.now(UTC)
    (first,) = await report_signals(signal("idle", pump_id="P-3"))
    await diagnostics_api.rows(set_service, False)
    (hidden,) = await pass_to(now)
    assert (hidden.what, hidden.alert.state) == (TransitionKind.SUPPRESSED, AlertState.SUPPRESSED)
    (_, second) = await report_signals(signal("idle too", pump_id="P-3"))
    assert second.alert.state is AlertState.SUPPRESSED
    await diagnostics_api.rows(set_service, True)
    shown = await pass_to(now)
    assert {change.alert.alert_id for change in shown} == {first.alert.alert_id, second.alert.alert_id}
    assert {change.alert.state for change in shown} == {AlertState.ACTIVE_UNACKNOWLEDGED}


async def test_a_flood_is_announced_once_and_holds_back_low_priority_notices(
    diagnostics_api: Any, report_signals: Reporter, pass_to: Any
) -> None:
    now = datetime.now(UTC) + timedelta(days=1)
    for number in range(12):
        await report_signals(signal(f"flood_{number}", pump_id="P-5", field_id="south"), now=now)
    await report_signals(signal("flood_high", pump_id="P-5", field_id="south", severity="high"), now=now)
    rows = await diagnostics_api.rows(
        "SELECT routing_key, body FROM diagnostics.outbox WHERE exchange = 'esp.alerts' ORDER BY id"
    )
    sent = [row["routing_key"] for row in rows if orjson.loads(row["body"])["field_id"] == "south"]
    assert sent == ["alert.raised.medium"] * 10 + ["alert.flood.high", "alert.raised.high"]
    assert len(await diagnostics_api.fleet.events("alert.flood-began")) == 1
    await pass_to(now + timedelta(minutes=9))
    assert await diagnostics_api.fleet.events("alert.flood-ended") == []
    await pass_to(now + timedelta(minutes=11))
    assert [event["field_id"] for event in await diagnostics_api.fleet.events("alert.flood-ended")] == [
        "south"
    ]
    floods = await diagnostics_api.rows("SELECT most_in_window FROM diagnostics.alert_floods")
    assert [row["most_in_window"] for row in floods] == [13]
    params = {"field_id": "south", "from": now.isoformat(), "to": (now + timedelta(minutes=22)).isoformat()}
    found = (await diagnostics_api.client.get(f"{ALERTS}/statistics", params=params)).json()
    assert (found["floods"], found["flood_share"], found["ten_minutes_above_flood"]) == (1, 0.5, 1)


async def test_an_acknowledgement_records_actor_and_time_and_is_audited(
    diagnostics_api: Any, raised: UUID
) -> None:
    headers = diagnostics_api.key("alerts:read", "alerts:write")
    who = list(diagnostics_api.auth.keys.values())[-1].id
    path = f"{ALERTS}/{raised}/acknowledge"
    answer = await diagnostics_api.bare.post(path, json={"comment": "On my way."}, headers=headers)
    assert answer.status_code == 200
    shown = await show(diagnostics_api, raised)
    assert (shown["state"], shown["acknowledged_by"]) == ("active_acknowledged", who)
    assert datetime.now(UTC) - datetime.fromisoformat(shown["acknowledged_at"]) < timedelta(minutes=1)
    assert [(e["what"], e["actor"]) for e in shown["log"][:2]] == [("commented", who), ("acknowledged", who)]
    assert shown["log"][0]["detail"] == {"text": "On my way."}
    rows = await diagnostics_api.rows("SELECT body FROM diagnostics.outbox WHERE exchange = 'esp.audit'")
    records = [orjson.loads(row["body"]) for row in rows]
    assert [(r["actor_id"], r["action"], r["object"]) for r in records if r["object"] == str(raised)] == [
        (who, "alert.acknowledged", str(raised))
    ]
    again = await act(diagnostics_api, raised, "acknowledge")
    assert again["acknowledged_by"] == who


async def test_a_shelved_alert_leaves_the_list_and_comes_back(
    diagnostics_api: Any, raised: UUID, pass_to: Any
) -> None:
    shelved = await act(diagnostics_api, raised, "shelve", {"minutes": 30, "reason": "gauge is changed"})
    assert shelved["state"] == "shelved"
    assert shelved["shelve_reason"] == "gauge is changed"
    listed = await diagnostics_api.client.get(ALERTS, params={"state": "shelved"})
    assert str(raised) in [alert["alert_id"] for alert in listed.json()["items"]]
    await pass_to(datetime.now(UTC) + timedelta(minutes=31))
    assert (await show(diagnostics_api, raised))["state"] == "active_unacknowledged"
    await act(diagnostics_api, raised, "unshelve", status=409)


@pytest.mark.parametrize(
    "body",
    [
        {"minutes": 60 * 25, "reason": "too long"},
        {"until": "2020-01-01T00:00:00Z", "reason": "past"},
        {"reason": "no time"},
        {"minutes": 5},
        {"minutes": 5, "reason": ""},
        {"minutes": 5, "reason": "nul \u0000"},
        {"minutes": 5, "until": "2090-01-01T00:00:00Z", "reason": "both"},
        {"minutes": 5, "reason": "x", "hours": 1},
    ],
    ids=["too-long", "past", "no-time", "no-reason", "empty", "nul", "both", "unknown"],
)
async def test_an_invalid_shelving_is_rejected(
    body: dict[str, Any], diagnostics_api: Any, raised: UUID
) -> None:
    problem = await act(diagnostics_api, raised, "shelve", body, 422)
    assert problem["code"] == "invalid-input"


async def test_an_alert_goes_through_maintenance_until_it_is_closed(
    diagnostics_api: Any, report_signals: Reporter
) -> None:
    (change,) = await report_signals(signal("whole_life"))
    alert_id = change.alert.alert_id
    await act(diagnostics_api, alert_id, "assign", {"assignee": "ann"})
    await act(diagnostics_api, alert_id, "close", status=409)
    idle = await act(diagnostics_api, alert_id, "out-of-service", {"reason": "workover"})
    assert (idle["state"], idle["assignee"]) == ("out_of_service", "ann")
    await report_signals(signal("whole_life", False, 60))
    await act(diagnostics_api, alert_id, "return-to-service")
    await act(diagnostics_api, alert_id, "comments", {"text": "Seal was changed."})
    closed = await act(diagnostics_api, alert_id, "close")
    assert closed["state"] == "closed"
    await act(diagnostics_api, alert_id, "acknowledge", status=409)
    log = (await diagnostics_api.client.get(f"{ALERTS}/{alert_id}/log", params={"limit": 3})).json()
    assert [entry["what"] for entry in log["items"]] == ["closed", "acknowledged", "commented"]
    params = {"limit": 10, "cursor": log["next_cursor"]}
    rest = (await diagnostics_api.client.get(f"{ALERTS}/{alert_id}/log", params=params)).json()
    announced = ["in-service", "cleared", "out-of-service", "assigned", "raised"]
    assert [entry["what"] for entry in rest["items"]] == announced
    assert rest["next_cursor"] is None


async def test_actions_need_their_permission_and_an_alert(diagnostics_api: Any, raised: UUID) -> None:
    path = f"{ALERTS}/{raised}/acknowledge"
    assert (await diagnostics_api.bare.post(path)).status_code == 401
    viewer = diagnostics_api.token("viewer")
    assert "alerts:write" not in scopes_of(["viewer"])
    assert (await diagnostics_api.bare.post(path, headers=viewer)).status_code == 403
    assert (await diagnostics_api.bare.get(ALERTS, headers=viewer)).status_code == 200
    assert (
        await diagnostics_api.bare.get(ALERTS, headers=diagnostics_api.token("auditor"))
    ).status_code == 403
    assert (await diagnostics_api.client.post(f"{ALERTS}/{uuid4()}/acknowledge")).status_code == 404


async def test_an_action_is_announced_on_the_live_stream(diagnostics_api: Any, raised: UUID) -> None:
    redis = connect_redis(diagnostics_api.settings.redis_url)
    listening = redis.pubsub()
    await listening.subscribe(channel_of("north"))
    await until(lambda: listening.get_message(timeout=1), "subscribed")
    await act(diagnostics_api, raised, "acknowledge")
    heard = await until(lambda: listening.get_message(ignore_subscribe_messages=True, timeout=1), "heard")
    message = orjson.loads(heard["data"])
    assert (message["kind"], message["alert_id"], message["change"]) == ("alert", str(raised), "acknowledged")
    await listening.aclose()  # type: ignore[no-untyped-call]
    await redis.aclose()


@pytest.fixture(scope="module")
async def history(diagnostics_api: Any, connection: asyncpg.Connection) -> dict[str, UUID]:
    """Alerts of a field of their own: one active, one cleared, one closed, raised an hour apart in 2020."""
    start = datetime(2020, 1, 1, tzinfo=UTC)
    found = {}
    for hour, name in enumerate(("active", "cleared", "closed")):
        at = start + timedelta(hours=hour)
        said = [signal(f"history_{name}", field_id="old", pump_id=f"H-{hour}", time=at)]
        if name != "active":
            over = signal(
                f"history_{name}", False, field_id="old", pump_id=f"H-{hour}", time=at + timedelta(minutes=30)
            )
            said.append(over)
        async with connection.transaction():
            changes = await report(connection, said, RULES, now=at)
        found[name] = changes[0].alert.alert_id
    await act(diagnostics_api, found["closed"], "close")
    return found


@pytest.mark.parametrize(
    ("wanted", "names"),
    [
        ({}, ["cleared", "active"]),
        ({"state": ["closed", "active_unacknowledged"]}, ["closed", "active"]),
        ({"active": True}, ["active"]),
        ({"acknowledged": True, "state": "closed"}, ["closed"]),
        ({"raised_from": "2020-01-01T01:00:00Z"}, ["closed", "cleared"]),
        ({"raised_to": "2020-01-01T01:00:00Z"}, ["active"]),
        (
            {"cleared_from": "2020-01-01T01:00:00Z", "cleared_to": "2020-01-01T02:00:00Z"},
            ["cleared"],
        ),
        ({"acknowledged_from": "2025-01-01T00:00:00Z"}, ["closed"]),
        ({"closed_to": "2025-01-01T00:00:00Z"}, []),
        ({"pump_id": "H-1"}, ["cleared"]),
        ({"priority": ["low", "high"]}, []),
        ({"condition": "history_active"}, ["active"]),
        ({"source": "limit"}, []),
    ],
    ids=lambda given: "-".join(given) or "any" if isinstance(given, dict) else None,
)
async def test_alerts_are_filtered_by_dates_and_attributes(
    wanted: dict[str, Any], names: list[str], diagnostics_api: Any, history: dict[str, UUID]
) -> None:
    answer = await diagnostics_api.client.get(ALERTS, params={"field_id": "old", **wanted})
    assert answer.status_code == 200
    assert [alert["alert_id"] for alert in answer.json()["items"]] == [str(history[name]) for name in names]


async def test_the_list_is_paged(diagnostics_api: Any, history: dict[str, UUID]) -> None:
    params: dict[str, Any] = {"field_id": "old", "raised_from": "2020-01-01T00:00:00Z", "limit": 2}
    first = (await diagnostics_api.client.get(ALERTS, params=params)).json()
    params["cursor"] = first["next_cursor"]
    second = (await diagnostics_api.client.get(ALERTS, params=params)).json()
    found = [alert["alert_id"] for alert in first["items"] + second["items"]]
    assert found == [str(history[name]) for name in ("closed", "cleared", "active")]
    assert second["next_cursor"] is None


@pytest.mark.parametrize(
    "params",
    [{"cursor": "x"}, {"state": "angry"}, {"raised_from": "noon"}, {"limit": 0}, {"colour": "red"}],
    ids=lambda params: next(iter(params)),
)
async def test_invalid_list_parameters_are_rejected(params: dict[str, Any], diagnostics_api: Any) -> None:
    assert (await diagnostics_api.client.get(ALERTS, params=params)).status_code == 422


async def test_statistics_report_the_alert_load_of_operators(
    diagnostics_api: Any, connection: asyncpg.Connection
) -> None:
    start = datetime(2021, 1, 1, tzinfo=UTC)
    bell = [signal("bell", n % 2 == 0, field_id="busy", time=start + timedelta(minutes=n)) for n in range(24)]
    other = [signal("other", field_id="busy", time=start + timedelta(hours=1), severity="low")]
    for said in (*bell, *other):
        async with connection.transaction():
            await report(connection, [said], RULES, now=said.time)
    params = {"field_id": "busy", "from": start.isoformat(), "to": (start + timedelta(hours=2)).isoformat()}
    found = (await diagnostics_api.client.get(f"{ALERTS}/statistics", params=params)).json()
    assert (found["annunciated"], found["per_operator_hour"], found["load"]) == (13, 6.5, "manageable")
    assert found["most_in_ten_minutes"] == 5
    assert found["priorities"] == {"low": 1, "medium": 12, "high": 0, "critical": 0}
    assert [(top["condition"], top["annunciated"]) for top in found["top"]] == [("bell", 12), ("other", 1)]
    assert [(chat["condition"], chat["most_in_an_hour"]) for chat in found["chattering"]] == [("bell", 12)]
    assert (found["floods"], found["flood_share"]) == (0, 0)
    assert found["now"]["unacknowledged"] == 2
    params["operators"] = "2"
    halved = (await diagnostics_api.client.get(f"{ALERTS}/statistics", params=params)).json()
    assert (halved["per_operator_hour"], halved["load"]) == (3.25, "acceptable")
    params["to"] = "2020-12-31T00:00:00Z"
    refused = await diagnostics_api.client.get(f"{ALERTS}/statistics", params=params)
    assert refused.status_code == 422


async def test_rules_are_exported_changed_and_imported_again(
    diagnostics_api: Any, connection: asyncpg.Connection, report_signals: Reporter
) -> None:
    client = diagnostics_api.client
    export = await client.get("/api/v1/alert-rules/export")
    assert export.headers["content-type"].startswith("application/yaml")
    assert export.text == shipped_text()
    limit = signal("limit_vibration_high", source="limit", title="Vibration")
    (change,) = await report_signals(limit)
    changed = export.text.replace("shipped-1", "site-1").replace("name: vibration_high", "name: shaking")
    try:
        loaded = await client.put("/api/v1/alert-rules", content=changed)
        assert (loaded.status_code, loaded.json()["version"]) == (200, "site-1")
        assert (await load_rules(connection)).version == "site-1"
        assert (await show(diagnostics_api, change.alert.alert_id))["state"] == "cleared_unacknowledged"
        assert (await client.get("/api/v1/alert-rules/export")).text == changed
        clash = await client.put("/api/v1/alert-rules", content=changed + "\n# more\n")
        assert clash.status_code == 409
        assert (await diagnostics_api.fleet.events("alert.rules-changed"))[-1] == {"version": "site-1"}
    finally:
        back = await client.put("/api/v1/alert-rules", content=shipped_text())
    assert back.status_code == 200
    versions = (await client.get("/api/v1/alert-rules/versions")).json()
    assert [(row["version"], row["active"]) for row in versions] == [("shipped-1", True), ("site-1", False)]
    assert (await client.get("/api/v1/alert-rules")).json()["version"] == "shipped-1"


async def test_shipped_rules_replace_loaded_rules_that_no_longer_parse(
    diagnostics_api: Any, connection: asyncpg.Connection
) -> None:
    await diagnostics_api.rows("UPDATE diagnostics.alert_rule_sets SET active = false")
    await diagnostics_api.rows(
        "INSERT INTO diagnostics.alert_rule_sets VALUES ('old', 'version: old', 'test', now(), true)"
    )
    try:
        assert await load_rules(connection) == RULES
    finally:
        await diagnostics_api.rows("DELETE FROM diagnostics.alert_rule_sets WHERE version = 'old'")


async def test_invalid_rules_are_rejected_with_every_problem(diagnostics_api: Any) -> None:
    wrong = shipped_text().replace("priority: critical", "priority: urgent").replace("deadband: 3", "dead: 3")
    answer = await diagnostics_api.client.put("/api/v1/alert-rules", content=wrong)
    assert answer.status_code == 422
    assert len(answer.json()["errors"]) == 3
    assert (await diagnostics_api.client.put("/api/v1/alert-rules", content=b"\xff")).status_code == 422
    reader = diagnostics_api.token("operator")
    denied = await diagnostics_api.bare.put("/api/v1/alert-rules", content=wrong, headers=reader)
    assert denied.status_code == 403
