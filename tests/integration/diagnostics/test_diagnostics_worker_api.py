"""Diagnoses, health and findings over HTTP."""

from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import orjson
import pytest

NOW = datetime.now(UTC).replace(microsecond=0)
EVIDENCE = orjson.dumps(
    {
        "for": [{"signal": "current", "what": "low", "value": 2.0, "unit": "A", "threshold": 3.0}],
        "against": [],
        "missing": [{"signal": "vibration", "what": "high", "value": None, "unit": "g", "threshold": 0.5}],
    }
).decode()
FINDINGS = """
INSERT INTO diagnostics.findings (finding_id, pump_id, field_id, condition, kind, severity, peak_severity,
    confidence, onset, raised_at, cleared_at, rule_version, evidence, path, action)
SELECT gen_random_uuid(), pump_id, field_id, condition, 'tree', severity, severity, 0.9,
    raised_at - '5 min'::interval,
    raised_at, cleared_at, '1', $2::jsonb, '["gauge: good"]', 'Look'
FROM (VALUES
    ('P-1', 'north', 'gas_lock', 'high', $1::timestamptz - '2 h'::interval, NULL::timestamptz),
    ('P-1', 'north', 'scale', 'low', $1::timestamptz - '3 days'::interval,
        $1::timestamptz - '1 day'::interval),
    ('P-5', 'south', 'gas_lock', 'medium', $1::timestamptz - '1 h'::interval, NULL)
) AS f (pump_id, field_id, condition, severity, raised_at, cleared_at)
"""
STATUS = """
INSERT INTO diagnostics.pump_status (pump_id, field_id, time, state, since, latest, residuals, health,
    health_terms, hypotheses, path, anomaly, rule_version)
VALUES ('P-1', 'north', $1::timestamptz, 'running', $1::timestamptz - '1 h'::interval, '{}',
    '{"head_residual": -0.2}', 40,
    '[{"term": "finding gas_lock", "points": 60, "value": 1, "unit": "", "why": "high finding"}]', $2::jsonb,
    '["gauge: good", "state: running"]', '{"score": 0.2, "threshold": 1, "learning": true}', '1')
"""


@pytest.fixture(scope="module", autouse=True)
async def _filled(diagnostics_api: Any) -> None:
    hypothesis = {
        "condition": "gas_lock",
        "confidence": 0.9,
        "severity": "high",
        "action": "Look",
        "since": NOW.isoformat(),
        **orjson.loads(EVIDENCE),
    }
    await diagnostics_api.rows(FINDINGS, NOW, EVIDENCE)
    # Not the time of import: a pump that is silent for a while has no known state.
    await diagnostics_api.rows(STATUS, datetime.now(UTC), orjson.dumps([hypothesis]).decode())


async def test_diagnostics_rank_hypotheses_with_evidence_path_and_history(diagnostics_api):
    answer = (await diagnostics_api.client.get("/api/v1/pumps/P-1/diagnostics")).json()
    [likeliest] = answer["hypotheses"]
    assert (likeliest["condition"], likeliest["for"][0]["value"]) == ("gas_lock", 2.0)
    assert likeliest["missing"][0]["value"] is None
    assert (answer["state"], answer["path"], answer["rule_version"]) == (
        "running",
        ["gauge: good", "state: running"],
        "1",
    )
    assert [finding["condition"] for finding in answer["findings"]] == ["gas_lock", "scale"]
    assert answer["model"]["version"] is None


async def test_diagnostics_say_since_when_a_pump_is_judged(diagnostics_api):
    path = "/api/v1/pumps/P-1/diagnostics"
    assert (await diagnostics_api.client.get(path)).json()["judged_since"] is None
    first, second = datetime(2025, 1, 1, tzinfo=UTC), datetime(2025, 1, 2, tzinfo=UTC)
    await diagnostics_api.rows(
        "INSERT INTO diagnostics.state_log (pump_id, started_at, state, ended_at)"
        " VALUES ('P-1', $1, 'off', $2), ('P-1', $2, 'running', NULL)",
        first,
        second,
    )
    answer = (await diagnostics_api.client.get(path)).json()
    assert datetime.fromisoformat(answer["judged_since"]) == first


async def test_health_comes_with_its_terms(diagnostics_api):
    answer = (await diagnostics_api.client.get("/api/v1/pumps/P-1/health")).json()
    assert (answer["score"], answer["terms"][0]["points"]) == (40, 60)


async def test_pump_nothing_was_said_of_is_unknown_and_one_that_is_not_there_is_404(diagnostics_api):
    answer = (await diagnostics_api.client.get("/api/v1/pumps/P-3/diagnostics")).json()
    assert (answer["state"], answer["time"], answer["hypotheses"], answer["findings"]) == (
        "unknown",
        None,
        [],
        [],
    )
    for path in ("diagnostics", "health"):
        assert (await diagnostics_api.client.get(f"/api/v1/pumps/P-99/{path}")).status_code == 404


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ({}, [("P-5", "gas_lock"), ("P-1", "gas_lock"), ("P-1", "scale")]),
        ({"field_id": "south"}, [("P-5", "gas_lock")]),
        ({"pump_id": "P-1", "open": "true"}, [("P-1", "gas_lock")]),
        ({"open": "false"}, [("P-1", "scale")]),
        ({"condition": "scale"}, [("P-1", "scale")]),
        ({"severity": ["high", "low"]}, [("P-1", "gas_lock"), ("P-1", "scale")]),
        ({"raised_from": (NOW - timedelta(hours=1, minutes=30)).isoformat()}, [("P-5", "gas_lock")]),
        ({"cleared_from": (NOW - timedelta(days=2)).isoformat()}, [("P-1", "scale")]),
        ({"onset_to": (NOW - timedelta(days=1)).isoformat()}, [("P-1", "scale")]),
    ],
    ids=[
        "all",
        "field",
        "open of a pump",
        "cleared",
        "condition",
        "severities",
        "raised",
        "cleared at",
        "onset",
    ],
)
async def test_findings_are_filtered(diagnostics_api, query, found):
    answer = (await diagnostics_api.client.get("/api/v1/findings", params=query)).json()
    assert [(each["pump_id"], each["condition"]) for each in answer["items"]] == found


async def test_findings_come_by_pages(diagnostics_api):
    seen, cursor = [], None
    while True:
        query = {"limit": 2, **({"cursor": cursor} if cursor else {})}
        answer = (await diagnostics_api.client.get("/api/v1/findings", params=query)).json()
        seen += [each["finding_id"] for each in answer["items"]]
        cursor = answer["next_cursor"]
        if cursor is None:
            break
    assert len(seen) == len(set(seen)) == 3


async def test_findings_need_the_permission(diagnostics_api):
    headers = diagnostics_api.key("telemetry:read")
    for path in ("findings", "pumps/P-1/diagnostics", "pumps/P-1/health"):
        answer = await diagnostics_api.bare.get(f"/api/v1/{path}", headers=headers)
        assert answer.status_code == 403


async def test_archiver_reads_findings_by_their_view(fleet):
    connection = await asyncpg.connect(fleet.url("esp_archiver"))
    try:
        assert await connection.fetchval("SELECT count(*) FROM findings_v1.findings") == 3
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.fetchval("SELECT count(*) FROM diagnostics.findings")
    finally:
        await connection.close()
