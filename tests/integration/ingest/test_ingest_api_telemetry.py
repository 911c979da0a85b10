"""`POST /api/v1/telemetry` and who may call what, over HTTP."""

import asyncio
from base64 import b64encode
from collections import Counter
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any
from uuid import UUID, uuid4

import aio_pika
import orjson
import pytest
from esp_common import topology
from esp_common.auth import key_id_of
from esp_common.contracts import arrow
from esp_common.contracts.readings import empty_readings

PATH = "/api/v1/telemetry"
JSON = {"content-type": "application/json"}


@pytest.fixture(scope="module")
async def api(ingest_api):
    for kind, asset in (
        ("fields", {"field_id": "north", "name": "North"}),
        ("wells", {"well_id": "W-1", "field_id": "north", "name": "One"}),
        ("pumps", {"pump_id": "P-1", "well_id": "W-1", "model": "M", "stages": 1}),
        ("pumps", {"pump_id": "P-2", "well_id": "W-1", "model": "M", "stages": 1}),
        ("gateways", {"gateway_id": "gw-01", "field_id": "north", "name": "G", "pumps": ["P-1"]}),
        (
            "tag-maps",
            {"gateway_id": "gw-01", "tags": {"PD": {"channel": "discharge_pressure_psi", "unit": "bar"}}},
        ),
    ):
        answer = await ingest_api.client.post(f"/api/v1/{kind}", json=asset)
        assert answer.status_code == 201, answer.text
    key = ingest_api.key("telemetry:write", gateway_id="gw-01")
    async with asyncio.timeout(30):
        while (await ingest_api.bare.post(PATH, json=reading(PD=200), headers=key)).status_code != 202:
            pass
    await taken(ingest_api)
    return ingest_api


def reading(**values: Any) -> dict[str, Any]:
    return {
        "pump_id": "P-1",
        "time": datetime.now(UTC).isoformat(),
        **(values or {"frequency_hz": 50}),
    }


async def taken(api) -> list[aio_pika.abc.AbstractIncomingMessage]:
    messages = []
    async with await aio_pika.connect(api.vhost.url) as connection, connection.channel() as channel:
        queue = await channel.get_queue(topology.INGEST_TELEMETRY)
        while message := await queue.get(no_ack=True, fail=False):
            messages.append(message)
    return messages


async def test_one_reading_is_accepted_and_on_the_queue(api) -> None:
    sent = reading()
    answer = await api.client.post(PATH, json=sent)
    assert (answer.status_code, answer.json()) == (202, {"accepted": 1, "rejected": []})
    (message,) = await taken(api)
    assert (message.routing_key, orjson.loads(message.body)) == ("telemetry._api", [sent])


async def test_every_post_is_in_an_audit_record(api, auditor) -> None:
    key = api.key("telemetry:write")
    own = (key_id_of(key["X-API-Key"]), None)
    posts = [
        *[api.bare.post(PATH, json=reading(), headers=key) for _ in range(50)],
        *[
            api.bare.post(PATH, json=reading(), headers={**key, "Idempotency-Key": f"audited-{n}"})
            for n in range(3)
        ],
        *[api.bare.post(PATH, json={"pump_id": "P-9"}, headers=key) for _ in range(5)],
        *[api.bare.post(PATH, json=reading()) for _ in range(7)],
        *[api.bare.post(PATH, json=reading(), headers={**key, "X-Forwarded-For": "10.1.2.3"})],
    ]
    statuses = [answer.status_code for answer in await asyncio.gather(*posts)]
    assert sorted(statuses) == [202] * 54 + [401] * 7 + [422] * 5

    def counted() -> Counter[tuple[Any, ...]]:
        counts: Counter[tuple[Any, ...]] = Counter()
        for record in auditor.records.values():
            if record["action"] == f"POST {PATH}" and record["actor_id"] in own:
                counts[record["actor_kind"], record["status"], record["source_address"]] += record["count"]
        return counts

    async with asyncio.timeout(10):
        while counted().total() < len(posts):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    assert counted() == {
        ("key", 202, "127.0.0.1"): 53,
        ("key", 202, "10.1.2.3"): 1,
        ("key", 422, "127.0.0.1"): 5,
        ("anonymous", 401, "127.0.0.1"): 7,
    }
    await taken(api)


@pytest.mark.parametrize(
    "long_way", [{}, {"Idempotency-Key": "from-a-client"}], ids=["short way", "long way"]
)
@pytest.mark.parametrize(
    ("header", "seen"),
    [
        ({"X-Forwarded-For": "6.6.6.6, 203.0.113.9, 127.0.0.1"}, "203.0.113.9"),
        ({"Forwarded": 'for="6.6.6.6, for="[2001:db8::9]:4711", for=127.0.0.1'}, "2001:db8::9"),
    ],
    ids=["x-forwarded-for", "forwarded"],
)
async def test_the_client_of_a_post_is_whom_the_trusted_proxies_name(
    header, seen, long_way, api, auditor
) -> None:
    key = api.key("telemetry:write")
    await api.bare.post(PATH, json=reading(), headers=key)  # from now on the key is known: the short way
    answer = await api.bare.post(PATH, json=reading(), headers={**key, **header, **long_way})
    assert answer.status_code == 202
    actor_id = key_id_of(key["X-API-Key"])

    def addresses() -> set[str]:
        return {r["source_address"] for r in auditor.records.values() if r["actor_id"] == actor_id}

    async with asyncio.timeout(10):
        while len(addresses()) < 2:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    assert addresses() == {"127.0.0.1", seen}
    await taken(api)


@pytest.mark.parametrize("shape", ["array", "wrapped", "arrow"])
async def test_every_shape_of_body_is_taken(api, shape) -> None:
    if shape == "arrow":
        readings = empty_readings(2)
        readings.pump_id[:] = "P-1"
        readings.time_us[:] = [int(datetime.now(UTC).timestamp() * 1e6), 1_700_000_000_000_000]
        readings.values[:, 0] = 100.0
        body, media_type = arrow.encode(readings), arrow.MEDIA_TYPE
    else:
        both = [reading(), reading(motor_temp_c=120)]
        body = orjson.dumps(both if shape == "array" else {"readings": both})
        media_type = "application/json; charset=utf-8"
    answer = await api.client.post(PATH, content=body, headers={"content-type": media_type})
    assert (answer.status_code, answer.json()) == (202, {"accepted": 2, "rejected": []})
    assert len(await taken(api)) == 1


async def test_a_bad_reading_in_a_good_batch_is_named(api) -> None:
    answer = await api.client.post(PATH, json=[reading(), reading(frequency_hz=-5), reading(colour=1)])
    assert answer.status_code == 202
    assert answer.json()["accepted"] == 1
    assert [(r["index"], r["reason"]) for r in answer.json()["rejected"]] == [
        (1, "out-of-range"),
        (2, "unknown-channel"),
    ]
    assert len(orjson.loads((await taken(api))[0].body)) == 3


async def test_a_bad_channel_is_named_and_its_reading_is_accepted(api) -> None:
    sent = reading(frequency_hz=50, motor_temp_c=120, wellhead_pressure_psi=-9999)
    answer = await api.client.post(PATH, json=[reading(), sent])
    assert (answer.status_code, answer.json()["accepted"]) == (202, 2)
    [refused] = answer.json()["rejected"]
    assert (refused["index"], refused["channel"]) == (1, "wellhead_pressure_psi")
    assert (refused["reason"], refused["detail"]) == (
        "sentinel-value",
        "wellhead_pressure_psi = -9999 is a sentinel, not a value",
    )
    assert UUID(refused["error_id"])
    await taken(api)


async def test_a_reading_with_no_channel_left_is_refused_whole(api) -> None:
    answer = await api.client.post(PATH, json=reading(wellhead_pressure_psi="Bad"))
    assert answer.status_code == 422
    [refused] = answer.json()["rejected"]
    assert (refused["channel"], refused["reason"]) == (None, "status-text")
    assert "Bad" in refused["detail"]
    await taken(api)


async def test_nothing_acceptable_is_a_problem_and_is_still_published(api) -> None:
    answer = await api.client.post(PATH, json={**reading(), "pump_id": "P-404"})
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    body = answer.json()
    assert (body["accepted"], body["rejected"][0]["reason"]) == (0, "unknown-pump")
    assert len(await taken(api)) == 1


@pytest.mark.parametrize(
    ("junk", "whole"),
    [([*range(4000)], 4000), ([{}] * 4000, 4000), ([{"pump_id": "P-1", "colour": 1}] * 500, 500)],
    ids=["distinct elements", "empty objects", "the same reading"],
)
async def test_many_refusals_make_a_short_answer(api, junk, whole) -> None:
    sent = orjson.dumps([*junk, reading()])
    answer = await api.client.post(PATH, content=sent, headers={"content-type": "application/json"})
    body = answer.json()
    assert (answer.status_code, body["accepted"]) == (202, 1)
    assert (len(body["rejected"]), body["rejected_total"]) == (100, whole)
    assert UUID(body["rest_error_id"])
    assert len(answer.content) < 32_000
    assert [message.body for message in await taken(api)] == [sent]


async def test_a_gateways_key_speaks_for_it_alone_with_its_tags(api) -> None:
    key = api.key("telemetry:write", gateway_id="gw-01")
    own = await api.bare.post(PATH, json=reading(PD=200), headers=key)
    foreign = await api.bare.post(PATH, json={**reading(), "pump_id": "P-2"}, headers=key)
    assert (own.status_code, foreign.status_code) == (202, 422)
    assert foreign.json()["rejected"][0]["reason"] == "foreign-gateway"
    assert {message.routing_key for message in await taken(api)} == {"telemetry.gw-01"}


async def test_an_idempotency_key_becomes_the_message_id(api) -> None:
    answer = await api.client.post(PATH, json=reading(), headers={"Idempotency-Key": "batch-1"})
    assert answer.status_code == 202
    assert [message.message_id for message in await taken(api)] == ["batch-1"]


@pytest.mark.parametrize(
    ("content", "headers", "status"),
    [
        (b'{"pump_id":', JSON, 400),
        (b"", JSON, 400),
        (b"[]", JSON, 422),
        (b"{}", {"content-type": "text/csv"}, 415),
        (b"{}", {}, 415),
        (b"{}", {**JSON, "content-encoding": "gzip"}, 415),
        (b"\xff\xff\xff\xff", {"content-type": arrow.MEDIA_TYPE}, 400),
        (b" " * (4 * 1024 * 1024 + 1), JSON, 413),
        (b"{}", {**JSON, "Idempotency-Key": "k" * 129}, 422),
    ],
)
async def test_what_cannot_be_taken_says_why(api, content, headers, status) -> None:
    answer = await api.client.post(PATH, content=content, headers=headers)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["error_id"]
    assert len(await taken(api)) == 0


async def test_a_body_without_length_is_bounded_too(api) -> None:
    async def endless():
        for _ in range(80):
            yield b" " * 65536

    answer = await api.client.post(PATH, content=endless(), headers=JSON)
    assert answer.status_code == 413


async def test_a_query_parameter_is_refused(api) -> None:
    answer = await api.client.post(f"{PATH}?dry_run=1", json=reading())
    assert answer.status_code == 422


async def test_other_methods_are_refused(api) -> None:
    assert (await api.client.get(PATH)).status_code == 405


async def test_a_stranger_is_refused_before_the_body_is_read(api) -> None:
    """The answer comes although the announced body never does."""
    port = api.settings.http_port
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(
        b"POST /api/v1/telemetry HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        b"Authorization: Bearer nobody\r\nContent-Length: 1000\r\n\r\n"
    )
    async with asyncio.timeout(10):
        assert b" 401 " in await reader.readline()
    writer.close()


async def test_no_route_answers_without_a_credential(api) -> None:
    document = (await api.client.get("/openapi.json")).json()
    paths = [(m, p) for p, methods in document["paths"].items() for m in methods]
    assert len(paths) > 30
    for method, path in paths:
        answer = await api.bare.request(method, path.replace("{id}", "x"))
        assert answer.status_code == 401, (method, path)
        assert answer.json()["code"] == "unauthenticated"


async def test_no_route_answers_a_key_without_scopes(api) -> None:
    key = api.key()
    document = (await api.client.get("/openapi.json")).json()
    for path, methods in document["paths"].items():
        for method in methods:
            answer = await api.bare.request(method, path.replace("{id}", "x"), headers=key)
            assert answer.status_code == 403, (method, path)


async def test_health_is_open_and_tells_the_engine(api) -> None:
    answer = await api.bare.get("/health/ready")
    assert answer.status_code == 200
    assert set(answer.json()["checks"]) == {"database", "broker", "events", "registry"}
    assert answer.json()["engine"] == "postgres"
    assert answer.json()["engine_lacks"]


async def test_a_refused_reading_is_replayed_and_discarded(api) -> None:
    first, second = "00000000-0000-0000-0000-000000000001", "00000000-0000-0000-0000-000000000002"
    await api.rows(
        "INSERT INTO ingest.quarantine"
        " (id, gateway_id, pump_id, channel, reason, detail, payload, received_at) VALUES"
        f" ('{first}', 'gw-01', 'P-1', NULL, 'unknown-pump', 'x', '{{\"pump_id\": \"P-1\"}}',"
        " '2026-01-01T00:00Z'),"
        f" ('{second}', 'gw-01', 'P-2', 'choke_pct', 'out-of-range', 'x', '{{\"pump_id\": \"P-2\"}}',"
        " '2026-01-02T00:00Z')"
    )
    path = "/api/v1/quarantine"
    newest = (await api.client.get(path, params={"limit": 1})).json()
    assert [row["id"] for row in newest["items"]] == [second]
    older = (await api.client.get(path, params={"limit": 1, "cursor": newest["next_cursor"]})).json()
    assert [row["id"] for row in older["items"]] == [first]
    for query, found in (
        ({"pump_id": "P-1"}, [first]),
        ({"from": "2026-01-02T00:00:00Z", "state": "pending"}, [second]),
        ({"to": "2026-01-02T00:00:00Z", "reason": "unknown-pump"}, [first]),
        ({"gateway_id": "gw-02"}, []),
        ({"channel": "choke_pct"}, [second]),
        ({"channel": "running"}, []),
    ):
        rows = (await api.client.get(path, params=query)).json()["items"]
        assert [row["id"] for row in rows] == found, query
    replayed = await api.client.post(f"{path}/{first}/replay")
    assert (replayed.status_code, replayed.json()["state"]) == (200, "replayed")
    assert replayed.json()["payload"] == {"pump_id": "P-1"}
    assert [orjson.loads(message.body) for message in await taken(api)] == [{"pump_id": "P-1"}]
    assert (await api.client.post(f"{path}/{first}/replay")).status_code == 409
    assert (await api.client.post(f"{path}/{second}/discard")).json()["resolved_by"] == "key-0"
    assert (await api.client.get(f"{path}/00000000-0000-0000-0000-000000000003")).status_code == 404


@pytest.mark.parametrize("shape", ["reading", "body"])
async def test_a_quarantined_reading_is_replayed_as_edited(api, shape) -> None:
    id_ = str(uuid4())
    payload = '{"pump_id": "P-1", "time": "yesterday", "frequency_hz": 50}'
    await api.rows(
        "INSERT INTO ingest.quarantine (id, gateway_id, pump_id, reason, detail, payload)"
        f" VALUES ('{id_}', 'gw-01', 'P-1', 'invalid-time', 'x', '{payload}')"
    )
    path, mended = f"/api/v1/quarantine/{id_}", reading(frequency_hz=50)
    body = (
        {"reading": mended}
        if shape == "reading"
        else {"body_base64": b64encode(orjson.dumps(mended)).decode()}
    )
    for wrong in (
        {},
        {**body, "reading": mended, "body_base64": "e30="},
        {"body_base64": "not base64"},
        {"odd": 1},
    ):
        assert (await api.client.post(f"{path}/replay", json=wrong)).status_code == 422, wrong
    answer = await api.client.post(f"{path}/replay", json=body)
    assert (answer.status_code, answer.json()["state"]) == (200, "replayed")
    assert answer.json()["payload"] == orjson.loads(payload)
    (message,) = await taken(api)
    assert (message.routing_key, orjson.loads(message.body)) == ("telemetry.gw-01", mended)
    (audited,) = await api.rows(
        f"SELECT body FROM ingest.outbox WHERE convert_from(body, 'UTF8') LIKE '%{id_}%'"
    )
    detail = orjson.loads(audited["body"])["detail"]
    assert detail["edited_sha256"] == sha256(orjson.dumps(mended)).hexdigest()


async def test_a_dead_letter_is_shown_replayed_and_discarded(api) -> None:
    async with await aio_pika.connect(api.vhost.url) as connection, connection.channel() as channel:
        dlx = await channel.get_exchange(topology.DLX)
        for body in (b"one", b"two"):
            headers = {"esp-reason": "poison", "esp-routing-key": "telemetry.gw-01"}
            message = aio_pika.Message(body, headers=headers, content_type="application/json")
            await dlx.publish(message, topology.INGEST_TELEMETRY)
    path = "/api/v1/dead-letters"
    one, two = (await api.client.get(path)).json()["items"]
    assert (one["reason"], one["routing_key"], one["size_bytes"]) == ("poison", "telemetry.gw-01", 3)
    assert (await api.client.get(f"{path}/{one['id']}")).json()["body_base64"] == "b25l"
    assert (await api.client.post(f"{path}/{one['id']}/replay")).status_code == 204
    assert (await api.client.post(f"{path}/{two['id']}/discard")).status_code == 204
    assert (await api.client.post(f"{path}/{two['id']}/discard")).status_code == 404
    assert (await api.client.get(path)).json()["items"] == []
    assert [message.body for message in await taken(api)] == [b"one"]


async def test_the_documentation_tells_the_real_answers(api) -> None:
    document = (await api.client.get("/openapi.json")).json()
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            answers = operation["responses"]
            assert {"401", "403", "422", "503"} <= set(answers), (method, path)
            for status, answer in answers.items():
                if status.startswith(("4", "5")):
                    assert list(answer["content"]) == ["application/problem+json"], (method, path, status)
    post = document["paths"][PATH]["post"]
    assert set(post["requestBody"]["content"]) == {"application/json", arrow.MEDIA_TYPE}
    assert {"202", "400", "413", "415", "429"} <= set(post["responses"])
