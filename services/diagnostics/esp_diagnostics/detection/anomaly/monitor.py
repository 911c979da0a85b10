"""Score the readings of many pumps with their detectors."""

import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np

from esp_diagnostics.detection.anomaly.model import Detector, DetectorInvalid
from esp_diagnostics.detection.anomaly.persistence import Persistence
from esp_diagnostics.detection.anomaly.state import (
    NEVER,
    THRESHOLD,
    AnomalyVerdict,
    PumpState,
    Scorer,
    initial_columns,
)
from esp_diagnostics.detection.anomaly.statistics import (
    RunningStatistics,
    accumulate,
    contributions_to_distance,
    follow,
    present,
    smooth,
)
from esp_diagnostics.physics.arrays import Bools, Floats

OVERSHOOT: Final = 1.5
"""Cap of the cumulative sums as a multiple of their limit, so that they can return."""

EXPLAINED_ABOVE: Final = 0.5
CONTRIBUTIONS: Final = 5

SNAPSHOT: Final = struct.Struct("<4sHIIdqqqqqqq")
"""Magic, number of features, checksum of names, detector, frozen seconds, time of newest reading and change,
regime, start of the unsteady interval, times of the persistence."""

MAGIC: Final = b"EAW1"
COLUMNS: Final = 5

Integers = np.ndarray[Any, np.dtype[np.int64]]


class _Sample(NamedTuple):
    """Reading to score: its row, pump, detector, and the centre and factors of its regime."""

    row: int
    pump: PumpState
    scorer: Scorer
    place: tuple[Floats, Floats]


class AnomalyMonitor:
    """Running statistics and alarms of many pumps; pure, time comes with the readings.

    The level that readings are compared with follows slowly (`Settings.follow_s`) and is frozen while the
    score exceeds the threshold, so that faults are not learnt. Everything else changes by `set_model` only.
    """

    def __init__(self, names: Sequence[str]) -> None:
        """Take the names of the k features of `observe`, in order."""
        self.names = tuple(names)
        self._names_mark = zlib.crc32("\n".join(self.names).encode())
        self._pumps: dict[str, PumpState] = {}

    def set_model(self, pump_id: str, detector: Detector | None) -> None:
        """Score a pump with `detector`; None: without. An alarm stands until scores end it.

        Raise DetectorInvalid if the detector was trained on other features.
        """
        pump = self._pump(pump_id)
        if detector is None:
            pump.use(None)
            return
        if detector.names != self.names:
            raise DetectorInvalid(
                f"the detector of {pump_id} was trained on other features", fix="train the pump again"
            )
        pump.use(Scorer.of(detector))

    def forget(self, pump_id: str) -> None:
        """Drop the state of a pump that was removed or moved to another worker."""
        self._pumps.pop(pump_id, None)

    def observe(
        self, pump_ids: Sequence[str], times_us: Integers, features: Floats, regime: Integers, steady: Bools
    ) -> dict[str, AnomalyVerdict]:
        """Process n readings; return a verdict on each of their pumps at its newest reading.

        `features` (n, k) as trained, NaN where missing; `regime` (n,); `steady` (n,): running, and not just
        started or changed. Unsteady rows and rows older than the pump's newest change nothing. Rows may be in
        any order.
        """
        observed: dict[str, PumpState] = {}
        for rows in _rounds(pump_ids, times_us):
            samples: list[_Sample] = []
            for row in rows:
                pump = observed[pump_ids[row]] = self._pump(pump_ids[row])
                place = pump.record(int(times_us[row]), int(regime[row]), bool(steady[row]))
                if place is not None and pump.scorer is not None:
                    samples.append(_Sample(row, pump, pump.scorer, place))
            if samples:
                self._score(samples, times_us, features)
        return {pump_id: pump.verdict() for pump_id, pump in observed.items()}

    def snapshot(self, pump_ids: Iterable[str]) -> dict[str, bytes]:
        """Return the state of known pumps, without their detectors."""
        return {pump_id: self._packed(self._pumps[pump_id]) for pump_id in pump_ids if pump_id in self._pumps}

    def restore(self, snapshots: Mapping[str, bytes]) -> None:
        """Restore snapshots, before or after `set_model`; ignore those of other features."""
        for pump_id, body in snapshots.items():
            restored = self._unpacked(body)
            if restored is None:
                continue
            restored.use(self._pump(pump_id).scorer)
            self._pumps[pump_id] = restored

    def _pump(self, pump_id: str) -> PumpState:
        pump = self._pumps.get(pump_id)
        if pump is None:
            pump = self._pumps[pump_id] = PumpState(initial_columns(np.zeros(len(self.names))))
        return pump

    def _score(self, samples: Sequence[_Sample], times_us: Integers, features: Floats) -> None:
        """Advance the state of different pumps by one reading each."""
        rows = [sample.row for sample in samples]
        detectors = [sample.scorer.detector for sample in samples]
        centers = np.array([sample.place[0] for sample in samples])
        factors = np.array([sample.place[1] for sample in samples])
        limits = np.array(
            [(d.distance_limit, d.sum_limit, d.settings.smoothing_s, d.settings.slack) for d in detectors]
        )
        distance_limit, sum_limit, smoothing_s, slack = (limits[:, [column]] for column in range(4))
        now_s = times_us[rows][:, None] / 1e6
        columns = np.array([sample.pump.columns for sample in samples])
        state = RunningStatistics(*columns.swapaxes(0, 1))
        step = smooth(state, (features[rows] - centers) * factors, now_s, smoothing_s)
        shapes = [sample.scorer.shape(sample.pump.frozen_s) for sample in samples]
        accumulate(state, step, np.array([shape[1] for shape in shapes]), slack, OVERSHOOT * sum_limit)
        available = present(state, now_s, smoothing_s)
        parts = (
            contributions_to_distance(state.gap, np.array([shape[0] for shape in shapes]), available)
            / distance_limit
        )
        sums = np.where(available, np.maximum(state.rises, state.falls), 0.0) / sum_limit
        self._conclude(samples, columns, parts, sums)
        frozen = np.array([sample.pump.score > THRESHOLD for sample in samples])
        pace = np.array([[sample.scorer.pace] for sample in samples])
        follow(state, step, np.where(frozen[:, None], 0.0, pace))
        for sample, still, moved in zip(samples, frozen, step.max(axis=1) * smoothing_s[:, 0], strict=True):
            sample.pump.freeze(float(moved) if still else None)

    def _conclude(self, samples: Sequence[_Sample], columns: Floats, parts: Floats, sums: Floats) -> None:
        """Set the new state, score, contributions and alarm of each pump."""
        distances, greatest = parts.sum(axis=1), sums.max(axis=1)
        scores = np.maximum(distances, greatest)
        shares = np.where((distances >= greatest)[:, None], parts.clip(min=0.0), sums)
        order = np.argsort(-shares, axis=1)[:, :CONTRIBUTIONS]
        totals = shares.sum(axis=1)
        for row, sample in enumerate(samples):
            score = float(scores[row])
            contributions = [
                (self.names[which], float(shares[row, which] / totals[row]))
                for which in (order[row] if score > EXPLAINED_ABOVE else ())
                if shares[row, which] > 0
            ]
            sample.pump.conclude(columns[row], score, tuple(contributions), sample.scorer)

    def _packed(self, pump: PumpState) -> bytes:
        alarm = pump.alarm
        maybe = (pump.regime, pump.left_us, alarm.above_us, alarm.below_us, alarm.alarmed_us)
        head = SNAPSHOT.pack(
            MAGIC,
            len(self.names),
            self._names_mark,
            pump.mark,
            pump.frozen_s,
            pump.newest_us,
            pump.changed_us,
            *(NEVER if value is None else value for value in maybe),
        )
        return head + np.ascontiguousarray(pump.columns, dtype="<f8").tobytes()

    def _unpacked(self, body: bytes) -> PumpState | None:
        k = len(self.names)
        if len(body) != SNAPSHOT.size + COLUMNS * k * 8:
            return None
        mark, count, names_mark, detector, frozen_s, newest, changed, *maybe = SNAPSHOT.unpack_from(body)
        if (mark, count, names_mark) != (MAGIC, k, self._names_mark):
            return None
        regime, left, *times = (None if value == NEVER else value for value in maybe)
        columns = np.frombuffer(body, dtype="<f8", offset=SNAPSHOT.size).reshape(COLUMNS, k)
        return PumpState(
            columns.astype(np.float64),
            mark=detector,
            frozen_s=frozen_s,
            newest_us=newest,
            changed_us=changed,
            regime=regime,
            left_us=left,
            alarm=Persistence(*times),
        )


def _rounds(pump_ids: Sequence[str], times_us: Integers) -> Iterator[list[int]]:
    """Yield rows of different pumps: the oldest of each, then the second of each, and so on."""
    samples: list[list[int]] = []
    seen: dict[str, int] = {}
    for row in np.argsort(times_us, kind="stable").tolist():
        sample = seen.get(pump_ids[row], 0)
        seen[pump_ids[row]] = sample + 1
        if sample == len(samples):
            samples.append([])
        samples[sample].append(row)
    yield from samples
