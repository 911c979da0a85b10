"""History as it is read, on each storage engine: the same readings give the same points."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import numpy as np
import pytest
from esp_diagnostics.trends.resolution import Plan, Resolution, Span
from esp_diagnostics.trends.store import History

DAY = datetime(2026, 3, 10, tzinfo=UTC)
CHANNELS = ("intake_pressure_psi", "frequency_hz")


@pytest.fixture(scope="module")
async def history(fleet_on_engine: Any) -> AsyncIterator[History]:
    """A day of P-1, a reading a minute, pressure rising by 0.1 psi with each and missing in every tenth."""
    minutes = np.arange(24 * 60)
    pressure = np.where(minutes % 10 == 9, np.nan, 800 + minutes / 10)
    await fleet_on_engine.store("P-1", DAY, {"intake_pressure_psi": pressure, "frequency_hz": 55.0})
    await fleet_on_engine.store("P-2", DAY, {"intake_pressure_psi": np.full(5, 1.0)})
    async with asyncpg.create_pool(fleet_on_engine.url(), min_size=1, max_size=2) as pool:
        yield History(pool)


def buckets(source: Resolution, bucket_s: int, hours: float = 24) -> Plan:
    return Plan(source, Span(DAY, DAY + timedelta(hours=hours)), bucket_s)


async def test_readings_are_ordered(history: History) -> None:
    rows = await history.readings("P-1", Span(DAY, DAY + timedelta(minutes=10)), CHANNELS, 100)
    assert [row["time"] for row in rows] == [DAY + timedelta(minutes=n) for n in range(10)]
    assert [row["intake_pressure_psi"] for row in rows[:2]] == [800, 800.1]
    assert (rows[9]["intake_pressure_psi"], rows[9]["frequency_hz"], rows[9]["running"]) == (None, 55, True)


async def test_the_limit_bounds_the_readings(history: History) -> None:
    assert len(await history.readings("P-1", Span(DAY, DAY + timedelta(days=1)), CHANNELS, 7)) == 7


@pytest.mark.parametrize(
    ("source", "bucket_s", "points"),
    [(Resolution.MINUTE, 60, 1440), (Resolution.HOUR, 3600, 24), (Resolution.DAY, 86_400, 1)],
    ids=["1min", "1hour", "1day"],
)
async def test_stored_buckets(history: History, source: Resolution, bucket_s: int, points: int) -> None:
    rows = await history.buckets("P-1", buckets(source, bucket_s), CHANNELS)
    assert len(rows) == points
    assert (rows[0]["bucket"], rows[0]["readings"], rows[0]["running_share"]) == (DAY, bucket_s // 60, 1)
    assert rows[-1]["intake_pressure_psi_max"] in (None, pytest.approx(800 + 143.8))
    assert rows[0]["frequency_hz_avg"] == 55


@pytest.mark.parametrize(
    ("source", "bucket_s"), [(Resolution.MINUTE, 900), (Resolution.HOUR, 21_600)], ids=["15min", "6hour"]
)
async def test_merged_buckets_are_weighted_by_counts(
    history: History, source: Resolution, bucket_s: int
) -> None:
    rows = await history.buckets("P-1", buckets(source, bucket_s), CHANNELS)
    assert [row["bucket"] for row in rows] == [
        DAY + timedelta(seconds=bucket_s * n) for n in range(86_400 // bucket_s)
    ]
    minutes = np.arange(bucket_s // 60)
    measured = 800 + minutes[minutes % 10 != 9] / 10
    first = rows[0]
    assert first["readings"] == bucket_s // 60
    assert first["intake_pressure_psi_avg"] == pytest.approx(measured.mean(), abs=1e-9)
    assert (first["intake_pressure_psi_min"], first["intake_pressure_psi_max"]) == (800, measured.max())


@pytest.mark.parametrize(
    ("source", "bucket_s"),
    [(Resolution.MINUTE, 60), (Resolution.MINUTE, 900), (Resolution.HOUR, 3600)],
    ids=["stored", "merged", "hour"],
)
async def test_columns_equal_buckets(history: History, source: Resolution, bucket_s: int) -> None:
    wanted, channels = buckets(source, bucket_s), (*CHANNELS, "motor_temp_c")
    rows = await history.buckets("P-1", wanted, channels)
    columns = await history.columns("P-1", wanted, channels)
    assert list(columns.times) == [row["bucket"] for row in rows]
    assert list(columns.readings) == [row["readings"] for row in rows]
    assert list(columns.running_share) == [row["running_share"] for row in rows]
    np.testing.assert_array_equal(columns.values, np.array([row[3:] for row in rows], dtype=np.float64))


async def test_an_empty_span_has_no_columns(history: History) -> None:
    before = Plan(Resolution.HOUR, Span(DAY - timedelta(days=2), DAY - timedelta(days=1)), 3600)
    columns = await history.columns("P-1", before, CHANNELS)
    assert (len(columns.times), columns.values.shape) == (0, (0, 6))


async def test_the_newest_readings_come_first(history: History) -> None:
    rows = await history.newest("P-1", DAY, 3)
    assert [row["time"] for row in rows] == [DAY + timedelta(minutes=1440 - n) for n in (1, 2, 3)]
    assert await history.newest("P-1", DAY + timedelta(days=1), 3) == []
