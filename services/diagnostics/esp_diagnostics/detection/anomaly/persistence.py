"""Persistence and hysteresis of anomaly alarms."""

from dataclasses import dataclass
from typing import Final

ALARM_AFTER: Final = 0.2
"""Time constants for which a score must exceed the threshold before the alarm."""

CLEAR_AFTER: Final = 1.0
"""Time constants for which it must stay below the lower threshold before the alarm ends."""

CLEAR_BELOW: Final = 0.7
"""Lower threshold as a share of the threshold."""


@dataclass(slots=True)
class Persistence:
    """Times (µs) since the score is above the threshold, below the lower one, and alarmed; None: not."""

    above_us: int | None = None
    below_us: int | None = None
    alarmed_us: int | None = None

    def update(self, score: float, now_us: int, time_constant_us: float) -> None:
        """Process the score at `now_us`; an alarm starts when the score first exceeded the threshold."""
        if self.alarmed_us is None:
            self._wait(score, now_us, ALARM_AFTER * time_constant_us)
        else:
            self._last(score, now_us, CLEAR_AFTER * time_constant_us)

    def _wait(self, score: float, now_us: int, for_us: float) -> None:
        if score <= 1.0:
            self.above_us = None
            return
        if self.above_us is None:
            self.above_us = now_us
        if now_us - self.above_us >= for_us:
            self.alarmed_us, self.above_us, self.below_us = self.above_us, None, None

    def _last(self, score: float, now_us: int, for_us: float) -> None:
        if score >= CLEAR_BELOW:
            self.below_us = None
            return
        if self.below_us is None:
            self.below_us = now_us
        if now_us - self.below_us >= for_us:
            self.alarmed_us = self.below_us = None
