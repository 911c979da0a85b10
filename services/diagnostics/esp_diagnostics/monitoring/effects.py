"""Turn assessments into findings, state intervals, statuses, alert signals and live messages.

`differ` compares an assessment with the pump's record and is pure; `record` writes the difference in the
caller's transaction. Writing it again changes nothing.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Final, NamedTuple
from uuid import UUID, uuid4

import orjson
from esp_common import outbox, topology
from esp_common.contracts.events import Event
from esp_common.database import Connection

from esp_diagnostics.alerts import transitions
from esp_diagnostics.alerts.model import Signal
from esp_diagnostics.alerts.rules import AlertRules, suppression
from esp_diagnostics.common.times import as_time
from esp_diagnostics.detection.anomaly import AnomalyVerdict
from esp_diagnostics.detection.tree import SEVERITIES, Assessment, Evidence, Hypothesis, Rules
from esp_diagnostics.detection.tree.findings import ANOMALY
from esp_diagnostics.kpis.scoring import Health, health_score
from esp_diagnostics.monitoring.store import backlogs, states
from esp_diagnostics.monitoring.store import findings as store
from esp_diagnostics.monitoring.store.backlogs import Note
from esp_diagnostics.monitoring.store.findings import Change, Clearing, NewFinding
from esp_diagnostics.monitoring.store.states import Spell, Status
from esp_diagnostics.settings import SERVICE

STATUS_EVERY_S: Final = 2.0
"""Minimum interval between writes of a pump's unchanged status."""

REFRESH_US: Final = 60_000_000
"""Maximum age of the evidence of an open finding, in data time."""

SHOWN_HYPOTHESES: Final = 5

_SPELLS: Final = {"unknown": "unknown", "off": "off", "starting": "starting", "running": "running"}
"""Logged states; `changing` is logged as running."""

_US: Final = 1_000_000


@dataclass(slots=True)
class Open:
    """Open finding as known to the worker; `reported`: severity and suppression last sent to alerts."""

    finding_id: UUID
    severity: str
    peak_severity: str
    confidence: float
    onset: datetime
    raised_at: datetime
    refreshed_us: int = 0
    reported: tuple[str, str | None] | None = None


class FoundSpan(NamedTuple):
    """Finding of a condition from `onset_us` to before `until_us`; None: still open."""

    condition: str
    onset_us: int
    until_us: int | None


@dataclass(slots=True)
class PumpMemory:
    """Record of a pump besides the tree's own state.

    `through_us`: newest evaluated reading; `began_us`: start of the evaluation. `settled`: when each
    condition last cleared, as far as a replay may detect it again. `later`: findings from readings that a
    replay has yet to reach. `passed`: last signal of each exceeded limit, by condition. `inherited`: findings
    were open but their state is lost; they stay open until the baseline is learnt again. `unshown`:
    assessment and verdict of a status that is not written yet.
    """

    pump_id: str
    field_id: str
    through_us: int = 0
    findings: dict[str, Open] = field(default_factory=dict)
    spell: tuple[int, str] | None = None
    settled: dict[str, int] = field(default_factory=dict)
    later: Sequence[FoundSpan] = ()
    began_us: int | None = None
    passed: dict[str, Signal] = field(default_factory=dict)
    inherited: bool = False
    status_at_s: float = float("-inf")
    shown: tuple[Any, ...] = ()
    unshown: tuple[Assessment, AnomalyVerdict | None] | None = None


class Context(NamedTuple):
    """Conditions of an evaluation.

    `now_s`: monotonic clock, for intervals between writes. `replaying`: readings of the past, whose effects
    may be recorded already.
    """

    rules: Rules
    alert_rules: AlertRules
    now_s: float
    replaying: bool = False


class Announced(NamedTuple):
    """Content of a finding's event and live message."""

    change: str
    finding_id: UUID
    pump_id: str
    field_id: str
    condition: str
    severity: str
    confidence: float
    time: datetime
    onset: datetime
    action: str
    rule_version: str

    def event(self) -> Event:
        return Event(
            type=f"finding.{self.change}",
            source=SERVICE,
            subject=self.pump_id,
            data={**self._asdict(), "finding_id": str(self.finding_id)},
        )

    def live(self) -> dict[str, Any]:
        return {
            "kind": "finding",
            "pump_id": self.pump_id,
            "field_id": self.field_id,
            "time": self.time,
            "finding_id": str(self.finding_id),
            "change": self.change,
            "condition": self.condition,
            "severity": self.severity,
            "confidence": self.confidence,
        }


@dataclass(slots=True)
class Effects:
    """Effects of assessments; written as a whole, or for some partitions only."""

    raised: list[NewFinding] = field(default_factory=list)
    changed: list[Change] = field(default_factory=list)
    cleared: list[Clearing] = field(default_factory=list)
    spells: list[Spell] = field(default_factory=list)
    statuses: list[Status] = field(default_factory=list)
    signals: list[Signal] = field(default_factory=list)
    announced: list[Announced] = field(default_factory=list)
    live: list[dict[str, Any]] = field(default_factory=list)
    backlogs: list[Note] = field(default_factory=list)
    caught_up: list[tuple[str, datetime]] = field(default_factory=list)
    """Pumps, and the time up to which their backlog is evaluated."""

    changed_pumps: dict[UUID, str] = field(default_factory=dict)
    """Pump of each changed or cleared finding."""

    @property
    def durable(self) -> bool:
        """Return whether there is anything to write."""
        return any(
            (
                *(self.raised, self.changed, self.cleared, self.spells, self.statuses, self.signals),
                *(self.backlogs, self.caught_up),
            )
        )

    @property
    def pump_ids(self) -> set[str]:
        """Return the pumps whose records change."""
        return {
            *(each.pump_id for each in self.raised),
            *(each.pump_id for each in self.spells),
            *(each.pump_id for each in self.statuses),
            *(each.pump_id for each in self.signals if each.pump_id),
            *(each.pump_id for each in self.announced),
            *(each.pump_id for each in self.backlogs),
            *(pump_id for pump_id, _ in self.caught_up),
            *(self.changed_pumps[each.finding_id] for each in self.changed),
            *(self.changed_pumps[each.finding_id] for each in self.cleared),
        }

    def of(self, partitions: Collection[int]) -> "Effects":
        """Return the effects on pumps of `partitions`."""
        return self._where(lambda pump_id: topology.partition(pump_id) in partitions)

    def of_pumps(self, pump_ids: Collection[str]) -> "Effects":
        """Return the effects on these pumps."""
        return self._where(lambda pump_id: pump_id in pump_ids)

    def _where(self, wanted: Callable[[str], bool]) -> "Effects":
        def of_finding(finding_id: UUID) -> bool:
            return wanted(self.changed_pumps[finding_id])

        return Effects(
            raised=[each for each in self.raised if wanted(each.pump_id)],
            changed=[each for each in self.changed if of_finding(each.finding_id)],
            cleared=[each for each in self.cleared if of_finding(each.finding_id)],
            spells=[each for each in self.spells if wanted(each.pump_id)],
            statuses=[each for each in self.statuses if wanted(each.pump_id)],
            signals=[each for each in self.signals if wanted(each.pump_id or "")],
            announced=[each for each in self.announced if wanted(each.pump_id)],
            live=[each for each in self.live if wanted(each["pump_id"])],
            backlogs=[each for each in self.backlogs if wanted(each.pump_id)],
            caught_up=[each for each in self.caught_up if wanted(each[0])],
            changed_pumps=self.changed_pumps,
        )


def differ(
    memory: PumpMemory,
    assessment: Assessment,
    verdict: AnomalyVerdict | None,
    context: Context,
    effects: Effects,
) -> None:
    """Add the changes caused by `assessment` to `effects`, and update `memory`.

    The caller advances `memory.through_us`, because readings may pass without an assessment.
    """
    _log_state(memory, assessment, effects)
    changed = _find(memory, assessment, verdict, context, effects)
    _signal(memory, assessment, context, effects)
    _signal_limits(memory, assessment, context, effects)
    _show(memory, assessment, verdict, context, effects, changed=changed)


def retire(memory: PumpMemory, context: Context, effects: Effects) -> None:
    """Add the end of all open findings of a removed pump to `effects`."""
    for condition in list(memory.findings):
        _clear(memory, condition, as_time(memory.through_us), context, effects)


def _log_state(memory: PumpMemory, assessment: Assessment, effects: Effects) -> None:
    """Log the state intervals that started since the last assessment, except those a replay detects again."""
    begun: list[tuple[int, str, int | None]] = []
    for time_us, state, trip_code in assessment.transitions:
        spell = _SPELLS.get(state, "running")
        before = begun[-1] if begun else memory.spell
        if before is None or (time_us > before[0] and spell != before[1]):
            begun.append((time_us, spell, trip_code))
    if not begun:
        return
    ends = [*(time_us for time_us, _, _ in begun[1:]), None]
    for (time_us, state, trip_code), end_us in zip(begun, ends, strict=True):
        code = trip_code if state == "off" and trip_code else None
        ended_at = None if end_us is None else as_time(end_us)
        effects.spells.append(Spell(memory.pump_id, as_time(time_us), state, ended_at, code))
    memory.spell = (begun[-1][0], begun[-1][1])
    if memory.began_us is None:
        memory.began_us = begun[0][0]


def _find(
    memory: PumpMemory,
    assessment: Assessment,
    verdict: AnomalyVerdict | None,
    context: Context,
    effects: Effects,
) -> bool:
    """Raise, change and clear findings according to the assessment; return whether any changed."""
    if not assessment.open and not memory.findings:
        return False
    named = {hypothesis.condition: hypothesis for hypothesis in assessment.hypotheses}
    changed = False
    for condition in assessment.open:
        hypothesis = named.get(condition)
        known = memory.findings.get(condition)
        if known is None and hypothesis is not None:
            changed |= _raise(memory, assessment, hypothesis, verdict, context, effects)
        elif known is not None and hypothesis is not None:
            changed |= _change(memory, known, assessment, hypothesis, verdict, context, effects)
    memory.inherited = memory.inherited and assessment.learning < 1
    if not memory.inherited:
        time = as_time(assessment.time_us)
        for condition in [condition for condition in memory.findings if condition not in assessment.open]:
            if context.replaying and memory.findings[condition].raised_at > time:
                continue  # recorded from a later reading, which the replay has not reached yet
            _clear(memory, condition, as_time(assessment.time_us), context, effects)
            changed = True
    return changed


def _raise(
    memory: PumpMemory,
    assessment: Assessment,
    hypothesis: Hypothesis,
    verdict: AnomalyVerdict | None,
    context: Context,
    effects: Effects,
) -> bool:
    condition = hypothesis.condition
    if context.replaying and _is_recorded(memory, condition, hypothesis.since_us):
        return False
    onset, raised_at = as_time(min(hypothesis.since_us, assessment.time_us)), as_time(assessment.time_us)
    finding = NewFinding(
        finding_id=uuid4(),
        pump_id=memory.pump_id,
        field_id=memory.field_id,
        condition=condition,
        kind="anomaly" if condition == ANOMALY else "tree",
        severity=hypothesis.severity,
        confidence=hypothesis.confidence,
        onset=onset,
        raised_at=raised_at,
        rule_version=context.rules.version,
        evidence=_dumps(evidence(hypothesis, verdict)),
        path=_dumps(assessment.path),
        action=hypothesis.action,
    )
    effects.raised.append(finding)
    memory.findings[condition] = known = Open(
        finding.finding_id,
        hypothesis.severity,
        hypothesis.severity,
        hypothesis.confidence,
        onset,
        raised_at,
        assessment.time_us,
    )
    _announce("raised", memory, condition, known, raised_at, hypothesis.action, context, effects)
    return True


def _is_recorded(memory: PumpMemory, condition: str, since_us: int) -> bool:
    """Return whether the record contains a finding of the condition at that time."""
    return since_us <= memory.settled.get(condition, -1) or any(
        span.condition == condition
        and span.onset_us <= since_us
        and (span.until_us is None or since_us < span.until_us)
        for span in memory.later
    )


def _change(
    memory: PumpMemory,
    known: Open,
    assessment: Assessment,
    hypothesis: Hypothesis,
    verdict: AnomalyVerdict | None,
    context: Context,
    effects: Effects,
) -> bool:
    graver = hypothesis.severity != known.severity
    if not graver and assessment.time_us - known.refreshed_us < REFRESH_US:
        return False
    known.severity, known.confidence = hypothesis.severity, hypothesis.confidence
    known.peak_severity = max(known.peak_severity, hypothesis.severity, key=SEVERITIES.index)
    known.refreshed_us = assessment.time_us
    effects.changed.append(
        Change(
            known.finding_id,
            known.severity,
            known.peak_severity,
            known.confidence,
            _dumps(evidence(hypothesis, verdict)),
            _dumps(assessment.path),
            hypothesis.action,
        )
    )
    effects.changed_pumps[known.finding_id] = memory.pump_id
    if graver:
        time = as_time(assessment.time_us)
        _announce("changed", memory, hypothesis.condition, known, time, hypothesis.action, context, effects)
    return graver


def _clear(memory: PumpMemory, condition: str, time: datetime, context: Context, effects: Effects) -> None:
    known = memory.findings.pop(condition)
    effects.cleared.append(Clearing(known.finding_id, time))
    effects.changed_pumps[known.finding_id] = memory.pump_id
    _announce("cleared", memory, condition, known, time, "", context, effects)
    effects.signals.append(_signal_of(memory, condition, known, time, context))


def _announce(
    change: str,
    memory: PumpMemory,
    condition: str,
    known: Open,
    time: datetime,
    action: str,
    context: Context,
    effects: Effects,
) -> None:
    effects.announced.append(
        Announced(
            change,
            known.finding_id,
            memory.pump_id,
            memory.field_id,
            condition,
            known.severity,
            known.confidence,
            time,
            known.onset,
            action,
            context.rules.version,
        )
    )


def _signal(memory: PumpMemory, assessment: Assessment, context: Context, effects: Effects) -> None:
    """Signal open findings whose severity or suppression changed since the last signal."""
    if not memory.findings:
        return
    actions = {hypothesis.condition: hypothesis.action for hypothesis in assessment.hypotheses}
    for condition, known in memory.findings.items():
        hidden = suppression(context.alert_rules, condition, assessment.state, memory.findings)
        if known.reported != (known.severity, hidden):
            known.reported = (known.severity, hidden)
            signal = _signal_of(memory, condition, known, known.raised_at, context)
            action = actions.get(condition, "")
            effects.signals.append(replace(signal, active=True, action=action, suppressed_by=hidden))


def _signal_limits(memory: PumpMemory, assessment: Assessment, context: Context, effects: Effects) -> None:
    """Signal exceeded limits whose suppression changed."""
    for condition, signal in memory.passed.items():
        explaining = [*memory.findings, *memory.passed]
        hidden = suppression(context.alert_rules, condition, assessment.state, explaining)
        if hidden != signal.suppressed_by:
            memory.passed[condition] = updated = replace(signal, suppressed_by=hidden)
            effects.signals.append(updated)


def _signal_of(memory: PumpMemory, condition: str, known: Open, time: datetime, context: Context) -> Signal:
    """Return the signal that clears a finding."""
    rule = context.rules.conditions.get(condition)
    return Signal(
        pump_id=memory.pump_id,
        field_id=memory.field_id,
        condition=condition,
        source="finding",
        active=False,
        severity=known.severity,
        time=time,
        title=rule.title if rule else condition.replace("_", " ").capitalize(),
        finding_id=known.finding_id,
    )


def _show(
    memory: PumpMemory,
    assessment: Assessment,
    verdict: AnomalyVerdict | None,
    context: Context,
    effects: Effects,
    *,
    changed: bool,
) -> None:
    """Add the pump's status if it is due, and its live messages."""
    shown = (assessment.state, assessment.gauge_fault, *memory.findings)
    changed = changed or shown != memory.shown
    memory.shown = shown
    if not context.replaying:
        effects.live.append(_live_reading(memory, assessment))
    memory.unshown = (assessment, verdict)
    if not changed and not due(memory, context.now_s):
        return
    health, hypotheses = show_status(memory, context.now_s, effects)
    if changed and not context.replaying:
        effects.live.append(_live_status(memory, assessment, health, hypotheses))


def due(memory: PumpMemory, now_s: float) -> bool:
    """Return whether a pump has a pending status that is due."""
    return memory.unshown is not None and now_s - memory.status_at_s >= STATUS_EVERY_S


def show_status(memory: PumpMemory, now_s: float, effects: Effects) -> tuple[Health, list[dict[str, Any]]]:
    """Add the pending status of a pump; return its health and hypotheses."""
    assert memory.unshown is not None  # noqa: S101 - callers look
    assessment, verdict = memory.unshown
    health = _health(memory, assessment, verdict)
    memory.unshown, memory.status_at_s = None, now_s
    hypotheses = [_described(each, verdict) for each in assessment.hypotheses[:SHOWN_HYPOTHESES]]
    effects.statuses.append(_status(memory, assessment, verdict, health, hypotheses))
    return health, hypotheses


def _health(memory: PumpMemory, assessment: Assessment, verdict: AnomalyVerdict | None) -> Health:
    return health_score(
        assessment.state,
        [(condition, known.severity, known.confidence) for condition, known in memory.findings.items()],
        assessment.operating_point,
        gauge_fault=assessment.gauge_fault,
        anomaly=None if verdict is None or verdict.learning else verdict.score / verdict.threshold,
    )


def _status(
    memory: PumpMemory,
    assessment: Assessment,
    verdict: AnomalyVerdict | None,
    health: Health,
    hypotheses: Sequence[Mapping[str, Any]],
) -> Status:
    channels = {
        name: {"value": value, "time": as_time(time_us)}
        for name, (value, time_us) in assessment.channels.items()
    }
    latest = {"running": assessment.running, "trip_code": assessment.trip_code, "channels": channels}
    return Status(
        pump_id=memory.pump_id,
        field_id=memory.field_id,
        time=as_time(assessment.time_us),
        state=assessment.state,
        since=as_time(assessment.state_since_us),
        latest=_dumps(latest),
        operating_point=_dumps(dict(assessment.operating_point)),
        residuals=_dumps(dict(assessment.residuals)),
        health=health.score,
        health_terms=_dumps(health.terms),
        hypotheses=_dumps(hypotheses),
        path=_dumps(assessment.path),
        gauge_fault=assessment.gauge_fault,
        anomaly=None if verdict is None else _dumps(anomaly(verdict)),
    )


def _live_reading(memory: PumpMemory, assessment: Assessment) -> dict[str, Any]:
    """Return the live message of the channels measured since the last one."""
    return {
        "kind": "reading",
        "pump_id": memory.pump_id,
        "field_id": memory.field_id,
        "time": as_time(assessment.time_us),
        "state": assessment.state,
        "running": assessment.running,
        "values": {
            name: value
            for name, (value, time_us) in assessment.channels.items()
            if time_us > memory.through_us
        },
    }


def _live_status(
    memory: PumpMemory, assessment: Assessment, health: Health, hypotheses: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    return {
        "kind": "status",
        "pump_id": memory.pump_id,
        "field_id": memory.field_id,
        "time": as_time(assessment.time_us),
        "state": assessment.state,
        "since": as_time(assessment.state_since_us),
        "health": health.score,
        "gauge_fault": assessment.gauge_fault,
        "hypotheses": hypotheses,
    }


def _described(hypothesis: Hypothesis, verdict: AnomalyVerdict | None) -> dict[str, Any]:
    return {
        "condition": hypothesis.condition,
        "confidence": round(hypothesis.confidence, 3),
        "severity": hypothesis.severity,
        "action": hypothesis.action,
        "since": as_time(hypothesis.since_us),
        **evidence(hypothesis, verdict),
    }


def evidence(hypothesis: Hypothesis, verdict: AnomalyVerdict | None) -> dict[str, Any]:
    """Return evidence for and against a hypothesis, and missing evidence, as JSON values.

    Evidence of an anomaly are its largest contributions.
    """
    found = {
        "for": list(map(_evidence, hypothesis.evidence_for)),
        "against": list(map(_evidence, hypothesis.against)),
        "missing": list(map(_evidence, hypothesis.missing)),
    }
    if hypothesis.condition == ANOMALY and verdict is not None:
        found["for"] += [
            {"signal": name, "what": "share of the anomaly", "value": share, "unit": "", "threshold": None}
            for name, share in verdict.contributions
        ]
    return found


def _evidence(each: Evidence) -> dict[str, Any]:
    return {
        "signal": each.signal,
        "what": each.what,
        "value": each.value,
        "unit": each.unit,
        "threshold": each.threshold,
    }


def anomaly(verdict: AnomalyVerdict) -> dict[str, Any]:
    """Return a verdict of the anomaly detector as JSON values."""
    return {
        "score": verdict.score,
        "threshold": verdict.threshold,
        "alarmed": verdict.alarmed,
        "learning": verdict.learning,
        "since": None if verdict.since_us is None else as_time(verdict.since_us),
        "contributions": [{"feature": name, "share": share} for name, share in verdict.contributions],
    }


def _dumps(value: Any) -> str:
    # Numbers of the core are numpy types; NaN (unknown) becomes null.
    return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_UTC_Z).decode()


async def record(
    connection: Connection, effects: Effects, rule_version: str, alert_rules: AlertRules
) -> list[Mapping[str, Any]]:
    """Write `effects` in the caller's transaction; return the live messages to publish after the commit.

    Findings that were raised or cleared before are not announced again.
    """
    await backlogs.note(connection, effects.backlogs)
    await backlogs.note_judged(connection, effects.caught_up)
    new = await store.raise_new(connection, effects.raised)
    await store.change(connection, effects.changed)
    over = await store.clear(connection, effects.cleared)
    await states.log_spells(connection, effects.spells)
    await states.put_statuses(connection, effects.statuses, rule_version)
    announced = [
        each for each in effects.announced if each.change == "changed" or each.finding_id in new | over
    ]
    for each in announced:
        await outbox.enqueue(connection, each.event(), topology.EVENTS)
    changes = await transitions.report(connection, effects.signals, alert_rules) if effects.signals else []
    return [*effects.live, *(each.live() for each in announced), *(change.live() for change in changes)]


def settled_from(cleared: Iterable[tuple[tuple[str, str], int]]) -> dict[str, dict[str, int]]:
    """Return, by pump, when each condition last cleared, from ((pump, condition), time) pairs."""
    found: dict[str, dict[str, int]] = {}
    for (pump_id, condition), time_us in cleared:
        found.setdefault(pump_id, {})[condition] = time_us
    return found
