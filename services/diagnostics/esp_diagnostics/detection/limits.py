"""Monitor channel limits of many pumps, with deadband and delays in data time."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import orjson
from esp_common.contracts.channels import CHANNELS
from esp_common.contracts.readings import Readings

from esp_diagnostics.detection.limit_rules import Limit

_COLUMN: Final = {channel.name: position for position, channel in enumerate(CHANNELS)}
_NOT_SINCE: Final = -1
_NEVER: Final = np.iinfo(np.int64).min

BoolMatrix = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class LimitChange:
    """A limit was exceeded or cleared; `time_us`: since when, `value`: the deciding value."""

    pump_id: str
    limit: Limit
    active: bool
    time_us: int
    value: float
    threshold: float


class LimitMonitor:
    """Monitor the limits of many pumps; time comes with the readings.

    `thresholds`: pump id → limit name → value (see `alerts.rules.limits_of`). Readings that are not newer
    than the pump's newest are ignored; a missing value changes nothing.
    """

    def __init__(self, limits: Sequence[Limit], thresholds: Mapping[str, Mapping[str, float]]) -> None:
        self._start(limits, thresholds)

    def replace(
        self, limits: Sequence[Limit], thresholds: Mapping[str, Mapping[str, float]]
    ) -> list[LimitChange]:
        """Replace limits and thresholds; keep the state of pumps and limits that remain.

        Return exceeded limits that are no longer monitored, as cleared.
        """
        dropped = [
            self._dropped(pump_id, column)
            for pump_id, position in self._position.items()
            for column in np.flatnonzero(self._active[position])
            if self._limits[column].name not in thresholds.get(pump_id, {})
            or self._limits[column].name not in {limit.name for limit in limits}
        ]
        kept = self.snapshot(self._ids)
        self._start(limits, thresholds)
        self.restore(kept)
        return dropped

    def _dropped(self, pump_id: str, column: np.int64) -> LimitChange:
        position = self._position[pump_id]
        threshold = float(self._thresholds[position, column])
        time_us = int(self._newest[position])
        return LimitChange(pump_id, self._limits[column], False, time_us, float("nan"), threshold)

    def _start(self, limits: Sequence[Limit], thresholds: Mapping[str, Mapping[str, float]]) -> None:
        self._limits = tuple(limits)
        self._ids = list(thresholds)
        self._position = {pump_id: position for position, pump_id in enumerate(thresholds)}
        shape = (len(thresholds), len(self._limits))
        self._thresholds = np.full(shape, np.nan)
        for pump_id, values in thresholds.items():
            for column, limit in enumerate(self._limits):
                self._thresholds[self._position[pump_id], column] = values.get(limit.name, np.nan)
        self._active = np.zeros(shape, dtype=bool)
        self._since = np.full(shape, _NOT_SINCE, dtype=np.int64)
        self._newest = np.full(len(thresholds), _NEVER, dtype=np.int64)

    def observe(self, readings: Readings, unfit: BoolMatrix | None = None) -> list[LimitChange]:
        """Process `readings` in any order and return the changes; `unfit` (n, channels): values to ignore."""
        known = np.fromiter(
            (self._position.get(pump_id, -1) for pump_id in readings.pump_id), np.int64, len(readings)
        )
        order = np.argsort(readings.time_us, kind="stable")
        order = order[known[order] >= 0]
        order = order[readings.time_us[order] > self._newest[known[order]]]
        pumps, times = known[order], readings.time_us[order]
        found: list[LimitChange] = []
        for column, limit in enumerate(self._limits):
            values = readings.values[order, _COLUMN[limit.channel]]
            if unfit is not None:
                values = np.where(unfit[order, _COLUMN[limit.channel]], np.nan, values)
            found += self._observe_limit(column, limit, pumps, times, values)
        np.maximum.at(self._newest, pumps, times)
        return sorted(found, key=lambda change: change.time_us)

    def _observe_limit(
        self,
        column: int,
        limit: Limit,
        pumps: npt.NDArray[np.int64],
        times: npt.NDArray[np.int64],
        values: npt.NDArray[np.float64],
    ) -> Iterator[LimitChange]:
        """Step through the readings of pumps whose limit is exceeded or changing; most need no step."""
        sign = 1.0 if limit.high is not None else -1.0
        excess = sign * (values - self._thresholds[pumps, column])
        busy = self._active[:, column] | (self._since[:, column] != _NOT_SINCE)
        busy[pumps[excess > 0]] = True
        for row in np.flatnonzero(busy[pumps] & ~np.isnan(excess)):
            pump = pumps[row]
            since = self._step(pump, column, limit, int(times[row]), float(excess[row]))
            if since is not None:
                yield LimitChange(
                    self._ids[pump],
                    limit,
                    bool(self._active[pump, column]),
                    since,
                    float(values[row]),
                    float(self._thresholds[pump, column]),
                )

    def _step(self, pump: np.int64, column: int, limit: Limit, time_us: int, excess: float) -> int | None:
        """Process one value; return since when the limit is exceeded or cleared, if that changed."""
        active = bool(self._active[pump, column])
        changing = excess < -limit.deadband if active else excess > 0
        if not changing:
            self._since[pump, column] = _NOT_SINCE
            return None
        since = int(self._since[pump, column])
        since = time_us if since == _NOT_SINCE else since
        delay_s = limit.off_delay_s if active else limit.on_delay_s
        if time_us - since < delay_s * 1e6:
            self._since[pump, column] = since
            return None
        self._active[pump, column] = not active
        self._since[pump, column] = _NOT_SINCE
        return since

    def active(self, pump_id: str) -> list[str]:
        """Return the conditions of the exceeded limits of a pump."""
        position = self._position.get(pump_id)
        if position is None:
            return []
        return [limit.condition for limit, on in zip(self._limits, self._active[position], strict=True) if on]

    def snapshot(self, pump_ids: Sequence[str]) -> dict[str, bytes]:
        """Return the state of pumps, for `restore`."""
        return {pump_id: self._saved(self._position[pump_id]) for pump_id in pump_ids}

    def _saved(self, pump: int) -> bytes:
        limits = {
            limit.name: [bool(self._active[pump, column]), int(self._since[pump, column])]
            for column, limit in enumerate(self._limits)
            if self._active[pump, column] or self._since[pump, column] != _NOT_SINCE
        }
        return orjson.dumps({"newest": int(self._newest[pump]), "limits": limits})

    def restore(self, snapshots: Mapping[str, bytes]) -> None:
        """Restore the state of pumps; ignore unknown pumps and limits."""
        columns = {limit.name: column for column, limit in enumerate(self._limits)}
        for pump_id in snapshots.keys() & self._position.keys():
            pump, saved = self._position[pump_id], orjson.loads(snapshots[pump_id])
            self._newest[pump] = saved["newest"]
            for name in saved["limits"].keys() & columns.keys():
                column = columns[name]
                if not np.isnan(self._thresholds[pump, column]):
                    self._active[pump, column], self._since[pump, column] = saved["limits"][name]
