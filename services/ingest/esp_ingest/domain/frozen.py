"""Gauge values that stand still for longer than a working gauge's noise allows."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from esp_common.contracts.channels import CHANNEL_INDEX
from esp_common.contracts.readings import RUNNING_ABSENT, Int8Array, Int32Array, Int64Array

from esp_ingest.domain.columns import Mask
from esp_ingest.domain.scaling import NULL_INT

NOISY: Final = tuple(
    CHANNEL_INDEX[name]
    for name in (
        "intake_pressure_psi",
        "discharge_pressure_psi",
        "motor_temp_c",
        "vibration_x_g",
        "vibration_y_g",
    )
)
"""Channels whose gauge never repeats itself for long while the pump runs.

Intake temperature is left out: in a steady flow a gauge of 0.1 °C may well read the same all day.
"""

MIN_AGE_US: Final = 3600 * 1_000_000
MIN_READINGS: Final = 30
_FREQUENCY: Final = CHANNEL_INDEX["frequency_hz"]
_NEVER: Final = int(np.iinfo(np.int64).min)


@dataclass(slots=True)
class _Runs:
    """Per pump number: the value a channel has now, since when, when last seen and how often."""

    value: Int32Array
    since_us: Int64Array
    last_us: Int64Array
    count: Int64Array

    @classmethod
    def empty(cls, n: int) -> "_Runs":
        never = np.full(n, _NEVER, dtype=np.int64)
        return cls(np.full(n, NULL_INT, dtype=np.int32), never, never.copy(), np.zeros(n, dtype=np.int64))

    def grow(self, n: int) -> None:
        more = _Runs.empty(n - len(self.value))
        self.value = np.concatenate([self.value, more.value])
        self.since_us = np.concatenate([self.since_us, more.since_us])
        self.last_us = np.concatenate([self.last_us, more.last_us])
        self.count = np.concatenate([self.count, more.count])

    def judge(self, pump: Int64Array, time_us: Int64Array, value: Int32Array) -> Mask:
        """Return which of n readings, sorted by pump and time, belong to a frozen run; remember them."""
        frozen = np.zeros(len(pump), dtype=np.bool_)
        late = time_us <= self.last_us[pump]
        if late.any():
            # Out of order or sent again: judged by the run it falls into, and leaves no trace in it.
            frozen[late] = self._in_run(pump[late], time_us[late], value[late])
        fresh = np.flatnonzero(~late)
        if len(fresh):
            frozen[fresh] = self._extend(pump[fresh], time_us[fresh], value[fresh])
        return frozen

    def _in_run(self, pump: Int64Array, time_us: Int64Array, value: Int32Array) -> Mask:
        old = (self.count[pump] >= MIN_READINGS) & (time_us >= self.since_us[pump] + MIN_AGE_US)
        return np.asarray(old & (value == self.value[pump]))

    def _extend(self, pump: Int64Array, time_us: Int64Array, value: Int32Array) -> Mask:
        """Split the readings into runs of one pump and value, the first of which may go on from before."""
        new_pump = np.ones(len(pump), dtype=np.bool_)
        new_pump[1:] = pump[1:] != pump[:-1]
        new_run = new_pump.copy()
        new_run[1:] |= value[1:] != value[:-1]
        goes_on = new_pump & (value == self.value[pump]) & (self.count[pump] > 0)
        start = np.maximum.accumulate(np.where(new_run, np.arange(len(pump)), 0))
        since = np.where(goes_on[start], self.since_us[pump], time_us[start])
        count = np.arange(len(pump)) - start + 1 + np.where(goes_on[start], self.count[pump], 0)
        last = np.append(np.flatnonzero(new_pump)[1:] - 1, len(pump) - 1)
        at = pump[last]
        self.value[at], self.since_us[at] = value[last], since[last]
        self.last_us[at], self.count[at] = time_us[last], count[last]
        return np.asarray((count >= MIN_READINGS) & (time_us - since >= MIN_AGE_US))

    def end(self, pump: Int64Array) -> None:
        """Forget the runs of `pump`: what stands still while it is stopped proves nothing."""
        self.count[pump] = 0


class FrozenTracker:
    """Follows every pump's noisy gauge channels; one per worker, in memory.

    After a restart a frozen channel is flagged again an hour later at most: the flag is a hint for
    people, and its absence loses no value.
    """

    def __init__(self) -> None:
        self._runs = {channel: _Runs.empty(0) for channel in NOISY}
        self._stopped: Mask = np.zeros(0, dtype=np.bool_)

    def judge(
        self, pump_no: Int32Array, time_us: Int64Array, scaled: Int32Array, running: Int8Array
    ) -> Int32Array:
        """Return the (n,) mask of frozen channels of n rows that are sorted by pump and time."""
        mask = np.zeros(len(pump_no), dtype=np.int32)
        if not len(pump_no):
            return mask
        self._grow(int(pump_no.max()) + 1)
        pump = pump_no.astype(np.int64)
        stopped = self._follow_state(pump, scaled[:, _FREQUENCY], running)
        for channel, runs in self._runs.items():
            runs.end(pump[stopped])
            there = np.flatnonzero((scaled[:, channel] != NULL_INT) & ~stopped)
            if len(there):
                frozen = runs.judge(pump[there], time_us[there], scaled[there, channel])
                mask[there[frozen]] |= np.int32(1 << channel)
        return mask

    def _grow(self, n: int) -> None:
        if n > len(self._stopped):
            room = max(n, 2 * len(self._stopped))
            self._stopped = np.concatenate(
                [self._stopped, np.zeros(room - len(self._stopped), dtype=np.bool_)]
            )
            for runs in self._runs.values():
                runs.grow(room)

    def _follow_state(self, pump: Int64Array, frequency: Int32Array, running: Int8Array) -> Mask:
        """Return where the pump is known to stand; a reading without state goes by the one before."""
        known = (running != RUNNING_ABSENT) | (frequency != NULL_INT)
        stands = np.where(running != RUNNING_ABSENT, running == 0, frequency <= 0)
        new_pump = np.ones(len(pump), dtype=np.bool_)
        new_pump[1:] = pump[1:] != pump[:-1]
        source = np.maximum.accumulate(np.where(known | new_pump, np.arange(len(pump)), 0))
        stopped = np.where(known[source], stands[source], self._stopped[pump])
        last = np.append(np.flatnonzero(new_pump)[1:] - 1, len(pump) - 1)
        self._stopped[pump[last]] = stopped[last]
        return stopped
