"""Trends and latest values over HTTP: what was stored comes back, in the points one asked for."""

import asyncio
import csv
import io
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from prometheus_client import REGISTRY

DAY = datetime(2026, 3, 10, tzinfo=UTC)
ARROW = "application/vnd.apache.arrow.stream"


@pytest.fixture(scope="module", autouse=True)
async def history(fleet: Any) -> None:
    """Two days of P-1, a reading a minute: a slow wave with one spike, and a gauge that fails for a while."""
    minutes = np.arange(2 * 24 * 60)
    intake = 900 + 50 * np.sin(minutes / 200)
    intake[1500] = 1400.0
    await fleet.store(
        "P-1", DAY, {"intake_pressure_psi": intake, "frequency_hz": np.full(len(minutes), 55.0)}
    )


async def trend(api: Any, pump: str = "P-1", headers: dict[str, str] | None = None, **query: Any) -> Any:
    """Ask for a trend of the first day unless `query` says otherwise."""
    wanted = {"from": DAY, "to": DAY + timedelta(days=1), **query}
    texts = {
        name: value.isoformat() if isinstance(value, datetime) else value for name, value in wanted.items()
    }
    return await api.client.get(f"/api/v1/pumps/{pump}/telemetry", params=texts, headers=headers)


async def test_readings_are_returned_as_stored(diagnostics_api: Any) -> None:
    hour = {"to": DAY + timedelta(hours=1), "channels": "intake_pressure_psi"}
    answer = (await trend(diagnostics_api, resolution="raw", **hour)).json()
    assert (answer["resolution"], answer["points"]) == ("raw", 60)
    assert (answer["time"][0], answer["time"][-1]) == ("2026-03-10T00:00:00Z", "2026-03-10T00:59:00Z")
    values = answer["channels"]["intake_pressure_psi"]["value"]
    assert values == pytest.approx(900 + 50 * np.sin(np.arange(60) / 200), abs=0.03)
    assert answer["running"] == [True] * 60
    assert list(answer["channels"]) == ["intake_pressure_psi"]


async def test_auto_stays_within_max_points_and_keeps_extremes(diagnostics_api: Any) -> None:
    answer = (await trend(diagnostics_api, to=DAY + timedelta(days=2), max_points=100)).json()
    assert (answer["resolution"], answer["source"], answer["points"]) == ("1hour", "1hour", 48)
    intake = answer["channels"]["intake_pressure_psi"]
    assert max(intake["max"]) == 1400
    assert max(intake["avg"]) < 980
    assert answer["readings"] == [60] * 48
    assert list(answer["channels"]) == ["intake_pressure_psi", "frequency_hz"]


async def test_intermediate_buckets_are_merged_from_stored_ones(diagnostics_api: Any) -> None:
    answer = (await trend(diagnostics_api, max_points=300)).json()
    assert (answer["resolution"], answer["source"], answer["points"]) == ("5min", "1min", 288)
    minutes = 900 + 50 * np.sin(np.arange(5) / 200)
    intake = answer["channels"]["intake_pressure_psi"]
    assert intake["avg"][0] == pytest.approx(minutes.mean(), abs=0.03)
    assert intake["min"][0] == pytest.approx(minutes.min(), abs=0.03)
    assert answer["running_share"] == [1] * 288


@pytest.mark.parametrize(("resolution", "points"), [("1min", 1440), ("1hour", 24), ("1day", 1)])
async def test_each_stored_resolution_can_be_requested(
    diagnostics_api: Any, resolution: str, points: int
) -> None:
    answer = (await trend(diagnostics_api, resolution=resolution, max_points=2000)).json()
    assert (answer["resolution"], answer["points"]) == (resolution, points)


async def test_csv_and_arrow_equal_json(diagnostics_api: Any) -> None:
    asked = {"resolution": "1hour", "channels": ["intake_pressure_psi", "frequency_hz"]}
    columns = (await trend(diagnostics_api, **asked)).json()["channels"]["intake_pressure_psi"]
    as_csv = await trend(diagnostics_api, headers={"Accept": "text/csv"}, **asked)
    assert as_csv.headers["content-type"] == "text/csv; charset=utf-8"
    rows = list(csv.DictReader(io.StringIO(as_csv.text)))
    assert [float(row["intake_pressure_psi"]) for row in rows] == columns["avg"]
    as_arrow = await trend(diagnostics_api, headers={"Accept": ARROW}, **asked)
    assert as_arrow.headers["content-type"] == ARROW
    table = pa.ipc.open_stream(as_arrow.content).read_all()
    assert table["intake_pressure_psi_max"].to_pylist() == columns["max"]
    assert table["time"][0].as_py() == DAY


async def test_a_dashboard_gets_the_same_columns_at_any_resolution(
    diagnostics_api: Any,
) -> None:
    """What README says of Grafana: CSV, an API key as bearer token, times with milliseconds."""
    key = diagnostics_api.key("telemetry:read", "diagnostics:read")["X-API-Key"]
    headers = {"Authorization": f"Bearer {key}", "Accept": "text/csv"}
    for hours in (1, 24):
        url = (
            f"/api/v1/pumps/P-1/telemetry?from=2026-03-10T00:00:00.000Z"
            f"&to={(DAY + timedelta(hours=hours)).strftime('%Y-%m-%dT%H:%M:%S.000Z')}"
            "&channels=intake_pressure_psi,motor_temp_c&max_points=1000"
        )
        answer = await diagnostics_api.bare.get(url, headers=headers)
        rows = list(csv.DictReader(io.StringIO(answer.text)))
        assert len(rows) > 50
        assert float(rows[0]["intake_pressure_psi"]) == pytest.approx(900, abs=1)
        assert datetime.fromisoformat(rows[0]["time"]) == DAY
    table = await diagnostics_api.bare.get("/api/v1/fleet?limit=500", headers={"X-API-Key": key})
    assert len(table.json()["items"]) == 6


async def test_error_codes_of_a_gauge_are_not_returned_as_values(diagnostics_api: Any, fleet: Any) -> None:
    begin = DAY + timedelta(days=5)
    await fleet.store("P-2", begin, {"intake_pressure_psi": [0.0], "motor_temp_c": [120.0]}, fault_mask=1)
    span = {"from": begin, "to": begin + timedelta(minutes=1)}
    for resolution, statistic in (("raw", "value"), ("1min", "max")):
        found = (await trend(diagnostics_api, "P-2", resolution=resolution, **span)).json()["channels"]
        assert {name: columns[statistic] for name, columns in found.items()} == {"motor_temp_c": [120]}


async def test_an_empty_span_returns_no_points(diagnostics_api: Any) -> None:
    answer = (await trend(diagnostics_api, "P-6")).json()
    assert (answer["points"], answer["time"], answer["channels"]) == (0, [], {})


@pytest.mark.parametrize(
    ("query", "code", "words"),
    [
        ({"to": DAY - timedelta(days=1)}, "invalid-input", "is not before"),
        ({"to": DAY}, "invalid-input", "is not before"),
        ({"to": DAY + timedelta(days=4000)}, "invalid-input", "exceeds the maximum of 3700"),
        ({"channels": "intake_pressure_psi,pressure"}, "invalid-input", "unknown channels: pressure"),
        ({"channels": "intake_pressure_psi;DROP"}, "invalid-input", "unknown channels"),
        ({"resolution": "1min", "max_points": 100}, "too-many-points", "1440 points"),
        ({"resolution": "raw", "max_points": 100}, "too-many-points", "more than max_points 100"),
        ({"max_points": 1_000_000}, "too-many-points", "at most 20000"),
        ({"resolution": "2min"}, "invalid-input", "resolution"),
        ({"max_points": 0}, "invalid-input", "max_points"),
        ({"from": "2026-03-10T00:00:00"}, "invalid-input", "from"),
        ({"points": 5}, "invalid-input", "unknown query parameters: points"),
        ({"from": "9999-12-31T00:00:00Z", "to": "9999-12-31T23:59:59-14:00"}, "invalid-input", "2 to 9998"),
        ({"from": "0001-01-01T00:00:00+14:00"}, "invalid-input", "2 to 9998"),
        (
            {"from": "2900-12-30T00:00:00Z", "to": "2900-12-31T00:00:00Z"},
            "invalid-input",
            "between 1970 and 2200",
        ),
        ({"from": "1950-01-02T00:00:00+14:00"}, "invalid-input", "between 1970 and 2200"),
        ({"from": "2026-03-10T00:00:00+02:60"}, "invalid-input", "from"),
    ],
    ids=[
        *(
            "reversed",
            "empty",
            "too-long",
            "unknown-channel",
            "odd-channel",
            "too-many-stored",
            "too-many-raw",
        ),
        *(
            "too-many-asked",
            "odd-resolution",
            "no-points",
            "no-zone",
            "unknown-parameter",
            "last-day",
            "first-day",
            "future",
            "past",
            "odd-offset",
        ),
    ],
)
async def test_impossible_requests_are_rejected_with_a_reason(
    diagnostics_api: Any, query: dict[str, Any], code: str, words: str
) -> None:
    response = await trend(diagnostics_api, **query)
    assert response.status_code == 422
    assert response.json()["code"] == code
    assert words in response.json()["detail"]


async def test_an_unknown_pump_is_not_found(diagnostics_api: Any) -> None:
    for path in ("telemetry?from=2026-03-10T00:00:00Z&to=2026-03-11T00:00:00Z", "latest"):
        response = await diagnostics_api.client.get(f"/api/v1/pumps/nobody's/{path}")
        assert (response.status_code, response.json()["code"]) == (404, "not-found")


async def test_an_unsupported_media_type_is_not_acceptable(diagnostics_api: Any) -> None:
    response = await trend(diagnostics_api, headers={"Accept": "text/html"})
    assert (response.status_code, response.json()["code"]) == (406, "not-acceptable")


@pytest.mark.parametrize("path", ["telemetry?from=2026-03-10T00:00:00Z&to=2026-03-11T00:00:00Z", "latest"])
async def test_cached_trends_require_telemetry_read(diagnostics_api: Any, path: str) -> None:
    url = f"/api/v1/pumps/P-1/{path}"
    assert (await diagnostics_api.client.get(url)).status_code == 200
    ask = diagnostics_api.bare.get
    assert (await ask(url)).status_code == 401
    assert (await ask(url, headers=diagnostics_api.key("diagnostics:read"))).status_code == 403
    assert (await ask(url, headers=diagnostics_api.token("auditor"))).status_code == 403
    assert (await ask(url, headers=diagnostics_api.token("viewer"))).status_code == 200


def cached(outcome: str) -> float:
    """Return how many trends had this outcome of the cache."""
    labels = {"kind": "trend", "outcome": outcome}
    return REGISTRY.get_sample_value("esp_diagnostics_cache_answers_total", labels) or 0.0


async def test_concurrent_equal_requests_are_computed_once(diagnostics_api: Any) -> None:
    made, hits = cached("made"), cached("hit")
    same = {"resolution": "1hour", "channels": "frequency_hz", "max_points": 777}
    answers = await asyncio.gather(*(trend(diagnostics_api, **same) for _ in range(20)))
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.content for answer in answers}) == 1
    assert cached("made") == made + 1
    await trend(diagnostics_api, **same)
    assert cached("hit") > hits


async def test_a_current_copy_returns_304(diagnostics_api: Any) -> None:
    first = await trend(diagnostics_api, resolution="1hour")
    assert first.headers["cache-control"] == "private, no-cache"
    again = await trend(diagnostics_api, headers={"If-None-Match": first.headers["etag"]}, resolution="1hour")
    assert (again.status_code, again.content) == (304, b"")
    other = await trend(diagnostics_api, headers={"If-None-Match": first.headers["etag"]}, resolution="1day")
    assert other.status_code == 200


async def test_late_readings_appear_after_the_cache_expires(diagnostics_api: Any, fleet: Any) -> None:
    begin = DAY + timedelta(days=9)
    span = {"from": begin, "to": begin + timedelta(hours=1), "resolution": "raw"}
    await fleet.store("P-3", begin, {"frequency_hz": [50.0]})
    assert (await trend(diagnostics_api, "P-3", **span)).json()["points"] == 1
    await fleet.store("P-3", begin + timedelta(minutes=2), {"frequency_hz": [51.0]})
    redis = diagnostics_api.redis()
    try:
        kept = [key async for key in redis.scan_iter("diagnostics:cache:trend:*")]
        assert 0 < max([await redis.ttl(key) for key in kept]) <= 300
        await redis.delete(*kept)
    finally:
        await redis.aclose()
    assert (await trend(diagnostics_api, "P-3", **span)).json()["points"] == 2


async def test_latest_has_each_channels_newest_good_value_with_its_time(
    diagnostics_api: Any, fleet: Any
) -> None:
    now = datetime.now(UTC).replace(microsecond=0)
    early, late = now - timedelta(minutes=10), now - timedelta(minutes=5)
    await fleet.store("P-4", early, {"intake_pressure_psi": [850.0], "motor_temp_c": [118.0]})
    await fleet.store(
        "P-4", late, {"intake_pressure_psi": [0.0], "frequency_hz": [52.5]}, fault_mask=1, running=False
    )
    latest = (await diagnostics_api.client.get("/api/v1/pumps/P-4/latest")).json()
    assert datetime.fromisoformat(latest["time"]) == late
    assert latest["running"] is False
    assert latest["fault_channels"] == ["intake_pressure_psi"]
    values = {name: (found["value"], found["time"]) for name, found in latest["channels"].items()}
    assert values.keys() == {"intake_pressure_psi", "motor_temp_c", "frequency_hz"}
    assert (values["intake_pressure_psi"][0], datetime.fromisoformat(values["intake_pressure_psi"][1])) == (
        850,
        early,
    )
    assert latest["channels"]["frequency_hz"]["unit"] == "Hz"


async def test_latest_of_a_pump_that_never_reported_is_empty(diagnostics_api: Any) -> None:
    latest = (await diagnostics_api.client.get("/api/v1/pumps/P-6/latest")).json()
    assert (latest["time"], latest["channels"]) == (None, {})
