"""TreeMonitor many pumps with the decision tree, reading by reading."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Final, Protocol

import numpy as np
from esp_common.contracts.readings import TRIP_CODE_ABSENT, Int32Array, Readings

from esp_diagnostics.detection.tree import baseline, evaluation, latest, states
from esp_diagnostics.detection.tree.assessments import AssessmentBuilder, Changes, Step
from esp_diagnostics.detection.tree.evaluation import RuleEvaluator
from esp_diagnostics.detection.tree.findings import Assessment, FeatureRows, State, Transition
from esp_diagnostics.detection.tree.parameters import PumpParameters
from esp_diagnostics.detection.tree.plates import plate_columns
from esp_diagnostics.detection.tree.rules import Rules
from esp_diagnostics.detection.tree.signals import FEATURES
from esp_diagnostics.detection.tree.snapshots import carry_over, pack, unpack
from esp_diagnostics.detection.tree.spec import PumpSpec
from esp_diagnostics.detection.tree.step import StepEvaluator
from esp_diagnostics.detection.tree.table import NEVER, Column, Rows, Table

MEMORY: Final[dict[str, Column]] = {
    **latest.MEMORY,
    **states.MEMORY,
    **baseline.MEMORY,
    "swing_us": Column("i8", NEVER),
    "water_cut": Column("f8", np.nan),
}


class Verdict(Protocol):
    """Verdict of the anomaly detector, as used by the tree."""

    @property
    def alarmed(self) -> bool:
        """Return whether the pump deviates from its healthy history."""

    @property
    def score(self) -> float:
        """Return the score."""

    @property
    def threshold(self) -> float:
        """Return the score above which it deviates."""


class TreeMonitor:
    """TreeMonitor many pumps: columns of state, one row per pump. Pure; time comes with the readings.

    `late` and `unknown` count ignored readings: older than the pump's newest, and of unregistered pumps.
    """

    def __init__(self, specs: Sequence[PumpSpec], rules: Rules) -> None:
        self.rules = rules
        self.late = 0
        self.unknown = 0
        self._specs: tuple[PumpSpec, ...] = ()
        self._rows: dict[str, int] = {}
        self._table = Table(MEMORY, 0)
        self._findings = Table(evaluation.memory(len(rules.conditions)), 0)
        self._anomaly = np.zeros(0)
        self._seen: list[FeatureRows] = []
        self.replace(specs, rules)

    def replace(self, specs: Sequence[PumpSpec], rules: Rules | None = None) -> None:
        """Replace nameplates, overrides or rules; keep the state of pumps that remain.

        `specs` are all pumps to monitor from now on; the state of others is dropped.
        """
        before, old_names = self._rows, tuple(self.rules.conditions)
        self.rules = rules or self.rules
        self._specs = tuple(specs)
        self._rows = {spec.pump_id: row for row, spec in enumerate(self._specs)}
        kept = [(row, before[name]) for name, row in self._rows.items() if name in before]
        new, old = (np.array([pair[side] for pair in kept], dtype=np.intp) for side in (0, 1))
        n = len(self._specs)
        anomaly = np.full(n, np.nan)
        anomaly[new] = self._anomaly[old]
        self._anomaly = anomaly
        self._table = self._table.moved(MEMORY, n, new, old)
        names = tuple(self.rules.conditions)
        self._findings = carry_over(self._findings, old_names, names, n, new, old)
        parameters = PumpParameters(self.rules, [spec.overrides for spec in self._specs])
        self._evaluator = RuleEvaluator(self.rules, parameters.matrix)
        self._steps = StepEvaluator(
            self._table,
            self._findings,
            plate_columns(self._specs),
            parameters,
            self._evaluator,
            self._anomaly,
        )
        self._seen = []

    def observe(
        self,
        readings: Readings,
        fault_mask: Int32Array,
        frozen_mask: Int32Array,
        anomalies: Mapping[str, Verdict] | None = None,
        refused_mask: Int32Array | None = None,
        assessed: Collection[str] | None = None,
    ) -> list[Assessment]:
        """Process readings; return an assessment of each of their pumps at its newest reading.

        Rows may be of any pumps in any order. Rows older than the pump's newest are counted as `late` and
        ignored; rows of the same time are merged, because gauge and drive may report separately. Rows of
        unregistered pumps are counted as `unknown`. `anomalies`: newest verdict on each pump, from earlier
        readings. `refused_mask`: channels whose values ingest rejected; their previous values expire.
        `assessed`: pumps to assess, None for all. The state of every pump advances; other pumps are assessed
        only if they have an open finding, or a finding or their state changed.
        """
        refused = np.zeros_like(fault_mask) if refused_mask is None else refused_mask
        self._note_anomalies(anomalies or {})
        self._seen = []
        newest: dict[int, tuple[int, int]] = {}
        changes: dict[int, dict[int, bool]] = {}
        moves: dict[int, list[Transition]] = {}
        steps: list[Step] = []
        for chosen, at in self._rounds(readings):
            step, features = self._steps.evaluate(readings, (fault_mask, frozen_mask, refused), chosen, at)
            self._seen.append(features)
            newest.update({row: (len(steps), place) for place, row in enumerate(at.tolist())})
            self._note_moves(step, moves)
            _note_changes(step, changes)
            steps.append(step)
        if assessed is not None:
            newest = self._changed(newest, {*moves, *(row for row in changes if changes[row])}, assessed)
        builders = {
            number: AssessmentBuilder(self._evaluator, self._table, self._findings, steps[number])
            for number in {number for number, _ in newest.values()}
        }
        return [
            builders[number].build(
                self._specs[row], place, Changes(changes.get(row, {}), tuple(moves.get(row, ())))
            )
            for row, (number, place) in newest.items()
        ]

    def _changed(
        self, newest: Mapping[int, tuple[int, int]], changed: Collection[int], assessed: Collection[str]
    ) -> dict[int, tuple[int, int]]:
        """Return the rows in `changed`, those to assess, and those with open findings."""
        with_findings = np.any(self._findings["open"], axis=1)
        return {
            row: place
            for row, place in newest.items()
            if row in changed or with_findings[row] or self._specs[row].pump_id in assessed
        }

    def newest_us(self, pump_id: str) -> int:
        """Return the time of the pump's newest observed reading; NEVER before the first."""
        return int(self._table["time_us"][self._rows[pump_id]])

    def state(self, pump_id: str) -> str:
        """Return the present state of a pump."""
        return State(int(self._table["state"][self._rows[pump_id]])).label

    def features(self) -> FeatureRows:
        """Return the feature rows of the last observed readings."""
        if not self._seen:
            return _NO_FEATURES
        return FeatureRows(
            *(np.concatenate([getattr(rows, name) for rows in self._seen]) for name in _FEATURE_COLUMNS)
        )

    def open_findings(self, pump_id: str) -> tuple[str, ...]:
        """Return the open findings of a pump."""
        row = self._rows[pump_id]
        return tuple(self._evaluator.names[i] for i in np.flatnonzero(self._findings["open"][row]))

    def snapshot(self, pump_ids: Iterable[str]) -> dict[str, bytes]:
        """Serialize the state of pumps for `restore`; unknown pumps are omitted."""
        return {
            name: pack(self._table, self._findings, self._evaluator.names, self._rows[name])
            for name in pump_ids
            if name in self._rows
        }

    def restore(self, snapshots: Mapping[str, bytes]) -> list[str]:
        """Restore the state of pumps; return those whose snapshot has another layout and was ignored."""
        known = {name: packed for name, packed in snapshots.items() if name in self._rows}
        return [
            name
            for name, packed in known.items()
            if not unpack(self._table, self._findings, self._evaluator.names, self._rows[name], packed)
        ]

    def _rounds(self, readings: Readings) -> Iterator[tuple[np.ndarray, Rows]]:
        """Yield rows of the batch and their pumps: the first reading of each, then the second, and so on."""
        rows = np.array([self._rows.get(pump_id, -1) for pump_id in readings.pump_id], dtype=np.intp)
        known = np.flatnonzero(rows >= 0)
        self.unknown += len(rows) - len(known)
        fresh = known[readings.time_us[known] >= self._table["time_us"][rows[known]]]
        self.late += len(known) - len(fresh)
        order = fresh[np.lexsort((readings.time_us[fresh], rows[fresh]))]
        pump = rows[order]
        first = np.flatnonzero(np.diff(pump, prepend=-1))
        turn = np.arange(len(pump)) - np.repeat(first, np.diff(first, append=len(pump)))
        for number in range(int(turn.max(initial=-1)) + 1):
            chosen = order[turn == number]
            yield chosen, rows[chosen]

    def _note_anomalies(self, anomalies: Mapping[str, Verdict]) -> None:
        for pump_id, verdict in anomalies.items():
            if pump_id in self._rows:
                ratio = verdict.score / verdict.threshold if verdict.threshold > 0 else 0.0
                self._anomaly[self._rows[pump_id]] = max(ratio, 1.0) if verdict.alarmed else min(ratio, 0.99)

    def _note_moves(self, step: Step, moves: dict[int, list[Transition]]) -> None:
        for place in np.flatnonzero(step.moved).tolist():
            row = int(step.at[place])
            code = int(self._table["trip_code"][row])
            state = State(int(self._table["state"][row])).label
            trip_code = None if code == TRIP_CODE_ABSENT else code
            moves.setdefault(row, []).append(Transition(int(step.time_us[place]), state, trip_code))


_FEATURE_COLUMNS: Final = ("pump_ids", "reading", "times_us", "matrix", "steady", "regime")
_NO_FEATURES: Final = FeatureRows(
    np.zeros(0, dtype=object),
    np.zeros(0, dtype=np.intp),
    np.zeros(0, dtype=np.int64),
    np.zeros((0, len(FEATURES))),
    np.zeros(0, dtype=np.bool_),
    np.zeros(0, dtype=np.int64),
)


def _note_changes(step: Step, changes: dict[int, dict[int, bool]]) -> None:
    """Collect raised and cleared conditions; both within one batch cancel out."""
    for place, condition in zip(*np.nonzero(step.evaluation.raised | step.evaluation.cleared), strict=True):
        mine = changes.setdefault(int(step.at[place]), {})
        is_raised = bool(step.evaluation.raised[place, condition])
        if mine.pop(int(condition), is_raised) == is_raised:
            mine[int(condition)] = is_raised
