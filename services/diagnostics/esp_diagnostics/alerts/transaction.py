"""Write transitions of alerts in one transaction, with log, events and notices."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

import structlog
from esp_common import outbox, topology
from esp_common.contracts.events import Event
from esp_common.database import Connection
from esp_common.outbox import Outgoing
from prometheus_client import Counter

from esp_diagnostics.alerts import comparison
from esp_diagnostics.alerts.model import Alert, Notice, TransitionKind
from esp_diagnostics.alerts.rules import AlertRules
from esp_diagnostics.alerts.store import AlertStore, FloodStore
from esp_diagnostics.settings import SERVICE

log = structlog.get_logger()

FLOOD_BEGAN: Final = "alert.flood-began"

FLOOD_ENDED: Final = "alert.flood-ended"

_CHANGES: Final = Counter(
    "esp_diagnostics_alert_changes_total", "Transitions of alerts.", ["what", "priority"]
)


@dataclass(frozen=True, slots=True)
class AlertChange:
    """One transition; `alert` is the alert after it."""

    what: TransitionKind
    alert: Alert
    time: datetime
    actor: str | None = None
    detail: Mapping[str, Any] = field(default_factory=dict)

    def live(self) -> dict[str, Any]:
        """Return the message for `esp_diagnostics.live.broadcast.LivePublisher`."""
        return {
            "kind": "alert",
            "pump_id": self.alert.pump_id,
            "field_id": self.alert.field_id,
            "time": self.time,
            "alert_id": str(self.alert.alert_id),
            "change": self.what.value,
            "condition": self.alert.condition,
            "priority": self.alert.priority,
            "state": self.alert.state.value,
            "title": self.alert.title,
        }


class AlertTransaction:
    """Collect transitions, then write alerts, log, events and notices in one transaction."""

    def __init__(
        self,
        store: AlertStore,
        connection: Connection,
        rules: AlertRules,
        now: datetime,
        actor: str | None = None,
    ) -> None:
        self._store = store
        self._floods = FloodStore(connection)
        self._connection = connection
        self._rules = rules
        self.now = now
        self._actor = actor
        self._written: dict[UUID, Alert] = {}
        self._dropped: set[UUID] = set()
        self._changes: list[AlertChange] = []
        self._log: list[dict[str, Any]] = []
        self._notices: list[tuple[Notice, AlertChange]] = []
        self._outgoing: list[Outgoing] = []

    def take(
        self,
        before: Alert | None,
        after: Alert | None,
        time: datetime,
        detail: Mapping[str, Any] | None = None,
    ) -> None:
        """Add a transition; `time`: when it happened, `detail`: given by the operator."""
        if after is None:
            if before is not None and before.occurrences == 0:
                self._written.pop(before.alert_id, None)
                self._dropped.add(before.alert_id)
            return
        if after == before:
            return
        if before is not None and before.alert_id != after.alert_id:
            before = None
        after = replace(after, updated_at=self.now)
        self._written[after.alert_id] = after
        notice = comparison.notice(before, after)
        for what in comparison.changes(before, after):
            self._add(
                AlertChange(what, after, time, self._actor, detail or _detail(what, before, after)), notice
            )
            notice = None  # one notice for changes that coincide

    def comment(self, alert: Alert, text: str) -> None:
        self._add(AlertChange(TransitionKind.COMMENTED, alert, self.now, self._actor, {"text": text}), None)

    def _add(self, change: AlertChange, notice: Notice | None) -> None:
        alert = change.alert
        self._changes.append(change)
        self._log.append(
            {
                "alert_id": alert.alert_id,
                "pump_id": alert.pump_id,
                "field_id": alert.field_id,
                "condition": alert.condition,
                "what": change.what,
                "notice": notice,
                "priority": alert.priority,
                "state": alert.state,
                "time": change.time,
                "logged_at": self.now,
                "actor": change.actor,
                "detail": change.detail,
            }
        )
        if notice is not None:
            self._notices.append((notice, change))

    async def commit(self) -> list[AlertChange]:
        """Write everything and enqueue events and notices; return the changes."""
        if self._dropped:
            await self._store.drop(self._dropped)
        if self._written:
            await self._store.write(self._written.values())
        if self._log:
            await self._store.log(self._log)
        for change in self._changes:
            _CHANGES.labels(change.what, change.alert.priority).inc()
            data = {
                **document(change.alert),
                "change": change.what,
                "actor": change.actor,
                "detail": change.detail,
            }
            self._outgoing.append(event(f"alert.{change.what}", str(change.alert.alert_id), data))
        await self._notify()
        await outbox.enqueue_all(self._connection, self._outgoing)
        return self._changes

    async def _notify(self) -> None:
        """Enqueue notices, except those held back during a flood."""
        flooded = await self._flooded()
        for notice, change in self._notices:
            alert = change.alert
            if alert.field_id in flooded and not comparison.notified_in_flood(alert.priority):
                continue
            data = {**document(alert), "notice": notice, "time": change.time}
            self._outgoing.append(notice_message(f"{notice}.{alert.priority}", str(alert.alert_id), data))

    async def _flooded(self) -> set[str]:
        """Return which fields with new alerts are in a flood; record and announce floods that begin."""
        fields = {
            change.alert.field_id
            for notice, change in self._notices
            if notice is Notice.RAISED and change.alert.field_id
        }
        if not fields:
            return set()
        window_s = self._rules.flood.window_s
        flooded = await self._floods.floods(fields)
        counts = await self._floods.annunciated_since(fields, self.now - timedelta(seconds=window_s))
        for field_id in sorted(fields):
            count = counts.get(field_id, 0)
            if field_id in flooded:
                await self._floods.grow_flood(field_id, count)
            elif in_flood(count, self._rules, was_in_flood=False):
                flooded.add(field_id)
                if await self._floods.begin_flood(field_id, self.now, count):
                    self._announce_flood(field_id, count, window_s)
        return flooded

    def _announce_flood(self, field_id: str, count: int, window_s: float) -> None:
        log.warning("alert.flood", field_id=field_id, alerts=count, window_s=window_s)
        data = {"field_id": field_id, "time": self.now, "alarms": count, "window_s": window_s}
        self._outgoing.append(event(FLOOD_BEGAN, field_id, data))
        message = {
            **data,
            "notice": "flood",
            "priority": "high",
            "title": f"Alert flood in field {field_id}: {count} alerts in {window_s / 60:g} min",
            "action": "Look for a common cause (power, a shared line). Notices below high are held back.",
        }
        self._outgoing.append(notice_message("flood.high", field_id, message))


def _detail(what: TransitionKind, before: Alert | None, after: Alert) -> dict[str, Any]:
    """Return the detail of a log entry."""
    match what:
        case TransitionKind.RAISED:
            return {"severity": after.severity, "occurrence": after.occurrences, "title": after.title}
        case TransitionKind.CHANGED if before is not None:
            return {
                "priority": [before.priority, after.priority],
                "severity": [before.severity, after.severity],
            }
        case TransitionKind.SUPPRESSED:
            return {"by": after.suppressed_by}
    return {}


def document(alert: Alert) -> dict[str, Any]:
    """Return an alert as published in events and responses."""
    fields = asdict(alert)
    del fields["due_at"], fields["signalled_at"]
    return {**fields, "state": alert.state}


def event(type_: str, subject: str, data: Mapping[str, Any]) -> Outgoing:
    """Return an event for other services."""
    return Outgoing(Event(type_, SERVICE, subject, data), topology.EVENTS)


def notice_message(key: str, subject: str, data: Mapping[str, Any]) -> Outgoing:
    """Return a notice for people."""
    return Outgoing(Event("alert.notice", SERVICE, subject, data), topology.ALERTS, f"alert.{key}")


def in_flood(count: int, rules: AlertRules, *, was_in_flood: bool) -> bool:
    """Return whether `count` alerts in the window are a flood under `rules`."""
    return comparison.in_flood(
        count,
        was_in_flood=was_in_flood,
        begins_above=rules.flood.begins_above,
        ends_below=rules.flood.ends_below,
    )
