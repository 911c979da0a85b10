"""The schema that every part of diagnostics shares, on each storage engine."""

from typing import Any

import asyncpg
import pytest
from esp_diagnostics.pumps import store as pumps
from esp_diagnostics.store.migrations import migrate


@pytest.fixture(scope="module")
async def connection(fleet_on_engine: Any) -> Any:
    """A connection of the service's own role."""
    connection = await asyncpg.connect(fleet_on_engine.url())
    yield connection
    await connection.close()


def test_migrating_again_changes_nothing(fleet_on_engine: Any) -> None:
    assert migrate(fleet_on_engine.url("esp_diagnostics_owner")) == fleet_on_engine.engine


async def test_only_changed_nameplates_are_copied(fleet_on_engine: Any, connection: Any) -> None:
    assert sorted(await pumps.copy_nameplates(connection)) == [f"P-{n}" for n in range(1, 7)]
    assert await pumps.copy_nameplates(connection) == []

    await fleet_on_engine.rows("UPDATE ingest.pumps SET stages = 260 WHERE pump_id = 'P-2'")
    assert await pumps.copy_nameplates(connection) == ["P-2"]
    row = (await fleet_on_engine.rows("SELECT * FROM diagnostics.pumps WHERE pump_id = 'P-2'"))[0]
    assert '"stages": 260' in row["nameplate"]
    assert (row["field_id"], row["well_id"]) == ("north", "W-2")


async def test_a_removed_pump_keeps_its_row_and_may_return(fleet_on_engine: Any, connection: Any) -> None:
    await pumps.copy_nameplates(connection)
    await fleet_on_engine.rows("DELETE FROM ingest.pumps WHERE pump_id = 'P-6'")
    assert await pumps.copy_nameplates(connection) == ["P-6"]
    removed = "SELECT removed_at FROM diagnostics.pumps WHERE pump_id = 'P-6'"
    assert await fleet_on_engine.value(removed) is not None

    await fleet_on_engine.rows("INSERT INTO ingest.pumps (pump_id, well_id) VALUES ('P-6', 'W-6')")
    assert await pumps.copy_nameplates(connection) == ["P-6"]
    assert await fleet_on_engine.value(removed) is None


@pytest.mark.parametrize("role", ["esp_ingest", "esp_archiver"])
async def test_no_other_service_reads_the_tables(fleet_on_engine: Any, role: str) -> None:
    connection = await asyncpg.connect(fleet_on_engine.url(role))
    try:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.fetch("SELECT * FROM diagnostics.pumps")
    finally:
        await connection.close()


async def test_pumps_are_loaded_with_curve_factors_and_overrides(connection: Any) -> None:
    await pumps.copy_nameplates(connection)
    await connection.execute(
        """
        UPDATE diagnostics.pumps SET extras = '{"oil_api": 32}', head_factor = 0.96 WHERE pump_id = 'P-3';
        INSERT INTO diagnostics.rule_overrides VALUES ('P-3', 'wear.head_loss', 0.12, 'ann')
        """
    )
    pump, unknown = await pumps.load(connection, ["P-3", "P-6", "nobody's"])
    spec = pump.spec
    assert (spec.field_id, spec.motor_rated_kw, spec.setting_depth_ft) == ("north", 60, 6000)
    assert (spec.extras, spec.overrides) == ({"oil_api": 32}, {"wear.head_loss": 0.12})
    assert spec.installed is not None
    assert (spec.installed.stages, spec.installed.head_factor, spec.installed.flow_factor) == (250, 0.96, 1)
    assert spec.installed.curve.model == "AN550"
    assert unknown.spec.installed is None
