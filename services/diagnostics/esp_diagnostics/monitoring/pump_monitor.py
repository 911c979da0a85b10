"""State of the pumps of a worker, and the effects of new readings.

`TreeMonitor`, `AnomalyMonitor` and `LimitMonitor` process the same readings in turn. Synchronous and without
I/O: the worker calls it in a separate thread, one call at a time.
"""

import struct
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Final, NamedTuple
from uuid import UUID

import numpy as np
import orjson
import structlog
from esp_common.contracts.channels import CHANNEL_COUNT
from prometheus_client import Counter

from esp_diagnostics.alerts.limit_signals import limit_signal
from esp_diagnostics.alerts.model import Signal
from esp_diagnostics.alerts.rules import AlertRules, limits_of
from esp_diagnostics.detection.anomaly import AnomalyMonitor, AnomalyVerdict, Detector, DetectorInvalid
from esp_diagnostics.detection.limits import LimitChange, LimitMonitor
from esp_diagnostics.detection.tree import FEATURES, Rules, TreeMonitor
from esp_diagnostics.monitoring.effects import (
    Context,
    Effects,
    FoundSpan,
    Open,
    PumpMemory,
    differ,
    due,
    retire,
    show_status,
)
from esp_diagnostics.monitoring.store.replay import Batch
from esp_diagnostics.pumps.store import KnownPump

log = structlog.get_logger()

_JUDGED: Final = Counter("esp_diagnostics_readings_judged_total", "Readings evaluated.", ["when"])
_UNUSABLE: Final = Counter(
    "esp_diagnostics_snapshots_unusable_total", "Saved pump states that could not be restored.", ["part"]
)

_SNAPSHOT: Final = struct.Struct("<4sIIII")
_MARK: Final = b"EDS1"
_OTHER_TERMS: Final = frozenset({"gauge_failure", "anomaly", "insufficient_data"})
"""Conditions that the health score does not count as findings."""

_BITS: Final = np.int32(1) << np.arange(CHANNEL_COUNT, dtype=np.int32)


class Rulebook(NamedTuple):
    """Rules of the evaluation."""

    tree: Rules
    alerts: AlertRules


class OpenFinding(NamedTuple):
    """Open finding as stored."""

    condition: str
    finding_id: UUID
    severity: str
    peak_severity: str
    confidence: float
    onset: datetime
    raised_at: datetime


@dataclass(frozen=True, slots=True)
class Past:
    """Record of a pump when a worker starts to monitor it; None or empty where nothing is recorded.

    `spell`: start (µs) and state of the present interval. `settled`: when (µs) each condition last cleared.
    `later`: findings from readings after those evaluated now. `began_us`: start of the evaluation.
    """

    findings: Sequence[OpenFinding] = ()
    spell: tuple[int, str] | None = None
    settled: Mapping[str, int] | None = None
    snapshot: bytes | None = None
    through_us: int = 0
    model: bytes | None = None
    later: Sequence[FoundSpan] = ()
    began_us: int | None = None


class PumpMonitor:
    """Evaluate the readings of many pumps, and keep their records up to date."""

    def __init__(self, rulebook: Rulebook) -> None:
        self.rulebook = rulebook
        self._monitor = TreeMonitor([], rulebook.tree)
        self._anomalies = AnomalyMonitor(FEATURES)
        self._limits = LimitMonitor(rulebook.alerts.limits, {})
        self._pumps: dict[str, KnownPump] = {}
        self._memory: dict[str, PumpMemory] = {}
        self._verdicts: dict[str, AnomalyVerdict] = {}
        self._pending_verdicts: dict[str, AnomalyVerdict] = {}
        """Verdicts on the last readings; the tree receives them with the next ones."""

    @property
    def pump_ids(self) -> frozenset[str]:
        return frozenset(self._memory)

    def through_us(self, pump_id: str) -> int | None:
        """Return the time of a pump's newest evaluated reading; None if it is not monitored."""
        memory = self._memory.get(pump_id)
        return None if memory is None else memory.through_us

    def began_us(self, pump_id: str) -> int | None:
        """Return the start (µs) of a pump's evaluation; None before its first reading or if not monitored."""
        memory = self._memory.get(pump_id)
        return None if memory is None else memory.began_us

    def admit(
        self, pumps: Mapping[str, KnownPump], past: Mapping[str, Past], behind: Collection[str] = ()
    ) -> None:
        """Start to monitor `pumps` from their records.

        `behind`: pumps whose backlog another monitor evaluates. This monitor clears only the findings that
        are open in its own state, not those of the backlog.
        """
        self._pumps |= pumps
        self._apply()
        for pump_id, pump in pumps.items():
            self._memory[pump_id] = _memory_of(pump, past[pump_id])
            self.set_model(pump_id, past[pump_id].model)
        self._restore({pump_id: known.snapshot for pump_id, known in past.items() if known.snapshot})
        for pump_id in pumps.keys() & set(behind):
            memory, own = self._memory[pump_id], self._monitor.open_findings(pump_id)
            memory.findings = {name: found for name, found in memory.findings.items() if name in own}
            memory.inherited = memory.inherited and bool(memory.findings)

    def dismiss(self, pump_ids: Iterable[str]) -> None:
        """Stop monitoring pumps that moved to another worker."""
        self._drop(pump_ids)
        self._apply()

    def restart(self, pumps: Mapping[str, KnownPump], past: Mapping[str, Past]) -> None:
        """Restart `pumps` from other states."""
        self.dismiss(pumps)
        self.admit(pumps, past)

    def update(self, pumps: Mapping[str, KnownPump], rulebook: Rulebook) -> Effects:
        """Apply changed nameplates, settings or rules; return the effects of the change.

        `pumps`: all registered pumps. Monitored pumps that were removed are dropped, and their findings
        cleared.
        """
        effects = Effects()
        gone = self._memory.keys() - pumps.keys()
        for pump_id in gone:
            retire(self._memory[pump_id], Context(*self.rulebook, now_s=0.0), effects)
        self.rulebook = rulebook
        self._pumps = {pump_id: pumps[pump_id] for pump_id in self._memory.keys() - gone}
        for pump_id, pump in self._pumps.items():
            self._memory[pump_id].field_id = pump.field_id
        effects.signals += [self._limit_signal(change, {}) for change in self._apply()]
        self._drop(gone)
        return effects

    def _drop(self, pump_ids: Iterable[str]) -> None:
        for pump_id in pump_ids:
            self._pumps.pop(pump_id, None)
            self._memory.pop(pump_id, None)
            self._verdicts.pop(pump_id, None)
            self._anomalies.forget(pump_id)

    def _apply(self) -> list[LimitChange]:
        """Apply the present rules to the present pumps; return exceeded limits that no longer exist."""
        rulebook = self.rulebook
        self._monitor.replace([pump.spec for pump in self._pumps.values()], rulebook.tree)
        thresholds = {
            pump_id: limits_of(rulebook.alerts, pump_id, pump.field_id, _numbers(pump), _own_limits(pump))
            for pump_id, pump in self._pumps.items()
        }
        return self._limits.replace(rulebook.alerts.limits, thresholds)

    def set_model(self, pump_id: str, body: bytes | None) -> None:
        """Score a pump with the serialized model; None: without."""
        try:
            self._anomalies.set_model(pump_id, None if body is None else Detector.from_bytes(body))
        except DetectorInvalid as error:
            log.warning("model.unusable", pump_id=pump_id, reason=error.detail)
            self._anomalies.set_model(pump_id, None)

    def snapshots(self, pump_ids: Collection[str]) -> dict[str, tuple[bytes, int]]:
        """Return each pump's state as bytes, and the time (µs) of its newest reading."""
        watched = [pump_id for pump_id in pump_ids if pump_id in self._memory]
        parts = (
            self._monitor.snapshot(watched),
            self._anomalies.snapshot(watched),
            self._limits.snapshot(watched),
            {pump_id: _passed(self._memory[pump_id]) for pump_id in watched},
        )
        return {
            pump_id: (_pack([part.get(pump_id, b"") for part in parts]), self._memory[pump_id].through_us)
            for pump_id in watched
            if pump_id in parts[0] and self._memory[pump_id].through_us
        }

    def _restore(self, snapshots: Mapping[str, bytes]) -> None:
        """Restore saved states; a pump with an unusable state starts anew and keeps its findings for now."""
        unpacked = {pump_id: _unpack(body) for pump_id, body in snapshots.items()}
        tree, anomalies, limits, passed = (
            {pump_id: parts[at] for pump_id, parts in unpacked.items() if parts and parts[at]}
            for at in range(4)
        )
        lost = self._memory.keys() & (snapshots.keys() - tree.keys()) | set(self._monitor.restore(tree))
        self._anomalies.restore(anomalies)
        self._limits.restore(limits)
        for pump_id, body in passed.items():
            self._memory[pump_id].passed = _signals(body)
        for pump_id in lost:
            _UNUSABLE.labels("tree").inc()
            self._memory[pump_id].inherited = bool(self._memory[pump_id].findings)
        if lost:
            log.warning("snapshots.unusable", pumps=len(lost), example=min(lost))

    def judge(
        self,
        batch: Batch,
        now_s: float,
        *,
        replaying: bool = False,
        shown: Collection[str] | None = None,
    ) -> Effects:
        """Evaluate readings in any order, and return their effects.

        `now_s`: monotonic clock. `replaying`: readings of the past, whose effects may be recorded already and
        are not published live. `shown`: pumps whose status is required, None for all; findings, signals and
        state intervals of the others are returned as well.
        """
        pump_ids = self._memory.keys() & set(batch.readings.pump_id.tolist())
        assessments = self._monitor.observe(
            batch.readings,
            batch.fault_mask,
            batch.frozen_mask,
            self._pending_verdicts,
            batch.refused_mask,
            None if shown is None else {*shown, *filter(self._is_reported, pump_ids)},
        )
        rows = self._monitor.features()
        self._pending_verdicts = self._anomalies.observe(
            rows.pump_ids.tolist(), rows.times_us, rows.matrix, rows.regime, rows.steady
        )
        self._verdicts |= self._pending_verdicts
        crossed = self._limits.observe(batch.readings, _unfit(batch))
        effects = Effects()
        context = Context(*self.rulebook, now_s, replaying)
        for assessment in assessments:
            memory = self._memory[assessment.pump_id]
            verdict = self._verdicts.get(assessment.pump_id)
            differ(memory, assessment, verdict, context, effects)
        for pump_id in pump_ids:
            memory = self._memory[pump_id]
            memory.through_us = max(memory.through_us, self._monitor.newest_us(pump_id))
        states = {change.pump_id: self._monitor.state(change.pump_id) for change in crossed}
        effects.signals += [self._limit_signal(change, states) for change in crossed]
        _JUDGED.labels("replay" if replaying else "live").inc(len(batch))
        return effects

    def _is_reported(self, pump_id: str) -> bool:
        """Return whether a pump has a recorded finding or exceeded limit, which any reading may change."""
        memory = self._memory[pump_id]
        return bool(memory.findings or memory.passed)

    def overdue(self, now_s: float) -> Effects:
        """Return the pending statuses that are due."""
        effects = Effects()
        for memory in self._memory.values():
            if due(memory, now_s):
                show_status(memory, now_s, effects)
        return effects

    def show(self, pump_ids: Iterable[str], now_s: float) -> Effects:
        """Return the pending statuses of pumps, due or not."""
        effects = Effects()
        for pump_id in pump_ids:
            memory = self._memory.get(pump_id)
            if memory is not None and memory.unshown is not None:
                show_status(memory, now_s, effects)
        return effects

    def _limit_signal(self, change: LimitChange, states: Mapping[str, str]) -> Signal:
        memory = self._memory[change.pump_id]
        explaining = [*memory.findings, *self._limits.active(change.pump_id)]
        state = states.get(change.pump_id)
        signal = limit_signal(change, self.rulebook.alerts, memory.field_id, state, explaining)
        if signal.active:
            memory.passed[signal.condition] = signal
        else:
            memory.passed.pop(signal.condition, None)
        return signal


def _memory_of(pump: KnownPump, past: Past) -> PumpMemory:
    return PumpMemory(
        pump_id=pump.pump_id,
        field_id=pump.field_id,
        through_us=past.through_us,
        findings={each.condition: Open(*each[1:]) for each in past.findings},
        spell=past.spell,
        settled=dict(past.settled or {}),
        later=past.later,
        began_us=past.began_us,
        inherited=bool(past.findings) and past.snapshot is None,
    )


def _numbers(pump: KnownPump) -> dict[str, Any]:
    return {**pump.nameplate, **pump.extras}


def _own_limits(pump: KnownPump) -> Mapping[str, Any]:
    own = pump.extras.get("limits")
    return own if isinstance(own, Mapping) else {}


def _passed(memory: PumpMemory) -> bytes:
    return orjson.dumps([asdict(signal) for signal in memory.passed.values()]) if memory.passed else b""


def _signals(body: bytes) -> dict[str, Signal]:
    signals = [
        Signal(**{**each, "time": datetime.fromisoformat(each["time"])}) for each in orjson.loads(body)
    ]
    return {signal.condition: signal for signal in signals}


def _unfit(batch: Batch) -> Any:
    """Return which values (n, channels) are error codes of a gauge or frozen, and so not measurements."""
    return ((batch.fault_mask | batch.frozen_mask)[:, None] & _BITS) != 0


def _pack(parts: Sequence[bytes]) -> bytes:
    return _SNAPSHOT.pack(_MARK, *map(len, parts)) + b"".join(parts)


def _unpack(body: bytes) -> list[bytes] | None:
    """Return the parts of a saved state; None if its layout differs."""
    if len(body) < _SNAPSHOT.size:
        return None
    mark, *sizes = _SNAPSHOT.unpack_from(body)
    if mark != _MARK or len(body) != _SNAPSHOT.size + sum(sizes):
        return None
    parts, at = [], _SNAPSHOT.size
    for size in sizes:
        parts.append(body[at : at + size])
        at += size
    return parts
