"""Alerts: what signals, people and time do to them, in one transaction with log, events and messages.

The life cycle itself is in `esp_diagnostics.alerts.lifecycle`. Here it is applied to the stored alerts.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID, uuid4

import structlog
from esp_common import audit, outbox, topology
from esp_common.contracts.events import Event
from esp_common.database import Connection, Pool
from esp_common.errors import Conflict, NotFound
from esp_common.outbox import Outgoing
from prometheus_client import Counter

from esp_diagnostics.alerts import lifecycle
from esp_diagnostics.alerts.lifecycle import PUMP_OUT_OF_SERVICE, Alarm, Handling, Notice, Signal, What
from esp_diagnostics.alerts.rules import (
    AlertRules,
    AlertRulesInvalid,
    load_alert_rules,
    shipped_alert_rules,
    shipped_text,
)
from esp_diagnostics.alerts.store import AlertStore
from esp_diagnostics.live.broadcast import LivePublisher
from esp_diagnostics.settings import SERVICE

log = structlog.get_logger()

TIME_BATCH: Final = 500
RULES_CHANGED: Final = "alert.rules-changed"
FLOOD_BEGAN: Final = "alert.flood-began"
FLOOD_ENDED: Final = "alert.flood-ended"

_CHANGES: Final = Counter(
    "esp_diagnostics_alert_changes_total", "What happened to alerts.", ["what", "priority"]
)


@dataclass(frozen=True, slots=True)
class AlertChange:
    """Something that happened to an alert; `alarm` is as it is afterwards."""

    what: What
    alarm: Alarm
    time: datetime
    actor: str | None = None
    detail: Mapping[str, Any] = field(default_factory=dict)

    def live(self) -> dict[str, Any]:
        """Return the message for `esp_diagnostics.live.broadcast.LivePublisher`."""
        return {
            "kind": "alert",
            "pump_id": self.alarm.pump_id,
            "field_id": self.alarm.field_id,
            "time": self.time,
            "alert_id": str(self.alarm.alert_id),
            "change": self.what.value,
            "condition": self.alarm.condition,
            "priority": self.alarm.priority,
            "state": self.alarm.state.value,
            "title": self.alarm.title,
        }


async def report(
    connection: Connection, signals: Sequence[Signal], rules: AlertRules, *, now: datetime | None = None
) -> list[AlertChange]:
    """Apply `signals` to the stored alerts in the caller's transaction; return what changed, in order.

    Writes the alerts, their log, events on esp.events and messages on esp.alerts (outbox). The same signal
    twice, or an older one, changes nothing. `rules`: of `load_rules`; `now`: None is the clock's.
    """
    if not signals:
        return []
    store = AlertStore(connection)
    known = await store.latest({signal.key for signal in signals})
    idle = await store.out_of_service({signal.pump_id for signal in signals if signal.pump_id})
    desk = _Desk(store, connection, rules, now or datetime.now(UTC))
    for signal in sorted(signals, key=lambda signal: signal.time):
        before = known.get(signal.key)
        after = _signalled(before, signal, rules, signal.pump_id in idle, desk.now)
        desk.take(before, after, signal.time)
        if after is not None:
            known[signal.key] = after
        else:
            known.pop(signal.key, None)
    return await desk.settle()


def _signalled(
    before: Alarm | None, signal: Signal, rules: AlertRules, idle: bool, now: datetime
) -> Alarm | None:
    handling = rules.handling(signal.condition, signal.severity)
    if handling is None:
        # The rules want no alert for it (any more): one that there is, is over.
        if before is None:
            return None
        signal, handling = replace(signal, active=False), Handling(before.priority)
    if idle and signal.suppressed_by is None:
        signal = replace(signal, suppressed_by=PUMP_OUT_OF_SERVICE)
    return lifecycle.signalled(before, signal, handling, alert_id=uuid4(), now=now)


async def pass_time(connection: Connection, rules: AlertRules, now: datetime) -> list[AlertChange]:
    """Do what is due by `now`, in the caller's transaction: delays, shelvings, alerts at rest, floods.

    Pumps that were taken out of service, or returned, have their alerts suppressed, or not. Any number of
    processes may do it: each takes alerts that nobody else has. Returns what changed.
    """
    store = AlertStore(connection)
    desk = _Desk(store, connection, rules, now)
    due = await store.due(now, rules.rest_s, TIME_BATCH)
    idle = await store.out_of_service({alarm.pump_id for alarm in due if alarm.pump_id})
    for before in due:
        after = _in_service(lifecycle.after_time(before, now, rest_s=rules.rest_s), before.pump_id in idle)
        desk.take(before, after, now if before.due_at is None else before.signalled_at)
    changes = await desk.settle()
    await _end_floods(store, connection, rules, now)
    return changes


def _in_service(alarm: Alarm, idle: bool) -> Alarm:
    if idle and alarm.active and alarm.suppressed_by is None:
        return replace(alarm, suppressed_by=PUMP_OUT_OF_SERVICE)
    if not idle and alarm.suppressed_by == PUMP_OUT_OF_SERVICE:
        return replace(alarm, suppressed_by=None)
    return alarm


async def _end_floods(store: AlertStore, connection: Connection, rules: AlertRules, now: datetime) -> None:
    flooded = await store.floods()
    if not flooded:
        return
    counts = await store.annunciated_since(flooded, now - timedelta(seconds=rules.flood.window_s))
    for field_id in sorted(flooded):
        if not _floods(counts.get(field_id, 0), rules, was_in_flood=True):
            await store.end_flood(field_id, now)
            over = _event(FLOOD_ENDED, field_id, {"field_id": field_id, "time": now})
            await outbox.enqueue_all(connection, [over])


def _floods(count: int, rules: AlertRules, *, was_in_flood: bool) -> bool:
    return lifecycle.in_flood(
        count,
        was_in_flood=was_in_flood,
        begins_above=rules.flood.begins_above,
        ends_below=rules.flood.ends_below,
    )


class _Desk:
    """Takes what becomes of alerts in one transaction, and writes it down with all that follows from it."""

    def __init__(
        self,
        store: AlertStore,
        connection: Connection,
        rules: AlertRules,
        now: datetime,
        actor: str | None = None,
    ) -> None:
        self._store = store
        self._connection = connection
        self._rules = rules
        self.now = now
        self._actor = actor
        self._written: dict[UUID, Alarm] = {}
        self._dropped: set[UUID] = set()
        self._changes: list[AlertChange] = []
        self._log: list[dict[str, Any]] = []
        self._notices: list[tuple[Notice, AlertChange]] = []
        self._outgoing: list[Outgoing] = []

    def take(
        self,
        before: Alarm | None,
        after: Alarm | None,
        time: datetime,
        detail: Mapping[str, Any] | None = None,
    ) -> None:
        """Take one step of an alert; `time`: when it happened, `detail`: what people said with it."""
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
        told = lifecycle.notice(before, after)
        for what in lifecycle.changes(before, after):
            self._add(
                AlertChange(what, after, time, self._actor, detail or _detail(what, before, after)), told
            )
            told = None  # people are told once of what comes together

    def comment(self, alarm: Alarm, text: str) -> None:
        """Take a remark on an alert."""
        self._add(AlertChange(What.COMMENTED, alarm, self.now, self._actor, {"text": text}), None)

    def _add(self, change: AlertChange, told: Notice | None) -> None:
        alarm = change.alarm
        self._changes.append(change)
        self._log.append(
            {
                "alert_id": alarm.alert_id,
                "pump_id": alarm.pump_id,
                "field_id": alarm.field_id,
                "condition": alarm.condition,
                "what": change.what,
                "notice": told,
                "priority": alarm.priority,
                "state": alarm.state,
                "time": change.time,
                "logged_at": self.now,
                "actor": change.actor,
                "detail": change.detail,
            }
        )
        if told is not None:
            self._notices.append((told, change))

    async def settle(self) -> list[AlertChange]:
        """Write everything down, tell services and people, and return what happened."""
        if self._dropped:
            await self._store.drop(self._dropped)
        if self._written:
            await self._store.write(self._written.values())
        if self._log:
            await self._store.log(self._log)
        for change in self._changes:
            _CHANGES.labels(change.what, change.alarm.priority).inc()
            data = {
                **document(change.alarm),
                "change": change.what,
                "actor": change.actor,
                "detail": change.detail,
            }
            self._outgoing.append(_event(f"alert.{change.what}", str(change.alarm.alert_id), data))
        await self._notify()
        await outbox.enqueue_all(self._connection, self._outgoing)
        return self._changes

    async def _notify(self) -> None:
        """Send for people, but for what would only add to a flood."""
        flooded = await self._flooded()
        for told, change in self._notices:
            alarm = change.alarm
            if alarm.field_id in flooded and not lifecycle.told_in_flood(alarm.priority):
                continue
            data = {**document(alarm), "notice": told, "time": change.time}
            self._outgoing.append(_message(f"{told}.{alarm.priority}", str(alarm.alert_id), data))

    async def _flooded(self) -> set[str]:
        """Return the fields in a flood, of those with new alarms; tell of the floods that begin."""
        fields = {
            change.alarm.field_id
            for told, change in self._notices
            if told is Notice.RAISED and change.alarm.field_id
        }
        if not fields:
            return set()
        window_s = self._rules.flood.window_s
        flooded = await self._store.floods(fields)
        counts = await self._store.annunciated_since(fields, self.now - timedelta(seconds=window_s))
        for field_id in sorted(fields):
            count = counts.get(field_id, 0)
            if field_id in flooded:
                await self._store.grow_flood(field_id, count)
            elif _floods(count, self._rules, was_in_flood=False):
                flooded.add(field_id)
                if await self._store.begin_flood(field_id, self.now, count):
                    self._tell_flood(field_id, count, window_s)
        return flooded

    def _tell_flood(self, field_id: str, count: int, window_s: float) -> None:
        log.warning("alert.flood", field_id=field_id, alarms=count, window_s=window_s)
        data = {"field_id": field_id, "time": self.now, "alarms": count, "window_s": window_s}
        self._outgoing.append(_event(FLOOD_BEGAN, field_id, data))
        message = {
            **data,
            "notice": "flood",
            "priority": "high",
            "title": f"Alarm flood in field {field_id}: {count} alarms in {window_s / 60:g} min",
            "action": "Look for a common cause (power, a shared line). Messages below high are held back.",
        }
        self._outgoing.append(_message("flood.high", field_id, message))


def _detail(what: What, before: Alarm | None, after: Alarm) -> dict[str, Any]:
    """Return what the log says of a change beside what it is."""
    match what:
        case What.RAISED:
            return {"severity": after.severity, "occurrence": after.occurrences, "title": after.title}
        case What.CHANGED if before is not None:
            return {
                "priority": [before.priority, after.priority],
                "severity": [before.severity, after.severity],
            }
        case What.SUPPRESSED:
            return {"by": after.suppressed_by}
    return {}


def document(alarm: Alarm) -> dict[str, Any]:
    """Return an alert as events and answers have it."""
    fields = asdict(alarm)
    del fields["due_at"], fields["signalled_at"]
    return {**fields, "state": alarm.state}


def _event(type_: str, subject: str, data: Mapping[str, Any]) -> Outgoing:
    """Return an event for services."""
    return Outgoing(Event(type_, SERVICE, subject, data), topology.EVENTS)


def _message(key: str, subject: str, data: Mapping[str, Any]) -> Outgoing:
    """Return a message for people."""
    return Outgoing(Event("alert.notice", SERVICE, subject, data), topology.ALERTS, f"alert.{key}")


# --- rules ------------------------------------------------------------------------------------------------

_PARSED: dict[str, tuple[str, AlertRules]] = {}
"""By version: the text and what it says, since it is asked for with every change."""


async def load_rules(connection: Connection) -> AlertRules:
    """Return the rules in force: those loaded last, else those that ship.

    Who keeps them loads them again at the event `alert.rules-changed`. Rules of an older release that do not
    read any more give way to those that ship: no rules would mean no alerts.
    """
    row = await AlertStore(connection).rule_set()
    if row is None:
        return shipped_alert_rules()
    known = _PARSED.get(row["version"])
    if known is None or known[0] != row["body"]:
        known = _PARSED[row["version"]] = (row["body"], _readable(row["version"], row["body"]))
    return known[1]


def _readable(version: str, body: str) -> AlertRules:
    try:
        return load_alert_rules(body)
    except AlertRulesInvalid as error:
        log.critical(
            "alert-rules.unreadable", version=version, reason=error.detail, effect="shipped rules hold"
        )
        return shipped_alert_rules()


async def rules_text(connection: Connection) -> str:
    """Return the rules in force as the file they were loaded from, comments and all."""
    row = await AlertStore(connection).rule_set()
    return row["body"] if row else shipped_text()


# --- what people do ---------------------------------------------------------------------------------------

Deed = Callable[[Alarm, datetime, AlertRules], Alarm]


class Alerts:
    """Does to alerts what people want; each act is audited and told in the transaction that makes it.

    Every act takes the alert's id and the actor, returns the alert as it is afterwards, and raises NotFound,
    or Conflict when the alert's state does not allow it. A `comment` is kept in the alert's log.
    """

    def __init__(self, pool: Pool, live: LivePublisher | None = None) -> None:
        self._pool = pool
        self._live = live

    async def acknowledge(self, alert_id: UUID, actor: str, comment: str = "") -> Alarm:
        """Note that `actor` has seen it."""
        return await self._do(
            alert_id,
            actor,
            "acknowledged",
            lambda alarm, now, _: lifecycle.acknowledge(alarm, actor, now),
            comment,
        )

    async def unacknowledge(self, alert_id: UUID, actor: str, comment: str = "") -> Alarm:
        """Take back an acknowledgement."""
        return await self._do(
            alert_id, actor, "unacknowledged", lambda alarm, *_: lifecycle.unacknowledge(alarm), comment
        )

    async def shelve(self, alert_id: UUID, actor: str, until: datetime, reason: str) -> Alarm:
        """Hide it until `until`; raise InvalidInput when the rules do not allow so long."""

        def deed(alarm: Alarm, now: datetime, rules: AlertRules) -> Alarm:
            return lifecycle.shelve(alarm, actor, until, reason, now, longest_s=rules.shelve_longest_s)

        return await self._do(alert_id, actor, "shelved", deed, detail={"until": until, "reason": reason})

    async def unshelve(self, alert_id: UUID, actor: str, comment: str = "") -> Alarm:
        """End its shelving."""
        return await self._do(
            alert_id, actor, "unshelved", lambda alarm, *_: lifecycle.unshelve(alarm), comment
        )

    async def take_out_of_service(self, alert_id: UUID, actor: str, reason: str) -> Alarm:
        """Hide it until it is returned to service."""

        def deed(alarm: Alarm, *_: Any) -> Alarm:
            return lifecycle.take_out_of_service(alarm, actor, reason)

        return await self._do(alert_id, actor, "out-of-service", deed, detail={"reason": reason})

    async def return_to_service(self, alert_id: UUID, actor: str, comment: str = "") -> Alarm:
        """Annunciate it again when it is active."""
        return await self._do(
            alert_id, actor, "in-service", lambda alarm, *_: lifecycle.return_to_service(alarm), comment
        )

    async def assign(self, alert_id: UUID, actor: str, assignee: str | None) -> Alarm:
        """Make it somebody's to see to, or nobody's."""
        return await self._do(
            alert_id,
            actor,
            "assigned",
            lambda alarm, *_: lifecycle.assign(alarm, assignee),
            detail={"assignee": assignee},
        )

    async def close(self, alert_id: UUID, actor: str, comment: str = "") -> Alarm:
        """End it, acknowledged."""
        return await self._do(
            alert_id, actor, "closed", lambda alarm, now, _: lifecycle.close(alarm, actor, now), comment
        )

    async def comment(self, alert_id: UUID, actor: str, text: str) -> Alarm:
        """Add a remark, also to one that is closed."""
        return await self._do(alert_id, actor, "commented", lambda alarm, *_: alarm, text)

    async def _do(
        self,
        alert_id: UUID,
        actor: str,
        deed_name: str,
        deed: Deed,
        comment: str = "",
        detail: Mapping[str, Any] | None = None,
    ) -> Alarm:
        now = datetime.now(UTC)
        async with self._pool.acquire() as connection, connection.transaction():
            store = AlertStore(connection)
            before = await store.lock(alert_id)
            if before is None:
                raise NotFound(f"no alert {alert_id}", fix="see the list of alerts")
            rules = await load_rules(connection)
            after = deed(before, now, rules)
            desk = _Desk(store, connection, rules, now, actor)
            desk.take(before, after, now, detail)
            if comment:
                desk.comment(after, comment)
            changes = await desk.settle()
            await audit.record(
                connection,
                source=SERVICE,
                actor=actor,
                action=f"alert.{deed_name}",
                subject=str(alert_id),
                data={**(detail or {}), **({"comment": comment} if comment else {})},
            )
        if self._live is not None:
            await self._live.publish([change.live() for change in changes])
        return after

    async def load_rules(self, text: str, actor: str) -> AlertRules:
        """Put the rules of `text` in force; alerts of limits that it has not are cleared.

        Raises AlertRulesInvalid, and Conflict when its version names other rules already. Loading a version
        again puts it in force again.
        """
        rules = load_alert_rules(text)
        now = datetime.now(UTC)
        async with self._pool.acquire() as connection, connection.transaction():
            store = AlertStore(connection)
            if await store.load_rule_set(rules.version, text, actor) is not None:
                raise Conflict(
                    f"version {rules.version} of the alert rules says something else",
                    fix="give the changed rules another version",
                )
            orphans = await store.orphans([limit.condition for limit in rules.limits])
            changes = await report(connection, [_over(alarm, now) for alarm in orphans], rules, now=now)
            changed = _event(RULES_CHANGED, rules.version, {"version": rules.version})
            await outbox.enqueue_all(connection, [changed])
            await audit.record(
                connection,
                source=SERVICE,
                actor=actor,
                action="alert-rules.loaded",
                subject=rules.version,
                data={"version": rules.version},
            )
        if self._live is not None:
            await self._live.publish([change.live() for change in changes])
        return rules


def _over(alarm: Alarm, now: datetime) -> Signal:
    """Return the signal that the condition of an alarm is gone."""
    return Signal(
        pump_id=alarm.pump_id,
        field_id=alarm.field_id,
        condition=alarm.condition,
        source="limit",
        active=False,
        severity=alarm.severity,
        time=max(now, alarm.signalled_at),
        title=alarm.title,
        subject=alarm.subject,
    )
