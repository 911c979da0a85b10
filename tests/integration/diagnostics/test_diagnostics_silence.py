"""Pumps and gateways that fall silent, by the clock: their alerts, and what the API shows meanwhile."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest
from esp_common.database import create_pool
from esp_diagnostics.app import run_notifier
from esp_diagnostics.silence.monitor import record_silence
from esp_diagnostics.silence.rules import SilencePolicy
from esp_stack.programs import free_port
from waiting import until

POLICY = SilencePolicy(intervals=5, least_s=60, unknown_interval_s=600)
STATUS = """
INSERT INTO diagnostics.pump_status (pump_id, field_id, time, state, since, latest, health)
SELECT pump_id, field_id, $2, 'running', $2, '{"channels": {}}', 90
FROM diagnostics.pumps WHERE pump_id = ANY($1)
ON CONFLICT (pump_id) DO UPDATE SET time = excluded.time, state = 'running', health = 90
"""
ALERTS = """
SELECT coalesce(pump_id, subject) AS what, condition, active FROM diagnostics.alerts
WHERE condition LIKE '%no_data' AND closed_at IS NULL ORDER BY condition, 1
"""


class Silence:
    """The fleet, its clock, and the notifier's look at it."""

    def __init__(self, api: Any, pool: Any) -> None:
        self.api = api
        self._pool = pool
        self.now = datetime.now(UTC)

    async def look(self, after_s: float = 0) -> list[Any]:
        """Let time pass, look once, and return the live messages."""
        self.now += timedelta(seconds=after_s)
        async with self._pool.acquire() as connection, connection.transaction():
            return await record_silence(connection, POLICY, self.now)

    async def judged(self, *pump_ids: str, age_s: float = 0) -> None:
        """Have pumps judged up to some seconds ago."""
        await self.api.rows(STATUS, list(pump_ids), self.now - timedelta(seconds=age_s))

    async def alerts(self) -> dict[str, bool]:
        """Return whether the alert of each pump and gateway that has one is active."""
        return {row["what"]: row["active"] for row in await self.api.rows(ALERTS)}

    async def shown(self, pump_id: str) -> dict[str, Any]:
        """Return a pump as the fleet, its diagnosis and its health show it; they must agree."""
        fleet = (await self.api.client.get("/api/v1/fleet")).json()["items"]
        (row,) = [pump for pump in fleet if pump["pump_id"] == pump_id]
        diagnosis = (await self.api.client.get(f"/api/v1/pumps/{pump_id}/diagnostics")).json()
        health = (await self.api.client.get(f"/api/v1/pumps/{pump_id}/health")).json()
        seen = {name: row[name] for name in ("state", "silent", "diagnosis_lag_s", "health")}
        assert seen == {
            **{name: diagnosis[name] for name in ("state", "silent", "diagnosis_lag_s")},
            "health": health["score"],
        }
        return seen


@pytest.fixture
async def silence(diagnostics_api: Any) -> AsyncIterator[Silence]:
    """P-1 to P-3 report through gw-1, P-4 and P-5 through no gateway that is known; P-6 never has."""
    tables = ("pump_status", "pump_activity", "gateway_activity", "alerts", "alert_floods", "backlogs")
    await diagnostics_api.rows(f"TRUNCATE {', '.join(f'diagnostics.{name}' for name in tables)} CASCADE")
    await diagnostics_api.rows("TRUNCATE ingest.gateway_pumps, ingest.telemetry")
    await diagnostics_api.rows(
        "INSERT INTO ingest.gateways VALUES ('gw-1', 'north', 'One') ON CONFLICT DO NOTHING"
    )
    await diagnostics_api.rows(
        "INSERT INTO ingest.gateway_pumps SELECT 'gw-1', format('P-%s', n) FROM generate_series(1, 3) AS n"
    )
    await diagnostics_api.rows("UPDATE diagnostics.pumps SET in_service = true, removed_at = NULL")
    redis = diagnostics_api.redis()
    await redis.flushdb()
    await redis.aclose()
    async with await create_pool(diagnostics_api.settings, role="test silence", max_size=2) as pool:
        yield Silence(diagnostics_api, pool)


async def test_a_silent_pump_is_one_alert_until_it_reports_again(silence):
    await silence.judged("P-4", "P-5")
    assert await silence.look(50) == []
    assert await silence.alerts() == {}
    await silence.judged("P-5")
    messages = await silence.look(20)
    assert await silence.alerts() == {"P-4": True}
    assert [(m["kind"], m["pump_id"], m["state"]) for m in messages] == [
        ("status", "P-4", "unknown"),
        ("alert", "P-4", "active_unacknowledged"),
    ]
    assert messages[0]["health"] is None
    assert await silence.look(1) == []
    await silence.judged("P-4", "P-5")
    messages = await silence.look()
    assert await silence.alerts() == {"P-4": False}
    assert (messages[0]["kind"], messages[0]["state"]) == ("status", "running")
    events = await silence.api.rows(
        "SELECT routing_key FROM diagnostics.outbox WHERE exchange = 'esp.alerts'"
        " AND convert_from(body, 'UTF8') LIKE '%no_data%' ORDER BY id"
    )
    assert [row["routing_key"] for row in events] == ["alert.raised.medium", "alert.cleared.medium"]


async def test_a_silent_gateway_raises_one_alert_for_its_pumps(silence):
    await silence.judged("P-1", "P-2", "P-3")
    await silence.judged("P-1", age_s=9)
    await silence.look(55)
    assert await silence.alerts() == {"gw-1": True}
    await silence.look(60)
    assert await silence.alerts() == {"gw-1": True}
    (row,) = await silence.api.rows("SELECT title, field_id, priority FROM diagnostics.alerts")
    assert (row["field_id"], row["priority"]) == ("north", "high")
    assert "gw-1" in row["title"]

    await silence.judged("P-1", "P-2")
    await silence.look()
    assert await silence.alerts() == {"gw-1": False}
    for _ in range(3):
        assert await silence.alerts() == {"gw-1": False}
        await silence.judged("P-1", "P-2")
        await silence.look(25)
    assert await silence.alerts() == {"gw-1": False, "P-3": True}


async def test_pumps_out_of_service_or_never_reporting_have_no_alert(silence):
    await silence.judged("P-4", "P-5")
    await silence.api.rows("UPDATE diagnostics.pumps SET in_service = false WHERE pump_id = 'P-5'")
    await silence.look(1000)
    assert await silence.alerts() == {"P-4": True}
    await silence.api.rows("UPDATE diagnostics.pumps SET removed_at = now() WHERE pump_id = 'P-4'")
    await silence.look(1)
    assert await silence.alerts() == {"P-4": False}


async def test_a_pump_whose_diagnosis_is_behind_is_not_silent(silence):
    await silence.judged("P-1", age_s=1000)
    newest = silence.now - timedelta(seconds=10)
    await silence.api.fleet.store("P-1", newest, {"frequency_hz": 50.0})
    await silence.look()
    assert await silence.alerts() == {}
    seen = await silence.shown("P-1")
    assert (seen["state"], seen["silent"], seen["health"]) == ("unknown", False, None)
    assert seen["diagnosis_lag_s"] == pytest.approx(990)


async def test_the_state_of_a_silent_pump_is_shown_as_unknown(silence):
    await silence.judged("P-1", age_s=10)
    await silence.judged("P-4", age_s=3600)
    assert await silence.shown("P-1") == {
        "state": "running", "silent": False, "diagnosis_lag_s": 0, "health": 90
    }  # fmt: skip
    assert await silence.shown("P-4") == {
        "state": "unknown", "silent": True, "diagnosis_lag_s": 0, "health": None
    }  # fmt: skip
    summary = (await silence.api.client.get("/api/v1/fleet")).json()["summary"]
    assert summary["states"] == {"running": 1, "unknown": 5}
    header = {"state": "unknown", "limit": 10}
    found = (await silence.api.client.get("/api/v1/fleet", params=header)).json()["items"]
    assert "P-4" in {pump["pump_id"] for pump in found}


async def test_a_backlog_is_shown_as_lag(silence):
    await silence.judged("P-1")
    await silence.api.rows(
        "INSERT INTO diagnostics.backlogs (pump_id, partition, judged, until, body_through)"
        " VALUES ('P-1', 0, '2026-01-01T00:00Z', '2026-01-01T06:00Z', '2026-01-01T00:00Z')"
    )
    assert (await silence.shown("P-1"))["diagnosis_lag_s"] == 6 * 3600


async def test_two_notifiers_raise_one_silence_alert(silence, running):
    await silence.judged("P-4", age_s=3600)
    settings = silence.api.settings.model_copy(update={"no_data_check_s": 0.2, "metrics_port": free_port()})
    another = settings.model_copy(update={"metrics_port": free_port()})
    async with running(run_notifier, settings), running(run_notifier, another):
        await until(silence.alerts, "the alert is there")
    assert await silence.alerts() == {"P-4": True}
    raised = "SELECT count(*) FROM diagnostics.alert_log WHERE condition = 'no_data' AND what = 'raised'"
    assert await silence.api.fleet.value(raised) == 1


async def test_concurrent_checks_do_not_block_each_other(silence):
    await silence.judged("P-4", age_s=3600)
    connection = await asyncpg.connect(silence.api.fleet.database.admin_url)
    async with connection.transaction():
        await connection.execute("SELECT pg_advisory_xact_lock(hashtextextended('diagnostics.silence', 0))")
        assert await silence.look() == []
    await connection.close()
    assert await silence.alerts() == {}
