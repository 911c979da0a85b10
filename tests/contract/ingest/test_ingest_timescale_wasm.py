"""The TimescaleDB migrations and their aggregates run on every machine, in TimescaleDB's WASM build."""

from collections.abc import Callable
from typing import Any

import pytest
from esp_common.contracts.channels import CHANNELS
from esp_ingest.store.migrations import migrate

ASSETS = """
INSERT INTO ingest.fields VALUES ('f', 'Field');
INSERT INTO ingest.wells VALUES ('w', 'f', 'Well');
INSERT INTO ingest.pumps (pump_id, well_id) VALUES ('p', 'w');
"""
# A reading every 7 s for two hours of 2020, every tenth a gauge's error code.
READINGS = """
INSERT INTO ingest.telemetry (pump_no, time, motor_temp_c, running, fault_mask, frozen_mask)
SELECT 1, '2020-03-09 10:00+00'::timestamptz + n * INTERVAL '7 s', 100 * (n % 50), n % 4 > 0,
       CASE WHEN n % 10 = 0 THEN 8 END, CASE WHEN n = 3 THEN 1 END
FROM generate_series(0, 1027) AS n
"""
EXPECTED = """
SELECT count(*)::int AS readings, count(*) FILTER (WHERE running)::int AS running,
    count(running)::int AS running_known, bit_or(fault_mask) AS faults, bit_or(frozen_mask) AS frozen,
    (sum(motor_temp_c) FILTER (WHERE fault_mask IS NULL))::int AS sum,
    (count(motor_temp_c) FILTER (WHERE fault_mask IS NULL))::int AS count,
    min(motor_temp_c) FILTER (WHERE fault_mask IS NULL) AS min,
    max(motor_temp_c) FILTER (WHERE fault_mask IS NULL) AS max
FROM ingest.telemetry WHERE time < '2021-01-01'
GROUP BY date_trunc('{grain}', time) ORDER BY date_trunc('{grain}', time)
"""
TOLD = """
SELECT readings, running_count AS running, running_known, fault_mask AS faults,
    frozen_mask AS frozen, motor_temp_c_sum::int AS sum, motor_temp_c_count AS count,
    motor_temp_c_min AS min, motor_temp_c_max AS max
FROM ingest.telemetry_{grain} WHERE bucket < '2021-01-01' ORDER BY bucket
"""
GRAINS = {"1min": "minute", "1hour": "hour", "1day": "day"}
LATE = "INSERT INTO ingest.telemetry (pump_no, time, motor_temp_c) VALUES (1, '2020-03-09 10:00:01Z', 77777)"


Rows = list[dict[str, Any]]
Run = Callable[[str], Rows]


@pytest.fixture(scope="module")
def wasm(make_wasm: Callable[[Any], Run]) -> Run:
    """The migrated database of the module, with assets."""
    run = make_wasm(migrate)
    run(ASSETS)
    return run


def compare(run: Run) -> list[int]:
    """Assert that each grain tells what its readings tell; return how many buckets each has."""
    counts = []
    for grain, unit in GRAINS.items():
        told = run(TOLD.format(grain=grain))
        assert told == run(EXPECTED.format(grain=unit))
        counts.append(len(told))
    return counts


def refresh(run: Run) -> None:
    for grain in GRAINS:
        run(f"CALL refresh_continuous_aggregate('ingest.telemetry_{grain}', '2020-03-09', '2020-03-10')")


def test_aggregates_tell_what_the_readings_tell(wasm: Run) -> None:
    wasm(READINGS)
    assert compare(wasm) == [120, 2, 1], "aggregated while reading"
    refresh(wasm)
    for grain in GRAINS:
        wasm(f"ALTER MATERIALIZED VIEW ingest.telemetry_{grain} SET (timescaledb.materialized_only = true)")
    assert compare(wasm) == [120, 2, 1], "materialised"
    wasm("SELECT compress_chunk(show_chunks('ingest.telemetry'))")
    wasm(LATE)
    refresh(wasm)
    assert compare(wasm) == [120, 2, 1], "late, beside the columnstore"
    assert wasm(TOLD.format(grain="1day"))[0]["max"] == 77_777
    for grain in GRAINS:
        wasm(f"ALTER MATERIALIZED VIEW ingest.telemetry_{grain} SET (timescaledb.materialized_only = false)")


def test_the_views_give_engineering_units(wasm: Run) -> None:
    row = ", ".join(str(number + 1) for number in range(len(CHANNELS)))
    names = ", ".join(channel.name for channel in CHANNELS)
    wasm(f"INSERT INTO ingest.telemetry (pump_no, time, {names}) VALUES (1, '2021-01-01', {row})")
    raw, *aggregated = (
        wasm(f"SELECT * FROM telemetry_v1.readings{suffix} ORDER BY 3 DESC LIMIT 1")[0]
        for suffix in ("", "_1min", "_1hour", "_1day")
    )
    assert (raw["pump_id"], raw["field_id"]) == ("p", "f")
    for number, channel in enumerate(CHANNELS):
        value = pytest.approx((number + 1) * channel.resolution)
        assert [raw[channel.name], *(each[f"{channel.name}_avg"] for each in aggregated)] == [value] * 4


def test_no_job_of_timescaledb_is_relied_on(wasm: Run) -> None:
    """Maintenance refreshes and converts by itself, as on plain PostgreSQL."""
    jobs = "SELECT proc_name FROM timescaledb_information.jobs WHERE hypertable_name IS NOT NULL"
    assert wasm(jobs) == []
