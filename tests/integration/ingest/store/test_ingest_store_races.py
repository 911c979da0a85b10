"""Parallel writers of one pump and instant: none overwrites another, and none loses a value unnoticed."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import numpy as np
from esp_ingest.domain.readings import Quarantined, Reason
from esp_ingest.store.batch import Batch, Conflicts
from waiting import until

BatchOf = Callable[..., Batch]

WAITING = """
SELECT count(DISTINCT pid) FROM pg_locks JOIN pg_stat_activity USING (pid)
WHERE NOT granted AND datname = current_database()
"""


@asynccontextmanager
async def row_locked(stored: Any, pump_no: int, time: datetime) -> AsyncIterator[None]:
    """Hold the stored row's lock while inside, so that whoever merges into it waits."""
    async with stored.owner.acquire() as connection, connection.transaction():
        query = "SELECT 1 FROM ingest.telemetry WHERE pump_no = $1 AND time = $2 FOR UPDATE"
        assert await connection.fetchval(query, pump_no, time)
        yield


async def test_two_writers_that_add_different_values_do_not_both_pass(stored: Any, batch_of: BatchOf) -> None:
    """Both compare before either has merged, unless they are serialised: the second value would be lost."""
    key = (7, datetime.now(UTC).replace(second=0, microsecond=0))
    refused: list[int] = []

    def refusing(current: int) -> Callable[[Conflicts], list[Quarantined]]:
        def refuse(conflicts: Conflicts) -> list[Quarantined]:
            assert np.array_equal(conflicts.positions, [0])
            refused.append(current)
            row = (uuid4(), "gw", None, "P-7", key[1], Reason.CONFLICT, "", {"motor_current_a": current})
            return [Quarantined(*row)]

        return refuse

    async def write(current: int) -> Any:
        return await stored.write(batch_of([key], motor_current_a=current), on_conflict=refusing(current))

    await stored.write(batch_of([key], intake_pressure_psi=100))
    async with row_locked(stored, *key):
        writers = [asyncio.create_task(write(current)) for current in (41, 42)]
        await until(lambda: _waiting(stored, 2), "both writers wait for the row or for each other")
    await asyncio.gather(*writers)
    [kept] = await stored.rows(
        "SELECT intake_pressure_psi, motor_current_a FROM ingest.telemetry WHERE pump_no = $1 AND time = $2",
        *key,
    )
    assert {kept["motor_current_a"], *refused} == {41, 42}, "one is kept, the other refused"
    assert (kept["intake_pressure_psi"], len(refused)) == (100, 1)


async def _waiting(stored: Any, writers: int) -> bool:
    return bool(await stored.value(WAITING) == writers)
