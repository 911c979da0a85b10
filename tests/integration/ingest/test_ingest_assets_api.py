"""Assets over HTTP, as an engineer keeps them."""

from typing import Any

import orjson
import pytest
from esp_common import topology
from esp_common.errors import BrokerUnavailable
from esp_common.messaging import Requester

AN550 = [22.1654, 4.04863e-3, -7.36963e-5, 1.58516e-7, -1.80729e-10, 6.23138e-14]

ASSETS: dict[str, list[dict[str, Any]]] = {
    "fields": [{"field_id": "north", "name": "North"}, {"field_id": "south", "name": "South"}],
    "wells": [{"well_id": f"W-{n}", "field_id": "north", "name": f"Well {n}"} for n in range(5)],
    "pumps": [
        {
            "pump_id": f"P-{n}",
            "well_id": f"W-{n}",
            "model": "REDA AN550",
            "stages": 250,
            "curve": {
                "rated_frequency_hz": 60.0,
                "head_ft_per_stage": AN550,
                "bhp_per_stage": None,
                "min_bpd": 400.0,
                "max_bpd": 700.0,
            },
            "motor_rated_kw": 45.0,
            "motor_rated_current_a": None,
            "motor_rated_voltage_v": 1200.0,
            "motor_rated_frequency_hz": 60.0,
            "setting_depth_ft": 5500.5,
            "expected_interval_s": 10.0,
        }
        for n in range(5)
    ],
    "gateways": [{"gateway_id": "gw-01", "field_id": "north", "name": "One", "pumps": ["P-0", "P-1"]}],
    "tag-maps": [
        {
            "gateway_id": "gw-01",
            "tags": {
                "Pressure": {"channel": "discharge_pressure_psi", "unit": "bar", "states": None},
                "Run": {"channel": "running", "unit": None, "states": {"Läuft": True, "Aus": False}},
                "anomaly": None,
            },
        }
    ],
}
KEYS = {
    "fields": "field_id",
    "wells": "well_id",
    "pumps": "pump_id",
    "gateways": "gateway_id",
    "tag-maps": "gateway_id",
}


@pytest.fixture(scope="module")
async def api(ingest_api):
    for kind, assets in ASSETS.items():
        for asset in assets:
            answer = await ingest_api.client.post(f"/api/v1/{kind}", json=asset)
            assert answer.status_code == 201, answer.text
            assert answer.headers["location"] == f"/api/v1/{kind}/{asset[KEYS[kind]]}"
    return ingest_api


@pytest.mark.parametrize("kind", ASSETS)
async def test_an_asset_reads_back_as_it_was_stated(api, kind) -> None:
    for asset in ASSETS[kind]:
        answer = await api.client.get(f"/api/v1/{kind}/{asset[KEYS[kind]]}")
        assert (answer.status_code, answer.json()) == (200, asset)


async def test_lists_page_with_cursors_to_the_last_asset(api) -> None:
    seen, cursor, pages = [], None, 0
    while pages == 0 or cursor:
        query = {"limit": 2, **({"cursor": cursor} if cursor else {})}
        body = (await api.client.get("/api/v1/pumps", params=query)).json()
        seen += [pump["pump_id"] for pump in body["items"]]
        cursor, pages = body["next_cursor"], pages + 1
    assert (seen, pages) == ([f"P-{n}" for n in range(5)], 3)


async def test_lists_filter_by_field(api) -> None:
    south = (await api.client.get("/api/v1/pumps", params={"field_id": "south"})).json()
    assert south == {"items": [], "next_cursor": None}


@pytest.mark.parametrize(
    ("query", "status"),
    [("colour=red", 422), ("limit=0", 422), ("cursor=xx", 422), ("cursor=WzEsMl0", 422), ("limit=1", 200)],
)
async def test_query_parameters_that_cannot_be_are_refused(api, query, status) -> None:
    answer = await api.client.get(f"/api/v1/wells?{query}")
    assert answer.status_code == status
    if status != 200:
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["error_id"]


async def test_a_taken_id_is_a_conflict(api) -> None:
    answer = await api.client.post("/api/v1/fields", json=ASSETS["fields"][0])
    assert answer.status_code == 409
    assert "PUT" in answer.json()["fix"]


async def test_put_creates_then_replaces(api) -> None:
    well = {"well_id": "W-9", "field_id": "north", "name": "Nine"}
    first = await api.client.put("/api/v1/wells/W-9", json=well)
    second = await api.client.put("/api/v1/wells/W-9", json={**well, "name": "Ninth"})
    assert (first.status_code, second.status_code) == (201, 200)
    assert (await api.client.get("/api/v1/wells/W-9")).json()["name"] == "Ninth"


async def test_put_refuses_another_id_than_the_paths(api) -> None:
    well = {"well_id": "W-8", "field_id": "north", "name": "Eight"}
    answer = await api.client.put("/api/v1/wells/W-7", json=well)
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["where"] == "body: well_id"


async def test_a_reference_to_nothing_is_refused_with_its_place(api) -> None:
    well = {"well_id": "W-8", "field_id": "atlantis", "name": "Eight"}
    answer = await api.client.post("/api/v1/wells", json=well)
    assert answer.status_code == 422
    (problem,) = answer.json()["errors"]
    assert problem["where"] == "body: field_id"
    assert "atlantis" in problem["what"]


async def test_a_rising_curve_is_refused(api) -> None:
    pump = {**ASSETS["pumps"][0], "curve": {"head_ft_per_stage": [10, 1], "min_bpd": 1, "max_bpd": 9}}
    answer = await api.client.put("/api/v1/pumps/P-0", json=pump)
    assert answer.status_code == 422
    assert "fall" in answer.text


async def test_a_unit_a_million_times_off_is_refused_with_the_likely_one(api) -> None:
    tags = {"Megger": {"channel": "insulation_resistance_mohm", "unit": "mohm"}}
    answer = await api.client.put("/api/v1/tag-maps/gw-01", json={"gateway_id": "gw-01", "tags": tags})
    assert answer.status_code == 422
    (problem,) = answer.json()["errors"]
    assert problem["where"] == "body: tags.Megger.unit"
    assert problem["fix"] == "did you mean MΩ?"


async def test_an_implausible_unit_that_is_stored_can_be_read_and_corrected(api) -> None:
    await api.rows(
        "INSERT INTO ingest.tag_maps (gateway_id, tag, channel, unit, factor, offset_)"
        " VALUES ('gw-01', 'Power', 'active_power_kw', 'mW', 1e-6, 0)"
    )
    path = "/api/v1/tag-maps/gw-01"
    stored = (await api.client.get(path)).json()
    assert stored["tags"]["Power"]["unit"] == "mW"
    stored["tags"]["Power"]["unit"] = "MW"
    assert (await api.client.put(path, json=stored)).status_code == 200
    assert (await api.client.put(path, json=ASSETS["tag-maps"][0])).status_code == 200


async def test_what_is_needed_cannot_be_deleted(api) -> None:
    for path, needing in (
        ("fields/north", "well W-0"),
        ("wells/W-0", "pump P-0"),
        ("pumps/P-0", "gateway gw-01"),
        ("gateways/gw-01", "tag map"),
    ):
        answer = await api.client.delete(f"/api/v1/{path}")
        assert answer.status_code == 409, path
        assert needing in answer.json()["detail"]


async def test_deleting_ends_an_asset(api) -> None:
    await api.client.put("/api/v1/fields/gone", json={"field_id": "gone", "name": "Gone"})
    assert (await api.client.delete("/api/v1/fields/gone")).status_code == 204
    assert (await api.client.get("/api/v1/fields/gone")).status_code == 404
    assert (await api.client.delete("/api/v1/fields/gone")).status_code == 404


async def test_a_change_is_announced_and_audited_in_its_transaction(api) -> None:
    await api.client.put("/api/v1/fields/loud", json={"field_id": "loud", "name": "Loud"})
    await api.client.put("/api/v1/fields/loud", json={"field_id": "loud", "name": "Loud"})
    await api.client.delete("/api/v1/fields/loud")
    rows = await api.rows(
        "SELECT exchange, routing_key, body FROM ingest.outbox"
        " WHERE headers->>'cloudEvents_subject' = 'loud' ORDER BY id"
    )
    said = [(row["exchange"], row["routing_key"]) for row in rows]
    assert said == [
        ("esp.events", "asset.field-changed"),
        ("esp.audit", "ingest.asset.field-created"),
        ("esp.events", "asset.field-changed"),
        ("esp.audit", "ingest.asset.field-deleted"),
    ]
    assert orjson.loads(rows[0]["body"]) == {"field_id": "loud", "name": "Loud"}
    assert orjson.loads(rows[2]["body"]) == {"deleted": True}
    said = orjson.loads(rows[1]["body"])
    assert (said["actor_id"], said["actor_kind"], said["object"]) == ("key-0", "key", "loud")
    assert said["source_address"] == "127.0.0.1"
    assert said["trace_id"]


async def test_a_tag_map_is_stored_as_factors(api) -> None:
    rows = await api.rows("SELECT tag, factor, offset_ FROM ingest.tag_maps ORDER BY tag")
    factors = {row["tag"]: row["factor"] for row in rows}
    assert factors["Pressure"] == pytest.approx(14.5037738)
    assert factors["anomaly"] is None


async def test_quality_lists_scored_hours(api) -> None:
    await api.rows(
        "INSERT INTO ingest.quality_hours (pump_no, hour, stale, readings, score, computed_at)"
        " SELECT pump_no, '2026-01-01T00:00Z'::timestamptz + n * interval '1 hour', false, 60, 90 - n, now()"
        " FROM ingest.pumps, generate_series(0, 2) AS n WHERE pump_id IN ('P-0', 'P-1')"
    )
    latest = (await api.client.get("/api/v1/quality", params={"below": 89})).json()
    assert [(row["pump_id"], row["score"]) for row in latest["items"]] == [("P-0", 88), ("P-1", 88)]
    path = "/api/v1/pumps/P-0/quality"
    first = (await api.client.get(path, params={"limit": 2, "from": "2026-01-01T01:00:00Z"})).json()
    assert [row["score"] for row in first["items"]] == [88, 89]
    assert first["next_cursor"] is None
    second = (await api.client.get(path, params={"limit": 2})).json()
    last = (await api.client.get(path, params={"limit": 2, "cursor": second["next_cursor"]})).json()
    assert [row["score"] for row in last["items"]] == [90]
    assert (await api.client.get("/api/v1/pumps/P-77/quality")).status_code == 404
    assert (await api.client.get(path, params={"from": "yesterday"})).status_code == 422


@pytest.mark.parametrize(("gateway_id", "exists"), [("gw-01", True), ("gw-99", False), ("", False)])
async def test_auth_is_told_whether_a_gateway_exists(api, gateway_id, exists) -> None:
    question = orjson.dumps({"gateway_id": gateway_id})
    async with Requester(api.vhost.url_for("auth")) as auth:
        answer = await auth.request(topology.COMMANDS, topology.INGEST_FIND_GATEWAY, question, timeout_s=20)
    assert orjson.loads(answer) == {"exists": exists}


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"gateway_id":7}', b"\xff"])
async def test_a_gateway_question_that_cannot_be_read_stops_no_other(api, body) -> None:
    async with Requester(api.vhost.url_for("auth")) as auth:
        with pytest.raises(BrokerUnavailable, match="no answer"):
            await auth.request(topology.COMMANDS, topology.INGEST_FIND_GATEWAY, body, timeout_s=0.3)
    await test_auth_is_told_whether_a_gateway_exists(api, "gw-01", True)


async def test_nobody_but_auth_is_told(api) -> None:
    question = orjson.dumps({"gateway_id": "gw-01"})
    async with Requester(api.vhost.url_for("backup")) as other:
        with pytest.raises(BrokerUnavailable, match="no answer"):
            await other.request(topology.COMMANDS, topology.INGEST_FIND_GATEWAY, question, timeout_s=0.3)


@pytest.mark.parametrize("gateway_id", ["api", "ingest", "admin"])
async def test_no_gateway_has_a_reserved_name(api, gateway_id) -> None:
    asset = {"gateway_id": gateway_id, "field_id": "north", "name": "One", "pumps": []}
    answer = await api.client.post("/api/v1/gateways", json=asset)
    assert answer.status_code == 422
    assert "reserved name" in answer.text
