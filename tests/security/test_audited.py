"""Every request has its record, and the record says who did what to which object with what outcome."""

import time
from collections import Counter
from collections.abc import Callable
from uuid import uuid4

import httpx
import pytest
from deployed import NOWHERE, Deployed


def until_none(missing: Callable[[], list[object]], within_s: float = 30) -> None:
    """Wait until nothing is missing."""
    deadline = time.monotonic() + within_s
    while left := missing():
        assert time.monotonic() < deadline, f"still missing: {left}"
        time.sleep(0.1)


REQUESTS = (
    ("auth", "GET", "/api/v1/users"),
    ("auth", "GET", f"/api/v1/users/{NOWHERE}"),
    ("auth", "POST", "/api/v1/users"),
    ("auth", "DELETE", f"/api/v1/users/{NOWHERE}"),
    ("auth", "POST", "/api/v1/auth/login"),
    ("auth", "POST", "/api/v1/auth/refresh"),
    ("auth", "GET", "/api/v1/auth/me"),
    ("auth", "GET", "/api/v1/auth/.well-known/jwks.json"),
    ("auth", "GET", "/api/v1/audit"),
    ("auth", "GET", "/api/v1/nothing"),
    ("auth", "GET", "/docs"),
    ("auth", "GET", "/openapi.json"),
    ("ingest", "GET", "/api/v1/pumps"),
    ("ingest", "GET", "/api/v1/pumps/none"),
    ("ingest", "PUT", "/api/v1/pumps/none"),
    ("ingest", "DELETE", "/api/v1/pumps/none"),
    ("ingest", "PATCH", "/api/v1/telemetry"),
    ("ingest", "GET", "/nothing"),
    ("diagnostics", "GET", "/api/v1/fleet"),
    ("diagnostics", "GET", "/api/v1/pumps/none/telemetry"),
    ("diagnostics", "GET", "/nothing"),
    ("archiver", "GET", "/api/v1/archive"),
    ("backup", "POST", "/api/v1/backups"),
)


@pytest.mark.parametrize("who", ["nobody", "a viewer", "a key", "a stranger"])
def test_every_request_has_its_record(who: str, deployed: Deployed) -> None:
    session = deployed.session("viewer")
    header, actor, kind = {
        "nobody": ({}, None, "anonymous"),
        "a viewer": (session.header, session.user_id, "user"),
        "a key": ({"X-API-Key": deployed.bootstrap_key}, "bootstrap", "key"),
        "a stranger": ({"X-API-Key": "esp_live_x"}, None, "anonymous"),
    }[who]
    statuses: dict[str, tuple[int, str, str, str]] = {}
    for service, method, path in REQUESTS:
        trace_id = uuid4().hex
        headers = {**header, "X-Request-ID": trace_id, "X-Forwarded-For": "198.51.100.3, 192.0.2.7"}
        answer = httpx.request(method, f"{deployed.api(service).url}{path}", headers=headers, timeout=30)
        statuses[trace_id] = (answer.status_code, service, method, path)

    def records() -> list[tuple[object, ...]]:
        return deployed.administer(
            "SELECT trace_id, service, actor_id, actor_kind, action, object, outcome, status, source_address "
            "FROM auth.audit_log WHERE trace_id = ANY(%s)",
            list(statuses),
        )

    def missing() -> list[object]:
        present = {row[0] for row in records()}
        return [said for trace_id, said in statuses.items() if trace_id not in present]

    until_none(missing)
    found = records()
    assert {trace: count for trace, count in Counter(row[0] for row in found).items() if count != 1} == {}
    for trace, service, actor_id, actor_kind, action, what, outcome, status, source in found:
        answered, expected_service, method, path = statuses[str(trace)]
        said = f"{method} {path} {answered}"
        assert (service, status, what, source) == (expected_service, answered, path, "192.0.2.7"), said
        assert str(action).startswith(f"{method} "), said
        expected = "success" if answered < 400 else "denied" if answered in (401, 403, 429) else "failed"
        assert outcome == expected, said
        known = answered != 401 and path not in UNASKED
        if known and answered != 404 and answered != 405:
            assert (actor_id, actor_kind) == (actor, kind), said


UNASKED = ("/api/v1/auth/login", "/api/v1/auth/refresh", "/api/v1/auth/.well-known/jwks.json")
"""Routes that do not look at a credential."""


POSTS = 40
POST = "POST /api/v1/telemetry"


def test_posts_of_readings_share_records_that_count_every_one(deployed: Deployed) -> None:
    key, refused = deployed.new_key("telemetry:write"), deployed.new_key("assets:read")
    reading = [{"pump_id": "none", "time": "2026-01-01T00:00:00Z", "intake_pressure_psi": 1}]
    url = f"{deployed.ingest.url}/api/v1/telemetry"
    answered: Counter[tuple[str, int]] = Counter()
    with httpx.Client(timeout=30) as client:
        for number in range(POSTS):
            given = refused if number % 4 == 0 else key
            answer = client.post(url, json=reading, headers={"X-API-Key": given})
            answered[given.split("_")[2], answer.status_code] += 1
    ids = [key.split("_")[2], refused.split("_")[2]]

    def recorded() -> Counter[tuple[str, int]]:
        rows = deployed.administer(
            "SELECT actor_id, status, sum(count) FROM auth.audit_log "
            "WHERE actor_id = ANY(%s) AND action = %s GROUP BY actor_id, status",
            ids,
            POST,
        )
        return Counter({(actor, status): int(count) for actor, status, count in rows})

    until_none(lambda: [(answered, recorded())] if answered != recorded() else [])


def test_the_chain_of_what_was_recorded_is_intact(deployed: Deployed) -> None:
    verdict = deployed.call("POST", "audit/verify", {}).json()
    assert verdict["intact"], verdict
