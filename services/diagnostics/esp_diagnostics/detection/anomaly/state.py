"""State of one pump in the anomaly monitor, and its verdict."""

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from esp_diagnostics.detection.anomaly.model import MIN_UNSTEADY_S, Detector
from esp_diagnostics.detection.anomaly.persistence import Persistence
from esp_diagnostics.physics.arrays import Floats

THRESHOLD: Final = 1.0

NEVER: Final = -(2**62)
"""No time, or no regime, in snapshots."""


@dataclass(frozen=True, slots=True)
class AnomalyVerdict:
    """Verdict on a pump at its newest reading.

    `score` over `threshold` (1): the greater of T² and the largest cumulative sum, each over its limit.
    `alarmed`: after persistence, until hysteresis ends it; `since_us`: when the score first exceeded the
    threshold, None unless alarmed. `learning`: not scored, because there is no detector, the regime is
    unknown to it, or the pump settles after a start or change. `contributions`: features and their shares of
    the score, largest first; empty while the score is low.
    """

    score: float
    threshold: float
    alarmed: bool
    learning: bool
    contributions: tuple[tuple[str, float], ...]
    since_us: int | None


@dataclass(frozen=True, slots=True)
class Scorer:
    """Detector prepared for scoring: centre and factor (k,) by regime, NaN factors for unused features."""

    detector: Detector
    inverse: Floats
    spread: Floats
    pace: float
    settling_us: float
    places: Mapping[int, tuple[Floats, Floats]]
    mark: int

    @classmethod
    def of(cls, detector: Detector) -> "Scorer":
        reference = detector.reference
        factors = np.where(reference.used, 1.0 / reference.scale, np.nan)
        places = {
            int(regime): (reference.center[row], factors[row]) for row, regime in enumerate(reference.regimes)
        }
        trained = (
            detector.trained_from_us,
            detector.trained_to_us,
            detector.samples,
            detector.distance_limit,
        )
        return cls(
            detector=detector,
            inverse=reference.inverse(),
            spread=np.sqrt(np.diag(reference.covariance)),
            pace=detector.settings.smoothing_s / detector.settings.follow_s,
            settling_us=detector.settings.settling_s * 1e6,
            places=places,
            mark=zlib.crc32(repr(trained).encode()),
        )

    def shape(self, frozen_s: float) -> tuple[Floats, Floats]:
        """Return inverse covariance and standard deviations about a level frozen for `frozen_s`."""
        if frozen_s <= 0:
            return self.inverse, self.spread
        reference = self.detector.reference
        share = min(frozen_s / reference.wander_s, 1.0)
        return reference.inverse(frozen_s), np.sqrt(self.spread**2 + share * reference.wander)


@dataclass(slots=True)
class PumpState:
    """State of one pump: its columns of `RunningStatistics` (5, k), scaled for the detector with this `mark`.

    `frozen_s`: time for which the level has been frozen because the score exceeds the threshold.
    """

    columns: Floats
    mark: int = 0
    frozen_s: float = 0.0
    changed_us: int = NEVER
    regime: int | None = None
    left_us: int | None = None
    unscored: bool = False
    newest_us: int = NEVER
    score: float = 0.0
    contributions: tuple[tuple[str, float], ...] = ()
    alarm: Persistence = field(default_factory=Persistence)
    scorer: Scorer | None = None

    def use(self, scorer: Scorer | None) -> None:
        """Score with `scorer` from now on; another detector restarts the statistics. None: do not score."""
        self.scorer = scorer
        if scorer is not None and scorer.mark != self.mark:
            self.columns, self.mark = initial_columns(scorer.detector.reference.level), scorer.mark

    def conclude(
        self, columns: Floats, score: float, contributions: tuple[tuple[str, float], ...], scorer: Scorer
    ) -> None:
        """Take the statistics and the score after a reading."""
        self.columns, self.score, self.contributions = columns, score, contributions
        self.alarm.update(score, self.newest_us, scorer.detector.settings.smoothing_s * 1e6)

    def freeze(self, moved_s: float | None) -> None:
        """Add to the time for which the level is frozen; None: it is not."""
        self.frozen_s = 0.0 if moved_s is None else self.frozen_s + moved_s

    def record(self, time_us: int, regime: int, steady: bool) -> tuple[Floats, Floats] | None:
        """Record a reading; return the centre and factors to score it with, None if it is not scored."""
        if time_us <= self.newest_us:
            return None
        self.newest_us = time_us
        self._track(time_us, regime, steady)
        if self.scorer is None:
            return None
        settles = time_us - self.changed_us < self.scorer.settling_us
        self.unscored = not steady or settles or regime not in self.scorer.places
        return None if self.unscored else self.scorer.places[regime]

    def _track(self, time_us: int, regime: int, steady: bool) -> None:
        """Track unsteady intervals, and the last start or change of regime."""
        if not steady:
            self.left_us = time_us if self.left_us is None else self.left_us
            return
        away_us = 0 if self.left_us is None else time_us - self.left_us
        if away_us >= MIN_UNSTEADY_S * 1e6 or self.regime not in (None, regime):
            self.changed_us = time_us
        self.left_us, self.regime = None, regime

    def verdict(self) -> AnomalyVerdict:
        """Return the latest verdict; while nothing is scored, only a standing alarm."""
        since, learning = self.alarm.alarmed_us, self.scorer is None or self.unscored
        contributions = () if learning and since is None else self.contributions
        score = 0.0 if learning and since is None else self.score
        return AnomalyVerdict(score, THRESHOLD, since is not None, learning, contributions, since)


def initial_columns(level: Floats) -> Floats:
    """Return the columns of `RunningStatistics` of one pump before its first reading."""
    zero = np.zeros_like(level)
    return np.stack([level, level, zero, zero, np.full_like(level, np.nan)])
