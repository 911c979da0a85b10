"""Apply signals and the passage of time to stored alerts.

The rules of the life cycle are in `esp_diagnostics.alerts.lifecycle`.
"""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import uuid4

from esp_common import outbox
from esp_common.database import Connection

from esp_diagnostics.alerts import lifecycle
from esp_diagnostics.alerts.model import PUMP_OUT_OF_SERVICE, Alert, Handling, Signal
from esp_diagnostics.alerts.rules import AlertRules
from esp_diagnostics.alerts.store import AlertStore, FloodStore
from esp_diagnostics.alerts.transaction import FLOOD_ENDED, AlertChange, AlertTransaction, event, in_flood

TIME_BATCH: Final = 500


async def report(
    connection: Connection, signals: Sequence[Signal], rules: AlertRules, *, now: datetime | None = None
) -> list[AlertChange]:
    """Apply `signals` to the stored alerts in the caller's transaction; return the changes in order.

    Write the alerts, their log, events on esp.events and notices on esp.alerts (outbox). Repeated and older
    signals change nothing. `rules`: from `load_rules`; `now`: default is the current time.
    """
    if not signals:
        return []
    store = AlertStore(connection)
    known = await store.latest({signal.key for signal in signals})
    idle = await store.out_of_service({signal.pump_id for signal in signals if signal.pump_id})
    transaction = AlertTransaction(store, connection, rules, now or datetime.now(UTC))
    for signal in sorted(signals, key=lambda signal: signal.time):
        before = known.get(signal.key)
        after = _signalled(before, signal, rules, signal.pump_id in idle, transaction.now)
        transaction.take(before, after, signal.time)
        if after is not None:
            known[signal.key] = after
        else:
            known.pop(signal.key, None)
    return await transaction.commit()


def _signalled(
    before: Alert | None, signal: Signal, rules: AlertRules, idle: bool, now: datetime
) -> Alert | None:
    handling = rules.handling(signal.condition, signal.severity)
    if handling is None:
        # The rules no longer raise an alert for this condition, so clear an open one.
        if before is None:
            return None
        signal, handling = replace(signal, active=False), Handling(before.priority)
    if idle and signal.suppressed_by is None:
        signal = replace(signal, suppressed_by=PUMP_OUT_OF_SERVICE)
    return lifecycle.signalled(before, signal, handling, alert_id=uuid4(), now=now)


async def pass_time(connection: Connection, rules: AlertRules, now: datetime) -> list[AlertChange]:
    """Apply everything due at `now` in the caller's transaction: delays, shelving, closing, floods.

    Suppress the alerts of pumps taken out of service, and release those of pumps returned to service. Several
    processes may run this at a time: each locks alerts that no other has. Return the changes.
    """
    store = AlertStore(connection)
    transaction = AlertTransaction(store, connection, rules, now)
    due = await store.due(now, rules.rest_s, TIME_BATCH)
    idle = await store.out_of_service({alert.pump_id for alert in due if alert.pump_id})
    for before in due:
        after = _in_service(lifecycle.after_time(before, now, rest_s=rules.rest_s), before.pump_id in idle)
        transaction.take(before, after, now if before.due_at is None else before.signalled_at)
    changes = await transaction.commit()
    await _end_floods(connection, rules, now)
    return changes


def _in_service(alert: Alert, idle: bool) -> Alert:
    if idle and alert.active and alert.suppressed_by is None:
        return replace(alert, suppressed_by=PUMP_OUT_OF_SERVICE)
    if not idle and alert.suppressed_by == PUMP_OUT_OF_SERVICE:
        return replace(alert, suppressed_by=None)
    return alert


async def _end_floods(connection: Connection, rules: AlertRules, now: datetime) -> None:
    store = FloodStore(connection)
    flooded = await store.floods()
    if not flooded:
        return
    counts = await store.annunciated_since(flooded, now - timedelta(seconds=rules.flood.window_s))
    for field_id in sorted(flooded):
        if not in_flood(counts.get(field_id, 0), rules, was_in_flood=True):
            await store.end_flood(field_id, now)
            over = event(FLOOD_ENDED, field_id, {"field_id": field_id, "time": now})
            await outbox.enqueue_all(connection, [over])
