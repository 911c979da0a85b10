"""What is stored of a pump that is judged twice at a time: its newest readings, and those of its past."""

from datetime import UTC, datetime, timedelta

import asyncpg
from esp_diagnostics.monitoring.store.states import Status, put_statuses

NOW = datetime(2026, 3, 4, 12, tzinfo=UTC)


def status(pump_id: str, age: timedelta, state: str) -> Status:
    time = NOW - age
    return Status(pump_id, "north", time, state, time, "{}", "{}", "{}", 90.0, "[]", "[]", "[]", False, None)


async def test_newest_of_two_statuses_of_a_pump_is_stored_with_those_of_the_others(fleet) -> None:
    connection = await asyncpg.connect(fleet.database.url("esp_diagnostics"))
    try:
        day = timedelta(days=1)
        live, past, other = (
            status("P-1", timedelta(), "running"),
            status("P-1", day, "off"),
            status("P-2", day, "off"),
        )
        await put_statuses(connection, [live, other, past], "1")
    finally:
        await connection.close()
    rows = await fleet.rows("SELECT pump_id, time, state FROM diagnostics.pump_status ORDER BY pump_id")
    assert list(map(tuple, rows)) == [("P-1", NOW, "running"), ("P-2", NOW - day, "off")]
