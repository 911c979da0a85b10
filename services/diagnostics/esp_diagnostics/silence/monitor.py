"""Raise alerts for silent pumps and gateways, by the clock.

The notifier checks every few seconds when each pump was last heard, so it works when no data arrive at all. A
pump with an old status but recent stored readings is not silent: diagnosis is behind.
"""

import asyncio
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import asyncpg
import structlog
from esp_common.database import OUTAGES, Connection, Pool
from prometheus_client import Gauge

from esp_diagnostics.alerts.model import Signal
from esp_diagnostics.alerts.rule_sets import load_rules
from esp_diagnostics.alerts.transitions import report
from esp_diagnostics.live.broadcast import LivePublisher
from esp_diagnostics.settings import DiagnosticsSettings
from esp_diagnostics.silence.rules import (
    GATEWAY_CONDITION,
    PUMP_CONDITION,
    Reporting,
    SilencePolicy,
    SilenceReport,
    find_silent,
)
from esp_diagnostics.silence.store import Gateway, GatewayActivity, PumpActivity, SilenceStore

log = structlog.get_logger()

_SILENT: Final = Gauge(
    "esp_diagnostics_silent", "Pumps in service, and gateways, that have sent nothing for too long.", ["what"]
)
_PUMP_ACTION: Final = "Check the gateway's link to this pump's drive and gauge, and site power."
_GATEWAY_ACTION: Final = "Check site power and network; the gateway then sends the readings in its spool."


def policy_of(settings: DiagnosticsSettings) -> SilencePolicy:
    """Return the silence policy of the settings."""
    return SilencePolicy(settings.no_data_intervals, settings.no_data_least_s, settings.no_data_interval_s)


async def monitor_silence(pool: Pool, live: LivePublisher, policy: SilencePolicy, period_s: float) -> None:
    """Check every `period_s` seconds until cancelled; skip checks while the database is unavailable."""
    while True:
        with suppress(*OUTAGES):
            try:
                async with pool.acquire() as connection, connection.transaction():
                    messages = await record_silence(connection, policy, datetime.now(UTC))
                await live.publish(messages)
            except asyncpg.PostgresError as error:
                log.warning("silence.delayed", reason=str(error))
        await asyncio.sleep(period_s)


async def record_silence(
    connection: Connection, policy: SilencePolicy, now: datetime
) -> list[Mapping[str, Any]]:
    """Record silent and returned pumps and gateways, with their alerts, in the caller's transaction.

    Return the live messages to publish after the commit. Several processes may run this at a time.
    """
    store = SilenceStore(connection)
    if not await store.try_lock():
        return []
    before = await store.reporting()
    stored = await _stored(store, before, policy, now)
    pumps = [pump._replace(newest=stored.get(pump.pump_id, pump.newest)) for pump in before]
    gateways = {each.gateway_id: each for each in await store.gateways()}
    known = await store.gateway_activity()
    returned = {each.gateway_id: each.returned_at for each in known.values() if each.returned_at}
    found = find_silent(pumps, {id_: each.pump_ids for id_, each in gateways.items()}, returned, policy, now)
    signals = await _record_pumps(store, pumps, stored, found, now)
    signals += await _record_gateways(store, gateways, known, found, now)
    _SILENT.labels("pump").set(len(found.pumps))
    _SILENT.labels("gateway").set(len(found.gateways))
    changes = await report(connection, signals, await load_rules(connection), now=now) if signals else []
    return [*await _statuses(store, pumps, found), *(change.live() for change in changes)]


async def _stored(
    store: SilenceStore, pumps: Sequence[Reporting], policy: SilencePolicy, now: datetime
) -> dict[str, datetime]:
    """Return the recent stored readings of pumps whose status is old."""
    after = {
        pump.pump_id: max(pump.newest, now - timedelta(seconds=policy.after_s(pump.interval_s)))
        for pump in pumps
        if (now - pump.newest).total_seconds() > policy.after_s(pump.interval_s) / 4
    }
    return await store.stored(after) if after else {}


async def _record_pumps(
    store: SilenceStore,
    pumps: Sequence[Reporting],
    stored: Collection[str],
    found: SilenceReport,
    now: datetime,
) -> list[Signal]:
    signals, notes = [], []
    for pump in pumps:
        silence = found.pumps.get(pump.pump_id)
        since, covered_by = silence or (None, None)
        had_alert = pump.silent_since is not None and pump.covered_by is None
        has_alert = silence is not None and covered_by is None
        if has_alert != had_alert:
            time = since or pump.newest
            signals.append(_pump_signal(pump.pump_id, pump.field_id, active=has_alert, time=time))
        if pump.pump_id in stored or (since, covered_by) != (pump.silent_since, pump.covered_by):
            notes.append(PumpActivity(pump.pump_id, pump.newest, since, covered_by))
    await store.record_pumps(notes)
    ended = await store.ended()
    signals += [_pump_signal(pump_id, field_id, active=False, time=now) for pump_id, field_id in ended]
    await store.forget_pumps([pump_id for pump_id, _ in ended])
    return signals


async def _record_gateways(
    store: SilenceStore,
    gateways: Mapping[str, Gateway],
    known: Mapping[str, GatewayActivity],
    found: SilenceReport,
    now: datetime,
) -> list[Signal]:
    signals, notes = [], []
    was_silent = {id_: each.silent_since for id_, each in known.items() if each.silent_since}
    for gateway_id in found.gateways.keys() - was_silent.keys():
        since = found.gateways[gateway_id]
        notes.append(GatewayActivity(gateway_id, since, None))
        signals.append(_gateway_signal(gateway_id, gateways, found, active=True, time=since))
    for gateway_id in was_silent.keys() - found.gateways.keys():
        notes.append(GatewayActivity(gateway_id, None, now))
        signals.append(_gateway_signal(gateway_id, gateways, found, active=False, time=now))
    await store.record_gateways(notes)
    return signals


def _pump_signal(pump_id: str, field_id: str | None, *, active: bool, time: datetime) -> Signal:
    return Signal(
        pump_id=pump_id,
        field_id=field_id,
        condition=PUMP_CONDITION,
        source="platform",
        active=active,
        severity="medium",
        time=time,
        title=f"No readings since {time:%Y-%m-%d %H:%M} UTC" if active else "Readings arrive again",
        action=_PUMP_ACTION,
    )


def _gateway_signal(
    gateway_id: str, gateways: Mapping[str, Gateway], found: SilenceReport, *, active: bool, time: datetime
) -> Signal:
    gateway = gateways.get(gateway_id)
    pumps = sum(silence.covered_by == gateway_id for silence in found.pumps.values())
    return Signal(
        pump_id=None,
        field_id=gateway.field_id if gateway else None,
        condition=GATEWAY_CONDITION,
        source="platform",
        active=active,
        severity="high",
        time=time,
        title=f"Gateway {gateway_id} has sent nothing since {time:%Y-%m-%d %H:%M} UTC: {pumps} pumps"
        if active
        else f"Gateway {gateway_id} sends again",
        action=_GATEWAY_ACTION,
        subject=gateway_id,
    )


async def _statuses(
    store: SilenceStore, pumps: Sequence[Reporting], found: SilenceReport
) -> list[dict[str, Any]]:
    """Return the live statuses of pumps that became silent or returned."""
    was = {pump.pump_id for pump in pumps if pump.silent_since is not None}
    changed = was ^ found.pumps.keys()
    return [_status(row, found) for row in await store.shown(changed)] if changed else []


def _status(row: Mapping[str, Any], found: SilenceReport) -> dict[str, Any]:
    message = {"kind": "status", **row, "hypotheses": []}
    silence = found.pumps.get(row["pump_id"])
    if silence is not None:
        message |= {"state": "unknown", "since": silence.since, "health": None}
    return message
