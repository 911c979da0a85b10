"""Read the records of pumps that a worker starts to monitor."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from esp_common.database import Pool

from esp_diagnostics.common.times import as_us
from esp_diagnostics.monitoring.effects import FoundSpan, settled_from
from esp_diagnostics.monitoring.pump_monitor import OpenFinding, Past
from esp_diagnostics.monitoring.store import findings as stored_findings
from esp_diagnostics.monitoring.store import models as stored_models
from esp_diagnostics.monitoring.store import states


async def read_pasts(pool: Pool, pump_ids: Sequence[str], since: datetime) -> dict[str, Past]:
    """Return the present records of pumps; conditions cleared before `since` are ignored."""
    async with pool.acquire() as connection, connection.transaction(readonly=True):
        found = await stored_findings.open_findings(connection, pump_ids)
        cleared = await stored_findings.last_cleared(connection, pump_ids, since - timedelta(days=1))
        spells = await states.open_spells(connection, pump_ids)
        snapshots = await states.read_snapshots(connection, pump_ids)
        models = await stored_models.active(connection, pump_ids)
        first = await states.first_spells(connection, pump_ids)
    by_pump = _by_pump(found)
    settled = settled_from((key, as_us(at)) for key, at in cleared.items())
    return {
        pump_id: Past(
            findings=by_pump.get(pump_id, ()),
            spell=(as_us(spells[pump_id][0]), spells[pump_id][1]) if pump_id in spells else None,
            settled=settled.get(pump_id),
            snapshot=snapshots[pump_id][0] if pump_id in snapshots else None,
            through_us=as_us(snapshots[pump_id][1]) if pump_id in snapshots else 0,
            model=models[pump_id][1] if pump_id in models else None,
            began_us=as_us(first[pump_id]) if pump_id in first else None,
        )
        for pump_id in pump_ids
    }


async def read_pasts_at(pool: Pool, times: Mapping[str, datetime]) -> dict[str, Past]:
    """Return the record of each pump at its given time, without its state."""
    pump_ids, at = list(times), list(times.values())
    async with pool.acquire() as connection, connection.transaction(readonly=True):
        found = await stored_findings.open_at(connection, pump_ids, at)
        cleared = await stored_findings.cleared_by(connection, pump_ids, at)
        after = await stored_findings.found_after(connection, pump_ids, at)
        spells = await states.spells_at(connection, pump_ids, at)
        models = await stored_models.active(connection, pump_ids)
    by_pump = _by_pump(found)
    settled = settled_from((key, as_us(time)) for key, time in cleared.items())
    later = _spans_by_pump(after)
    return {
        pump_id: Past(
            findings=by_pump.get(pump_id, ()),
            spell=(as_us(spells[pump_id][0]), spells[pump_id][1]) if pump_id in spells else None,
            settled=settled.get(pump_id),
            later=later.get(pump_id, ()),
            model=models[pump_id][1] if pump_id in models else None,
        )
        for pump_id in pump_ids
    }


def _spans_by_pump(rows: Sequence[stored_findings.Row]) -> dict[str, list[FoundSpan]]:
    spans: dict[str, list[FoundSpan]] = {}
    for row in rows:
        until_us = None if row["cleared_at"] is None else as_us(row["cleared_at"])
        span = FoundSpan(row["condition"], as_us(row["onset"]), until_us)
        spans.setdefault(row["pump_id"], []).append(span)
    return spans


def _by_pump(rows: Sequence[stored_findings.Row]) -> dict[str, list[OpenFinding]]:
    found: dict[str, list[OpenFinding]] = {}
    for row in rows:
        found.setdefault(row["pump_id"], []).append(
            OpenFinding(**{name: row[name] for name in OpenFinding._fields})
        )
    return found
