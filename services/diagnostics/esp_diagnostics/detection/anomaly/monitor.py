"""Watches many pumps with their detectors: readings become verdicts."""

import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import numpy as np

from esp_diagnostics.detection.anomaly.model import SPELL_S, Detector, DetectorInvalid
from esp_diagnostics.detection.anomaly.persistence import Persistence
from esp_diagnostics.detection.anomaly.statistics import Running, accumulate, follow, present, pulls, smooth
from esp_diagnostics.physics.arrays import Bools, Floats

OVERSHOOT: Final = 1.5
"""Cumulative sums stop growing at this multiple of their limit, so that they come back."""

THRESHOLD: Final = 1.0
EXPLAINED_ABOVE: Final = 0.5
CONTRIBUTIONS: Final = 5

SNAPSHOT: Final = struct.Struct("<4sHIIdqqqqqqq")
"""Mark, number of features, checksum of names, detector, frozen seconds, newest reading and change,
regime, when it was left, the alarm's times."""

MARK: Final = b"EAW1"
COLUMNS: Final = 5
NEVER: Final = -(2**62)
"""Stands for no time, and for no regime, in snapshots; long before any."""

Integers = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True, slots=True)
class AnomalyVerdict:
    """What is to be said of a pump at its newest reading.

    `score` over `threshold`, which is 1: the greater of T² and the greatest cumulative sum, each over its
    limit. `alarmed` after persistence, until hysteresis ends it; `since_us` where the score first rose above
    the threshold, None without an alarm. `learning`: nothing is judged now, as there is no detector, or it
    does not know this regime, or the pump settles after a start or change.
    `contributions` features and their shares of the score, greatest first; none while all is well.
    """

    score: float
    threshold: float
    alarmed: bool
    learning: bool
    contributions: tuple[tuple[str, float], ...]
    since_us: int | None


@dataclass(frozen=True, slots=True)
class _Judge:
    """A detector as the watch uses it: centre and factor (k,) by regime, NaN factors for unused features."""

    detector: Detector
    inverse: Floats
    spread: Floats
    pace: float
    settling_us: float
    places: Mapping[int, tuple[Floats, Floats]]
    mark: int

    @classmethod
    def of(cls, detector: Detector) -> "_Judge":
        reference = detector.reference
        factors = np.where(reference.used, 1.0 / reference.scale, np.nan)
        places = {
            int(regime): (reference.center[row], factors[row]) for row, regime in enumerate(reference.regimes)
        }
        told = (detector.trained_from_us, detector.trained_to_us, detector.samples, detector.distance_limit)
        return cls(
            detector=detector,
            inverse=reference.inverse(),
            spread=np.sqrt(np.diag(reference.covariance)),
            pace=detector.settings.smoothing_s / detector.settings.follow_s,
            settling_us=detector.settings.settling_s * 1e6,
            places=places,
            mark=zlib.crc32(repr(told).encode()),
        )

    def shape(self, frozen_s: float) -> tuple[Floats, Floats]:
        """Return inverse covariance and standard deviations about a level that stood still for so long."""
        if frozen_s <= 0:
            return self.inverse, self.spread
        reference = self.detector.reference
        share = min(frozen_s / reference.wander_s, 1.0)
        return reference.inverse(frozen_s), np.sqrt(self.spread**2 + share * reference.wander)


@dataclass(slots=True)
class _Watched:
    """State of one pump: its columns of `Running` (5, k), in units of the detector with this `mark`.

    `frozen_s`: how long the level has stood still, because the score is above the threshold.
    """

    columns: Floats
    mark: int = 0
    frozen_s: float = 0.0
    changed_us: int = NEVER
    regime: int | None = None
    left_us: int | None = None
    blind: bool = False
    newest_us: int = NEVER
    score: float = 0.0
    contributions: tuple[tuple[str, float], ...] = ()
    alarm: Persistence = field(default_factory=Persistence)
    judge: _Judge | None = None

    def meet(self, time_us: int, regime: int, steady: bool) -> tuple[Floats, Floats] | None:
        """Take note of a reading; return the centre and factors to judge it by, None when it is not to be."""
        if time_us <= self.newest_us:
            return None
        self.newest_us = time_us
        self._note(time_us, regime, steady)
        if self.judge is None:
            return None
        settles = time_us - self.changed_us < self.judge.settling_us
        self.blind = not steady or settles or regime not in self.judge.places
        return None if self.blind else self.judge.places[regime]

    def _note(self, time_us: int, regime: int, steady: bool) -> None:
        """Keep since when the pump is unsteady, and when it last came back or changed its regime."""
        if not steady:
            self.left_us = time_us if self.left_us is None else self.left_us
            return
        away_us = 0 if self.left_us is None else time_us - self.left_us
        if away_us >= SPELL_S * 1e6 or self.regime not in (None, regime):
            self.changed_us = time_us
        self.left_us, self.regime = None, regime

    def verdict(self) -> AnomalyVerdict:
        """Return what was last found out; while nothing is judged only whether an alarm still stands."""
        since, learning = self.alarm.alarmed_us, self.judge is None or self.blind
        contributions = () if learning and since is None else self.contributions
        score = 0.0 if learning and since is None else self.score
        return AnomalyVerdict(score, THRESHOLD, since is not None, learning, contributions, since)


class _Turn(NamedTuple):
    """A reading that is judged: its row, whose it is, by which detector, and where its regime lies."""

    row: int
    pump: _Watched
    judge: _Judge
    place: tuple[Floats, Floats]


class Watch:
    """Running statistics and alarms of many pumps; pure, time comes with the readings.

    What readings are compared with follows them slowly (`Settings.follow_s`) and stands still while the score
    is above the threshold: a fault is not learnt. All else changes by `set_model` alone.
    """

    def __init__(self, names: Sequence[str]) -> None:
        """`names` of the k features that `observe` gets, in order."""
        self.names = tuple(names)
        self._names_mark = zlib.crc32("\n".join(self.names).encode())
        self._pumps: dict[str, _Watched] = {}

    def set_model(self, pump_id: str, detector: Detector | None) -> None:
        """Judge a pump by `detector` from now on; None: learn. An alarm stands until scores end it.

        Raises DetectorInvalid when it was trained on other features: train again.
        """
        pump = self._pump(pump_id)
        if detector is None:
            pump.judge = None
            return
        if detector.names != self.names:
            raise DetectorInvalid(
                f"the detector of {pump_id} was trained on other features", fix="train the pump again"
            )
        pump.judge = _Judge.of(detector)
        if pump.judge.mark != pump.mark:
            pump.columns = _fresh(detector.reference.level)
            pump.mark = pump.judge.mark

    def forget(self, pump_id: str) -> None:
        """Stop watching a pump: it was removed, or another worker watches it now."""
        self._pumps.pop(pump_id, None)

    def observe(
        self, pump_ids: Sequence[str], times_us: Integers, features: Floats, regime: Integers, steady: Bools
    ) -> dict[str, AnomalyVerdict]:
        """Take n readings and return a verdict for each pump among them, at its newest.

        `features` (n, k) as trained on, NaN where missing; `regime` (n,); `steady` (n,): running, and not
        just started or changed. Others change nothing, nor do readings older than one already taken. Rows
        in any order; several of a pump are taken in the order of time.
        """
        watched: dict[str, _Watched] = {}
        for rows in _rounds(pump_ids, times_us):
            turns: list[_Turn] = []
            for row in rows:
                pump = watched[pump_ids[row]] = self._pump(pump_ids[row])
                place = pump.meet(int(times_us[row]), int(regime[row]), bool(steady[row]))
                if place is not None and pump.judge is not None:
                    turns.append(_Turn(row, pump, pump.judge, place))
            if turns:
                self._judge(turns, times_us, features)
        return {pump_id: pump.verdict() for pump_id, pump in watched.items()}

    def snapshot(self, pump_ids: Iterable[str]) -> dict[str, bytes]:
        """Return the state of those pumps that are watched, without their detectors."""
        return {pump_id: self._packed(self._pumps[pump_id]) for pump_id in pump_ids if pump_id in self._pumps}

    def restore(self, snapshots: Mapping[str, bytes]) -> None:
        """Go on from snapshots, before or after `set_model`; leave out those of other features."""
        for pump_id, body in snapshots.items():
            restored = self._unpacked(body)
            if restored is None:
                continue
            judge = self._pump(pump_id).judge
            if judge is not None and judge.mark != restored.mark:
                restored.columns, restored.mark = _fresh(judge.detector.reference.level), judge.mark
            restored.judge = judge
            self._pumps[pump_id] = restored

    def _pump(self, pump_id: str) -> _Watched:
        pump = self._pumps.get(pump_id)
        if pump is None:
            pump = self._pumps[pump_id] = _Watched(_fresh(np.zeros(len(self.names))))
        return pump

    def _judge(self, turns: Sequence[_Turn], times_us: Integers, features: Floats) -> None:
        """Move the state of different pumps on by one reading each."""
        rows = [turn.row for turn in turns]
        detectors = [turn.judge.detector for turn in turns]
        centers = np.array([turn.place[0] for turn in turns])
        factors = np.array([turn.place[1] for turn in turns])
        limits = np.array(
            [(d.distance_limit, d.sum_limit, d.settings.smoothing_s, d.settings.slack) for d in detectors]
        )
        distance_limit, sum_limit, smoothing_s, slack = (limits[:, [column]] for column in range(4))
        now_s = times_us[rows][:, None] / 1e6
        columns = np.array([turn.pump.columns for turn in turns])
        state = Running(*columns.swapaxes(0, 1))
        step = smooth(state, (features[rows] - centers) * factors, now_s, smoothing_s)
        shapes = [turn.judge.shape(turn.pump.frozen_s) for turn in turns]
        accumulate(state, step, np.array([shape[1] for shape in shapes]), slack, OVERSHOOT * sum_limit)
        there = present(state, now_s, smoothing_s)
        parts = pulls(state.gap, np.array([shape[0] for shape in shapes]), there) / distance_limit
        sums = np.where(there, np.maximum(state.rises, state.falls), 0.0) / sum_limit
        self._conclude(turns, columns, parts, sums)
        frozen = np.array([turn.pump.score > THRESHOLD for turn in turns])
        pace = np.array([[turn.judge.pace] for turn in turns])
        follow(state, step, np.where(frozen[:, None], 0.0, pace))
        for turn, still, moved in zip(turns, frozen, step.max(axis=1) * smoothing_s[:, 0], strict=True):
            turn.pump.frozen_s = turn.pump.frozen_s + float(moved) if still else 0.0

    def _conclude(self, turns: Sequence[_Turn], columns: Floats, parts: Floats, sums: Floats) -> None:
        """Give each pump its new state, score, explanation and alarm."""
        distances, greatest = parts.sum(axis=1), sums.max(axis=1)
        scores = np.maximum(distances, greatest)
        shares = np.where((distances >= greatest)[:, None], parts.clip(min=0.0), sums)
        order = np.argsort(-shares, axis=1)[:, :CONTRIBUTIONS]
        totals = shares.sum(axis=1)
        for row, turn in enumerate(turns):
            pump = turn.pump
            pump.columns = columns[row]
            pump.score = float(scores[row])
            pump.contributions = ()
            if pump.score > EXPLAINED_ABOVE:
                pump.contributions = tuple(
                    (self.names[which], float(shares[row, which] / totals[row]))
                    for which in order[row]
                    if shares[row, which] > 0
                )
            pump.alarm.update(pump.score, pump.newest_us, turn.judge.detector.settings.smoothing_s * 1e6)

    def _packed(self, pump: _Watched) -> bytes:
        alarm = pump.alarm
        maybe = (pump.regime, pump.left_us, alarm.above_us, alarm.below_us, alarm.alarmed_us)
        head = SNAPSHOT.pack(
            MARK,
            len(self.names),
            self._names_mark,
            pump.mark,
            pump.frozen_s,
            pump.newest_us,
            pump.changed_us,
            *(NEVER if value is None else value for value in maybe),
        )
        return head + np.ascontiguousarray(pump.columns, dtype="<f8").tobytes()

    def _unpacked(self, body: bytes) -> _Watched | None:
        k = len(self.names)
        if len(body) != SNAPSHOT.size + COLUMNS * k * 8:
            return None
        mark, count, names_mark, detector, frozen_s, newest, changed, *maybe = SNAPSHOT.unpack_from(body)
        if (mark, count, names_mark) != (MARK, k, self._names_mark):
            return None
        regime, left, *times = (None if value == NEVER else value for value in maybe)
        columns = np.frombuffer(body, dtype="<f8", offset=SNAPSHOT.size).reshape(COLUMNS, k)
        return _Watched(
            columns.astype(np.float64),
            mark=detector,
            frozen_s=frozen_s,
            newest_us=newest,
            changed_us=changed,
            regime=regime,
            left_us=left,
            alarm=Persistence(*times),
        )


def _fresh(level: Floats) -> Floats:
    """Return the columns of `Running` of one pump that has seen nothing yet."""
    zero = np.zeros_like(level)
    return np.stack([level, level, zero, zero, np.full_like(level, np.nan)])


def _rounds(pump_ids: Sequence[str], times_us: Integers) -> Iterator[list[int]]:
    """Yield rows of different pumps: the oldest of each, then the second of each, and so on."""
    turns: list[list[int]] = []
    seen: dict[str, int] = {}
    for row in np.argsort(times_us, kind="stable").tolist():
        turn = seen.get(pump_ids[row], 0)
        seen[pump_ids[row]] = turn + 1
        if turn == len(turns):
            turns.append([])
        turns[turn].append(row)
    yield from turns
