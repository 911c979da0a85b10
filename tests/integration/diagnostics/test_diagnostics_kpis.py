"""Key figures over HTTP, from spells, aggregates of readings on each engine, and health."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import numpy as np
import pytest
from esp_common.database import create_pool
from esp_common.errors import InvalidInput, NotFound
from esp_diagnostics.kpis.kpis import Kpis
from esp_diagnostics.kpis.store import KpiStore
from esp_diagnostics.pumps.registry import Nameplates
from esp_diagnostics.settings import DiagnosticsSettings

DAY = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=2)
SPELLS = """
INSERT INTO diagnostics.state_log (pump_id, started_at, state, ended_at, trip_code)
SELECT pump_id, $1::timestamptz + begins * i, state, $1::timestamptz + ends * i, trip_code
FROM (VALUES
    ('P-1', -240, 'running', 6, 0),
    ('P-1', 6, 'off', 12, 27),
    ('P-1', 12, 'starting', 12.5, NULL),
    ('P-1', 12.5, 'running', NULL, NULL),
    ('P-2', 0, 'off', NULL, NULL)
) AS spells (pump_id, begins, state, ends, trip_code), (SELECT interval '1 hour') AS hour (i)
"""


@pytest.fixture(scope="module")
async def kpis(fleet_on_engine: Any) -> AsyncIterator[Kpis]:
    """Figures of a fleet in which P-1 ran but for six hours of a day, and P-2 not at all."""
    for share, start, n in ((1.0, 0, 360), (0.0, 360, 360), (1.0, 720, 720)):
        await fleet_on_engine.store(
            "P-1",
            DAY + timedelta(minutes=start),
            {"flow_rate_bpd": np.full(n, 2400 * share), "active_power_kw": np.full(n, 50 * share)},
            running=bool(share),
        )
    settings = DiagnosticsSettings(database_url=fleet_on_engine.url())
    async with await create_pool(settings, role="test", max_size=2) as pool:
        await Nameplates(pool, 3600).copy()
        await fleet_on_engine.rows(SPELLS, DAY)
        yield Kpis(KpiStore(pool), 0.4)


async def test_figures_of_a_pump_for_one_day(kpis: Kpis) -> None:
    found = await kpis.of_pump("P-1", DAY, DAY + timedelta(days=1))
    assert found["grain"] == "hours"
    assert (found["uptime"], found["uptime_known"]) == (0.75, 1)
    assert (found["starts"], found["trips"]) == (1, 1)
    assert found["produced_bbl"] == pytest.approx(1800, rel=0.01)
    assert found["deferred_bbl"] == pytest.approx(600, rel=0.01)
    assert found["usual_rate_bpd"] == pytest.approx(2400)
    assert found["energy_kwh"] == pytest.approx(900, rel=0.01)
    assert found["kwh_per_bbl"] == pytest.approx(0.5)
    assert found["co2e_kg"] == pytest.approx(360, rel=0.01)
    life = found["run_life"]
    assert (life["days"], life["ended"]) == (11, False)
    assert life["up_since"] == DAY + timedelta(hours=12)


async def test_figures_of_a_field_sum_its_pumps(kpis: Kpis) -> None:
    found = await kpis.of_field("north", DAY, DAY + timedelta(days=1))
    pumps = {pump["pump_id"]: pump for pump in found["pumps"]}
    assert pumps.keys() == {"P-1", "P-2", "P-3", "P-4"}
    assert found["uptime"] == pytest.approx((18 + 0) / 48)
    assert found["uptime_known"] == pytest.approx(0.5)
    assert found["produced_bbl"] == pytest.approx(1800, rel=0.01)
    assert (pumps["P-2"]["uptime"], pumps["P-3"]["uptime"]) == (0, None)
    assert found["mean_life"]["failures"] == 0
    assert found["mean_life"]["censored"] == 1


async def test_a_long_span_uses_daily_aggregates(kpis: Kpis) -> None:
    found = await kpis.of_field("north", DAY - timedelta(days=30), DAY + timedelta(days=1))
    assert found["grain"] == "days"
    assert found["produced_bbl"] == pytest.approx(1800, rel=0.01)
    # No day ran throughout, so nothing tells what is usual.
    assert (found["usual_rate_bpd"], found["deferred_bbl"]) == (None, 0)


@pytest.mark.parametrize("days", [0, -1, 401], ids=["empty", "reversed", "too-long"])
async def test_an_invalid_span_is_rejected(days: int, kpis: Kpis) -> None:
    with pytest.raises(InvalidInput):
        await kpis.of_pump("P-1", DAY - timedelta(days=days), DAY)


async def test_unknown_pumps_and_fields_are_not_found(kpis: Kpis) -> None:
    for asked in (
        kpis.of_pump("P-99", DAY, DAY + timedelta(days=1)),
        kpis.of_field("x", DAY, datetime.now(UTC)),
    ):
        with pytest.raises(NotFound):
            await asked


async def test_figures_are_served_with_the_stored_health(diagnostics_api: Any) -> None:
    terms = '[{"term": "finding scale", "points": 20, "value": 0.8, "unit": "", "why": "medium finding"}]'
    await diagnostics_api.rows(
        "INSERT INTO diagnostics.pump_status"
        " (pump_id, field_id, time, state, since, latest, health, health_terms)"
        " VALUES ('P-4', 'north', now(), 'running', now(), '{}', 80, $1::text::jsonb)",
        terms,
    )
    client: httpx.AsyncClient = diagnostics_api.client
    pump = await client.get("/api/v1/pumps/P-4/kpis")
    assert pump.status_code == 200
    assert pump.json()["health"]["score"] == 80
    assert pump.json()["health"]["terms"][0]["term"] == "finding scale"
    assert pump.json()["uptime"] is None
    field = await client.get("/api/v1/fields/north/kpis")
    assert (field.status_code, field.json()["health"]) == (200, 80)
    assert (await client.get("/api/v1/fields/atlantis/kpis")).status_code == 404
    reversed_ = {"from": "2026-01-02T00:00:00Z", "to": "2026-01-01T00:00:00Z"}
    assert (await client.get("/api/v1/pumps/P-4/kpis", params=reversed_)).status_code == 422
    assert (await diagnostics_api.bare.get("/api/v1/pumps/P-4/kpis")).status_code == 401
    auditor = diagnostics_api.token("auditor")
    assert (await diagnostics_api.bare.get("/api/v1/pumps/P-4/kpis", headers=auditor)).status_code == 403
