"""What is archived is what there was; what comes late, goes wrong or is done twice changes nothing of that."""

from datetime import date, timedelta
from typing import Any

import duckdb
import pytest
from azure.storage.blob import ContainerClient

CHANNELS = ("intake_pressure_psi", "motor_temp_c", "vibration_x_g")


async def source_rows(archive: Any, pump_id: str, day: date) -> list[dict[str, Any]]:
    rows = await archive.admin.fetch(
        "SELECT * FROM telemetry_v1.readings WHERE pump_id = $1 AND time >= $2::date AND time < $2::date + 1 ORDER BY time",
        pump_id,
        day,
    )
    left_out = ("field_id", "fault_mask", "frozen_mask")
    return [{name: value for name, value in row.items() if name not in left_out} for row in rows]


async def test_a_day_is_archived_by_field_and_reads_back_as_it_was(
    archive_of_each_engine: Any, new_day: date
) -> None:
    archive = archive_of_each_engine
    await archive.add(new_day)
    before = {pump: await source_rows(archive, pump, new_day) for pump in ("P-1", "P-3")}
    outcome = await archive.run()
    assert (outcome.days, outcome.parts, outcome.rows, outcome.problems) == (1, 2, 3 * 1440, [])
    folder = f"year={new_day:%Y}/month={new_day:%m}/day={new_day:%d}/part-0000.parquet"
    assert set(await archive.names()) >= {f"telemetry/v1/field={name}/{folder}" for name in ("north", "south")}
    (event,) = await archive.events()
    assert await archive.settle(event) is None, "ingest finds the same and drops it"
    for pump, rows in before.items():
        assert await archive.read(pump, new_day) == rows
    assert await source_rows(archive, "P-1", new_day) == []
