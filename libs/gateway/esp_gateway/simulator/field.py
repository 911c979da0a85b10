"""A simulated field: wells, gateways and the readings they send."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

import numpy as np
from esp_common.contracts.channels import CHANNEL_COUNT
from esp_common.contracts.readings import Readings

from esp_gateway.simulator import assets
from esp_gateway.simulator.faults import (
    SHARED_SUPPLY,
    Command,
    Fault,
    GaugeFailure,
    Injection,
    Order,
    Schedule,
)
from esp_gateway.simulator.gateways import STYLES, Gateway, Style
from esp_gateway.simulator.gauge import Instruments, instruments
from esp_gateway.simulator.model import TICK_S, Model, Tick, tick_random
from esp_gateway.simulator.pump import Curve, Floats
from esp_gateway.simulator.sampling import Sample, sample
from esp_gateway.simulator.wells import Wells, design_wells, draw_models

PUMPS_PER_GATEWAY: Final = 10
ROWS_AT_ONCE: Final = 12_000
"""Rows solved together: large enough to hide numpy's overhead, small enough for the cache."""


@dataclass(frozen=True, slots=True)
class GatewayBatch:
    """What one gateway has to send at one moment: wire readings, oldest first."""

    gateway_id: str
    readings: list[dict[str, Any]]


class Field:
    """A seeded field of ESP wells; the same seed and the same calls give the same readings.

    Time is whatever the caller says: the first `step` or `columns` starts the wells in a healthy steady
    state at that time. Later calls continue if they join on; `columns` from anywhere else starts again.
    """

    def __init__(
        self,
        seed: int,
        models: list[Curve],
        wells: Wells,
        measured_by: Instruments,
        *,
        style: Style | None,
        interval_s: float,
        protected: bool,
    ) -> None:
        n = len(models)
        self.pump_ids = [f"SIM-{number:03d}" for number in range(1, n + 1)]
        self.interval_s = interval_s
        self._seed, self._models, self.wells = seed, models, wells
        self._instruments = measured_by
        self._schedule = Schedule()
        self._gateways = _gateways(self.pump_ids, style)
        feeder = np.arange(n) // PUMPS_PER_GATEWAY * PUMPS_PER_GATEWAY
        self._model = Model(wells, self._schedule, seed, feeder, protected=protected)
        self._tick: Tick | None = None
        self._until_s: float | None = None
        self._drawn: tuple[tuple[int, int], Floats] = ((-1, -1), np.zeros(0))

    def assets(self) -> dict[str, Any]:
        """Return the field, wells, pumps, gateways and tag maps in the shape ingest imports."""
        return assets.document(self._models, self.wells, self._gateways, self.interval_s)

    def inject(
        self,
        pump_id: str,
        fault: Fault,
        onset: datetime,
        severity: float = 1.0,
        ramp: timedelta = timedelta(0),
        gauge: GaugeFailure = GaugeFailure.FROZEN,
    ) -> None:
        """Let `fault` begin at `onset` and grow over `ramp` to `severity` (0-1).

        A fault of the supply hits every pump on the feeder, which is the gateway's.

        Raises KeyError for an unknown pump and ValueError for a severity outside 0-1.
        """
        if not 0.0 <= severity <= 1.0:
            raise ValueError(f"severity {severity:g} of {fault} on {pump_id} is not between 0 and 1")
        first = self._index(pump_id)
        fed = range(len(self.pump_ids))[self._gateways[first // PUMPS_PER_GATEWAY].pumps]
        for pump in fed if fault in SHARED_SUPPLY else [first]:
            self._schedule.injections.append(
                Injection(pump, fault, onset.timestamp(), severity, ramp.total_seconds(), gauge)
            )

    def clear(self, pump_id: str) -> None:
        """Repair everything that is wrong with a pump, at once."""
        pump = self._index(pump_id)
        self._schedule.injections = [item for item in self._schedule.injections if item.pump != pump]
        self._instruments.held.pop(pump, None)

    def order(self, pump_id: str, order: Order, at: datetime, frequency_hz: float = 0.0) -> None:
        """Stop, start or set the frequency of a pump, at the first model tick (whole minute) from `at` on."""
        self._schedule.commands.append(Command(at.timestamp(), self._index(pump_id), order, frequency_hz))

    def step(self, to: datetime) -> list[GatewayBatch]:
        """Advance to `to` and return what each gateway has to send since the last call.

        Scans are at whole multiples of the interval. A gateway with nothing to say is left out.
        """
        end_s = to.timestamp()
        start_s = self._until_s if self._until_s is not None else end_s - self.interval_s
        if end_s < start_s:
            raise ValueError(f"the field is already past {to.isoformat()}")
        instants = _scans(start_s, end_s, self.interval_s)
        if self._until_s is None and len(instants):
            self._restart()
        self._until_s = end_s
        said: dict[str, list[dict[str, Any]]] = {}
        for time_s, taken in self._blocks(instants, self.interval_s):
            for row in range(len(time_s)):
                one = Sample(taken.values[row], taken.running[row], taken.trip_code[row])
                for gateway in self._gateways:
                    said.setdefault(gateway.gateway_id, []).extend(gateway.report(time_s[row], one))
        return [GatewayBatch(gateway_id, readings) for gateway_id, readings in said.items() if readings]

    def columns(self, start: datetime, end: datetime, interval_s: float) -> Readings:
        """Return every pump's readings at each `interval_s` in [start, end), ordered by time then pump.

        All pumps and channels, whatever their gateway's style; rate and water cut only where measured.
        """
        start_s, end_s = start.timestamp(), end.timestamp()
        if self._until_s is None or abs(self._until_s - start_s) > 1e-6:
            self._restart()
        self._until_s = end_s
        scans = int(np.ceil((end_s - start_s) / interval_s - 1e-9))
        instants = np.asarray(start_s + interval_s * np.arange(scans), dtype=np.float64)
        n = len(self.pump_ids)
        values = np.empty((len(instants), n, CHANNEL_COUNT))
        running = np.empty((len(instants), n), dtype=np.int8)
        trips = np.empty((len(instants), n), dtype=np.int32)
        row = 0
        for time_s, taken in self._blocks(instants, interval_s):
            rows = slice(row, row + len(time_s))
            values[rows], running[rows], trips[rows] = taken
            row = rows.stop
        return Readings(
            pump_id=np.tile(np.array(self.pump_ids, dtype=object), len(instants)),
            time_us=np.repeat(np.rint(instants * 1e6).astype(np.int64), n),
            values=values.reshape(-1, CHANNEL_COUNT),
            running=running.ravel(),
            trip_code=trips.ravel(),
        )

    def chunks(
        self, start: datetime, end: datetime, interval_s: float, hours: float = 6.0
    ) -> Iterator[Readings]:
        """Yield `columns` of the span piece by piece, each `hours` long."""
        while start < end:
            until = min(start + timedelta(hours=hours), end)
            yield self.columns(start, until, interval_s)
            start = until

    def _index(self, pump_id: str) -> int:
        try:
            return self.pump_ids.index(pump_id)
        except ValueError:
            raise KeyError(f"no pump {pump_id} in this field of {len(self.pump_ids)}") from None

    def _restart(self) -> None:
        self._model.restart()
        self._tick = None
        self._instruments.held.clear()

    def _blocks(self, instants: Floats, interval_s: float) -> Iterator[tuple[Floats, Sample]]:
        """Yield times (T, n) and what the instruments show then, a cacheful at a time."""
        n = len(self.pump_ids)
        at_once = max(ROWS_AT_ONCE // n, 1)
        for first in range(0, len(instants), at_once):
            part = instants[first : first + at_once]
            numbers, which = np.unique((part // TICK_S).astype(np.int64), return_inverse=True)
            ticks = [self._at(int(number)) for number in numbers]
            time_s = np.repeat(part[:, None], n, axis=1)
            noise = self._noise(part, numbers, which, interval_s)
            yield time_s, self._measured(ticks, which, time_s, noise, interval_s)

    def _measured(
        self,
        ticks: list[Tick],
        which: np.ndarray[Any, np.dtype[np.intp]],
        time_s: Floats,
        noise: Floats,
        interval_s: float,
    ) -> Sample:
        """Return what the instruments show of the wells at `time_s`."""
        causes = self._schedule.causes(time_s)
        true = sample(self.wells, ticks, which, time_s, causes)
        values = self._instruments.measure(true.values, noise, true.running, causes)
        self._instruments.hide_untested(values, time_s, interval_s)
        self._instruments.spoil(values, time_s, noise, self._schedule)
        return true._replace(values=values)

    def _noise(
        self,
        instants: Floats,
        numbers: np.ndarray[Any, np.dtype[np.int64]],
        which: np.ndarray[Any, np.dtype[np.intp]],
        interval_s: float,
    ) -> Floats:
        """Return (T, n, channels) standard normals that depend on the instant and not on the way there."""
        scans = max(int(np.ceil(TICK_S / interval_s)), 1)
        within = ((instants - numbers[which] * TICK_S) // interval_s).astype(np.int64)
        draws = np.stack([self._draws(int(number), scans) for number in numbers])
        return np.asarray(draws[which, np.minimum(within, scans - 1)])

    def _draws(self, number: int, scans: int) -> Floats:
        """Return a tick's noise; the last one is kept, for scans that come one by one."""
        if self._drawn[0] != (number, scans):
            shape = (scans, len(self.pump_ids), CHANNEL_COUNT)
            self._drawn = ((number, scans), tick_random(self._seed, number, stream=1).standard_normal(shape))
        return self._drawn[1]

    def _at(self, number: int) -> Tick:
        """Return tick `number` (minutes since 1970), moving the model on to it."""
        tick = self._tick
        if tick is None:
            tick = self._model.advance(number * TICK_S)
        while tick.start_s < number * TICK_S:
            tick = self._model.advance(tick.start_s + TICK_S)
        self._tick = tick
        return tick


def _gateways(pump_ids: list[str], style: Style | None) -> list[Gateway]:
    """Return gateways of ten pumps each, in the given style or in all of them by turns."""
    return [
        Gateway(
            gateway_id=f"gw-{number + 1:02d}",
            pump_ids=pump_ids[first : first + PUMPS_PER_GATEWAY],
            pumps=slice(first, min(first + PUMPS_PER_GATEWAY, len(pump_ids))),
            style=style or STYLES[number % len(STYLES)],
        )
        for number, first in enumerate(range(0, len(pump_ids), PUMPS_PER_GATEWAY))
    ]


def _scans(after_s: float, until_s: float, interval_s: float) -> Floats:
    """Return the multiples of the interval in (after, until]."""
    first, last = np.floor(after_s / interval_s + 1e-9) + 1, np.floor(until_s / interval_s + 1e-9)
    return np.asarray(np.arange(first, last + 1) * interval_s)


def build_field(
    seed: int,
    pumps: int = 50,
    *,
    style: Style | None = None,
    interval_s: float = 10.0,
    protected: bool = True,
) -> Field:
    """Return a field of `pumps` wells, the same for the same seed.

    `style`: how every gateway reports; by default each in its own (`gateways.STYLES`). `interval_s`:
    time between scans. `protected`: whether drives trip; without it a fault can be watched to its end.
    """
    random = np.random.default_rng(seed)
    models = draw_models(random, pumps)
    wells = design_wells(random, models)
    return Field(
        seed,
        models,
        wells,
        instruments(random, pumps),
        style=style,
        interval_s=interval_s,
        protected=protected,
    )
