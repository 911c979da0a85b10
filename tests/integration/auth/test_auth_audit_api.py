"""The audit log over HTTP: who may see it, how it is asked for, and what verifying answers."""

import csv
import io
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlencode
from uuid import uuid4

import httpx
import orjson
import pytest
from esp_auth.consumers import chain_key
from esp_auth.domain.chain import Record
from esp_auth.domain.records import record_of
from esp_auth.store.audit import AuditStore

NOW = datetime.now(UTC).replace(microsecond=0)


def record(number: int, **fields: Any) -> Record:
    return record_of(
        {
            "id": str(uuid4()),
            "time": (NOW + timedelta(seconds=number)).isoformat(),
            "service": "ingest",
            "actor_id": "ann",
            "actor_kind": "user",
            "action": "asset.changed",
            "object": f"pump-{number}",
            "outcome": "success",
        }
        | fields
    )


@pytest.fixture(scope="module")
async def records(auth: Any) -> list[Record]:
    """The twelve records of the log, which stays as it is: the API would notice that it was cut."""
    records = [record(number, actor_id=["ann", "bob"][number % 2]) for number in range(12)]
    await AuditStore(auth.pool, chain_key(auth.settings)).append(records)
    return records


async def pages(client: httpx.AsyncClient, **query: Any) -> list[dict[str, Any]]:
    """Follow the cursors to the end."""
    items: list[dict[str, Any]] = []
    cursor: dict[str, Any] = {}
    while True:
        answer = await client.get("/api/v1/audit", params=query | cursor)
        assert answer.status_code == 200, answer.text
        page = answer.json()
        items += page["items"]
        if page["next_cursor"] is None:
            return items
        cursor = {"cursor": page["next_cursor"]}


@pytest.mark.parametrize("limit", [1, 5, 12, 1000])
async def test_pages_give_each_record_once_newest_first(auth: Any, records: list[Record], limit: int) -> None:
    items = await pages(auth.client, limit=limit)
    assert [item["id"] for item in items] == [str(each.id) for each in reversed(records)]
    assert set(items[0]) >= {"seq", "time", "actor_id", "action", "object", "outcome", "hash", "detail"}


async def test_filters_combine(auth: Any, records: list[Record]) -> None:
    since, until = (NOW + timedelta(seconds=second) for second in (3, 9))
    found = await pages(
        auth.client, actor="bob", **{"from": since.isoformat(), "to": until.isoformat()}, limit=2
    )
    assert [item["object"] for item in found] == ["pump-7", "pump-5", "pump-3"]
    assert len(await pages(auth.client, object="pump-4", action="asset.changed", service="ingest")) == 1
    assert await pages(auth.client, outcome="denied") == []


@pytest.mark.parametrize(
    "query",
    [
        {"who": "ann"},
        {"limit": 0},
        {"limit": 1001},
        {"from": "yesterday"},
        {"from": "2026-01-01T00:00:00"},
        {"from": "0001-01-01T00:00:00+14:00"},
        {"cursor": "x"},
        {"cursor": "WzEsMl0"},
        {"cursor": "WyIyMDI2LTAxLTAxVDAwOjAwOjAwWiIsLTFd"},
        {"cursor": "WyIwMDAxLTAxLTAxVDAwOjAwOjAwKzE0OjAwIiwxXQ"},
        {"actor": "x" * 501},
        {"actor": "a\0b"},
    ],
    ids=urlencode,
)
async def test_a_question_that_makes_no_sense_is_refused(auth: Any, records: Any, query: Any) -> None:
    for path in ("/api/v1/audit", "/api/v1/audit/export"):
        if path.endswith("export") and query.keys() & {"limit", "cursor"}:
            continue
        answer = await auth.client.get(path, params=query)
        assert answer.status_code == 422, answer.text


async def test_exports_are_what_the_pages_are(auth: Any, records: list[Record]) -> None:
    listed = await pages(auth.client, actor="ann")
    lines = await auth.client.get("/api/v1/audit/export", params={"format": "jsonl", "actor": "ann"})
    assert lines.headers["content-type"] == "application/jsonl"
    exported = [orjson.loads(line) for line in lines.content.splitlines()]
    assert [each["id"] for each in exported] == [each["id"] for each in listed]
    table = await auth.client.get("/api/v1/audit/export", params={"format": "csv", "actor": "ann"})
    assert table.headers["content-type"].startswith("text/csv")
    assert "attachment" in table.headers["content-disposition"]
    rows = list(csv.DictReader(io.StringIO(table.text, newline="")))
    assert [(row["id"], row["hash"]) for row in rows] == [(each["id"], each["hash"]) for each in listed]
    assert (await auth.client.get("/api/v1/audit/export", params={"format": "xml"})).status_code == 422


async def test_verifying_tells_what_was_done_to_the_log(auth: Any, records: list[Record]) -> None:
    whole = (await auth.client.post("/api/v1/audit/verify")).json()
    assert (whole["intact"], whole["records"], whole["head"]["seq"]) == (True, 12, 12)
    await auth.rows("UPDATE auth.audit_log SET actor_id = 'eve' WHERE seq = 5")
    broken = (await auth.client.post("/api/v1/audit/verify", json={})).json()
    await auth.rows("UPDATE auth.audit_log SET actor_id = 'ann' WHERE seq = 5")
    assert (broken["intact"], broken["findings_total"]) == (False, 1)
    assert (broken["findings"][0]["kind"], broken["findings"][0]["seq"]) == ("changed", 5)


async def test_a_part_of_the_log_is_verified_by_itself(auth: Any, records: list[Record]) -> None:
    part = (await auth.client.post("/api/v1/audit/verify", json={"from_seq": 6, "to_seq": 8})).json()
    assert (part["intact"], part["records"], part["from_seq"], part["to_seq"]) == (True, 3, 6, 8)


async def test_verifying_holds_the_log_against_a_noted_head(auth: Any, records: list[Record]) -> None:
    head = (await auth.client.post("/api/v1/audit/verify")).json()["head"]
    asked = {"noted": [head]}
    assert (await auth.client.post("/api/v1/audit/verify", json=asked)).json()["intact"]
    asked = {"noted": [{"seq": head["seq"], "hash": "0" * 64}]}
    broken = (await auth.client.post("/api/v1/audit/verify", json=asked)).json()
    assert [finding["kind"] for finding in broken["findings"]] == ["truncated"]


@pytest.mark.parametrize(
    "body",
    [
        {"from_seq": 0},
        {"from_seq": 5, "to_seq": 4},
        {"from_seq": 9999},
        {"to_seq": 2**63},
        {"noted": [{"seq": 1, "hash": "x"}]},
        {"all": True},
    ],
    ids=str,
)
async def test_a_range_that_makes_no_sense_is_refused(auth: Any, records: Any, body: Any) -> None:
    answer = await auth.client.post("/api/v1/audit/verify", json=body)
    assert answer.status_code == 422, answer.text


async def test_only_who_may_sees_the_log(auth: Any, records: Any) -> None:
    asked = [("GET", "/api/v1/audit"), ("GET", "/api/v1/audit/export"), ("POST", "/api/v1/audit/verify")]
    for role, status in (
        ("auditor", 200),
        ("admin", 200),
        ("engineer", 403),
        ("operator", 403),
        ("viewer", 403),
    ):
        session = await auth.log_in(await auth.user(role))
        for method, path in asked:
            answer = await auth.bare.request(method, path, headers=session.header)
            assert answer.status_code == status, (role, path, answer.text)
    for method, path in asked:
        assert (await auth.bare.request(method, path)).status_code == 401
