"""The fleet over HTTP: the worst pump first, whatever page, field or state one asks for."""

from typing import Any

import orjson
import pytest

STATUS = """
INSERT INTO diagnostics.pump_status (pump_id, field_id, time, state, since, latest, health, gauge_fault)
SELECT pump_id, field_id, now() - age, state, now() - INTERVAL '2 days', $1::text::jsonb, health, false
FROM (VALUES ('P-1', 'running', 92.5, INTERVAL '5 s'), ('P-2', 'running', 40, INTERVAL '5 s'),
             ('P-3', 'off', 70, INTERVAL '1 h'), ('P-4', 'starting', NULL, INTERVAL '5 s'),
             ('P-5', 'running', 80, INTERVAL '5 s')) AS s (pump_id, state, health, age)
JOIN diagnostics.pumps USING (pump_id);
"""
FINDINGS = """
INSERT INTO diagnostics.findings (finding_id, pump_id, field_id, condition, kind, severity, peak_severity,
                                  confidence, onset, raised_at, rule_version, cleared_at)
SELECT gen_random_uuid(), pump_id, 'north', condition, 'tree', severity, severity,
       0.8, now(), now(), '1', cleared_at
FROM (VALUES ('P-2', 'pump_wear', 'medium', NULL), ('P-2', 'gas_interference', 'high', NULL),
             ('P-1', 'gas_lock', 'critical', now()), ('P-4', 'upthrust', 'low', NULL))
     AS f (pump_id, condition, severity, cleared_at);
"""
ALERTS = """
INSERT INTO diagnostics.alerts (alert_id, pump_id, field_id, condition, source, title, severity, priority,
                                state, active, acknowledged, occurrences, signalled_at, raised_at,
                                last_raised_at, updated_at)
SELECT gen_random_uuid(), pump_id, 'north', condition, 'finding', condition, priority, priority, state,
       true, false, 1, now(), now(), now(), now()
FROM (VALUES ('P-2', 'gas_interference', 'high', 'active_unacknowledged'),
             ('P-3', 'high_motor_temp', 'critical', 'active_acknowledged'),
             ('P-5', 'low_intake', 'critical', 'shelved')) AS a (pump_id, condition, priority, state);
"""
LATEST = {"running": True, "channels": {"frequency_hz": {"value": 55.0, "time": "2026-03-10T00:00:00Z"}}}


@pytest.fixture(scope="module", autouse=True)
async def trouble(diagnostics_api: Any) -> None:
    """P-2 has two findings and an alert, P-3 an alert, P-4 a finding, P-5 a shelved alert; P-6 is silent."""
    await diagnostics_api.rows(STATUS, orjson.dumps(LATEST).decode())
    await diagnostics_api.rows(FINDINGS)
    await diagnostics_api.rows(ALERTS)
    await diagnostics_api.rows("UPDATE diagnostics.pumps SET in_service = false WHERE pump_id = 'P-6'")


async def fleet_of(api: Any, **query: Any) -> Any:
    response = await api.client.get("/api/v1/fleet", params=query)
    assert response.status_code == 200, response.text
    return response.json()


async def test_pumps_are_sorted_by_severity_then_health(diagnostics_api: Any) -> None:
    page = await fleet_of(diagnostics_api)
    assert [(pump["pump_id"], pump["severity"]) for pump in page["items"]] == [
        ("P-3", "critical"),
        ("P-2", "high"),
        ("P-4", "low"),
        ("P-5", None),
        ("P-1", None),
        ("P-6", None),
    ]
    assert page["next_cursor"] is None


async def test_a_row_shows_condition_and_state(diagnostics_api: Any) -> None:
    (worn,) = [pump for pump in (await fleet_of(diagnostics_api))["items"] if pump["pump_id"] == "P-2"]
    assert (worn["condition"], worn["findings"], worn["health"]) == ("gas_interference", 2, 40)
    assert (worn["alerts"], worn["unacknowledged_alerts"], worn["shelved_alerts"]) == (1, 1, 0)
    assert (worn["state"], worn["silent"], worn["values"]) == ("running", False, {"frequency_hz": 55})
    assert (worn["field_id"], worn["well_id"]) == ("north", "W-2")


async def test_pumps_without_recent_readings_are_silent(diagnostics_api: Any) -> None:
    silent = {pump["pump_id"] for pump in (await fleet_of(diagnostics_api))["items"] if pump["silent"]}
    assert silent == {"P-3", "P-6"}


async def test_state_and_health_of_a_silent_pump_are_unknown(diagnostics_api: Any) -> None:
    (silent,) = [pump for pump in (await fleet_of(diagnostics_api))["items"] if pump["pump_id"] == "P-3"]
    assert (silent["state"], silent["health"], silent["since"]) == ("unknown", None, silent["time"])


async def test_the_summary_counts_the_whole_field(diagnostics_api: Any) -> None:
    assert (await fleet_of(diagnostics_api, limit=1))["summary"] == {
        "pumps": 6,
        "out_of_service": 1,
        "states": {"running": 3, "starting": 1, "unknown": 2},
        "severities": {"critical": 1, "high": 1, "low": 1},
    }
    assert (await fleet_of(diagnostics_api, field_id="south"))["summary"]["pumps"] == 2


@pytest.mark.parametrize("limit", [1, 2, 5])
async def test_pages_add_up_to_the_fleet(diagnostics_api: Any, limit: int) -> None:
    whole = [pump["pump_id"] for pump in (await fleet_of(diagnostics_api))["items"]]
    seen: list[str] = []
    cursor: dict[str, str] = {}
    while True:
        page = await fleet_of(diagnostics_api, limit=limit, **cursor)
        seen += [pump["pump_id"] for pump in page["items"]]
        if page["next_cursor"] is None:
            break
        cursor = {"cursor": page["next_cursor"]}
    assert seen == whole


@pytest.mark.parametrize(
    ("query", "pumps"),
    [
        ({"field_id": "south"}, ["P-5", "P-6"]),
        ({"state": "running"}, ["P-2", "P-5", "P-1"]),
        ({"state": ["off", "starting"]}, ["P-4"]),
        ({"state": "unknown"}, ["P-3", "P-6"]),
        ({"severity": "high"}, ["P-3", "P-2"]),
        ({"severity": "low", "state": "starting"}, ["P-4"]),
        ({"field_id": "nowhere"}, []),
    ],
    ids=["field", "state", "states", "silent", "severity", "both", "nobody's"],
)
async def test_filters(diagnostics_api: Any, query: dict[str, Any], pumps: list[str]) -> None:
    assert [pump["pump_id"] for pump in (await fleet_of(diagnostics_api, **query))["items"]] == pumps


@pytest.mark.parametrize(
    "query",
    [{"state": "asleep"}, {"severity": "awful"}, {"cursor": "WzEsMl0"}, {"limit": 0}, {"sort": "health"}],
    ids=lambda query: next(iter(query)),
)
async def test_invalid_parameters_are_rejected(diagnostics_api: Any, query: dict[str, Any]) -> None:
    assert (await diagnostics_api.client.get("/api/v1/fleet", params=query)).status_code == 422


async def test_the_fleet_requires_diagnostics_read(diagnostics_api: Any) -> None:
    ask = diagnostics_api.bare.get
    assert (await ask("/api/v1/fleet", headers=diagnostics_api.key("telemetry:read"))).status_code == 403
    assert (await ask("/api/v1/fleet", headers=diagnostics_api.token("operator"))).status_code == 200
    assert (await ask("/api/v1/fleet")).status_code == 401
