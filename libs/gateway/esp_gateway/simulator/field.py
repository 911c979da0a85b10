"""A simulated field: wells, gateways and the readings they send."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import numpy as np

from esp_common.contracts.channels import CHANNEL_INDEX
from esp_common.contracts.readings import Readings, empty_readings
from esp_gateway.simulator.pump import AN550

FIELD_ID: Final = "sim"
PUMPS_PER_GATEWAY: Final = 10


@dataclass(frozen=True, slots=True)
class GatewayBatch:
    """What one gateway has to send at one moment: wire readings, oldest first."""

    gateway_id: str
    readings: list[dict[str, Any]]


class Field:
    """A seeded field of ESP wells; the same seed and the same calls give the same readings."""

    def __init__(self, seed: int, pumps: int) -> None:
        self._random = np.random.default_rng(seed)
        self.pump_ids = [f"SIM-{number:03d}" for number in range(1, pumps + 1)]
        self._clock: datetime | None = None

    def assets(self) -> dict[str, Any]:
        """Return the field, wells, pumps, gateways and tag maps in the shape ingest imports."""
        gateways = [
            {
                "gateway_id": f"gw-{start // PUMPS_PER_GATEWAY + 1:02d}",
                "field_id": FIELD_ID,
                "name": f"Gateway {start // PUMPS_PER_GATEWAY + 1}",
                "pumps": self.pump_ids[start : start + PUMPS_PER_GATEWAY],
            }
            for start in range(0, len(self.pump_ids), PUMPS_PER_GATEWAY)
        ]
        wells = [{"well_id": f"W-{p[4:]}", "field_id": FIELD_ID, "name": f"Well {p[4:]}"} for p in self.pump_ids]
        pumps = [{"pump_id": p, "well_id": f"W-{p[4:]}", "model": AN550.model, "stages": 250} for p in self.pump_ids]
        return {
            "fields": [{"field_id": FIELD_ID, "name": "Simulated field"}],
            "wells": wells,
            "pumps": pumps,
            "gateways": gateways,
            "tag_maps": [],
        }

    def step(self, to: datetime) -> list[GatewayBatch]:
        """Advance to `to` and return what each gateway has to send since the last call."""
        start = self._clock or to - timedelta(seconds=10)
        self._clock = to
        readings = self.columns(start, to, 10)
        rows = [
            {"pump_id": p, "time": to.astimezone(UTC).isoformat().replace("+00:00", "Z"), "intake_pressure_psi": 500.0}
            for p in self.pump_ids
        ]
        del readings
        return [
            GatewayBatch(f"gw-{start // PUMPS_PER_GATEWAY + 1:02d}", rows[start : start + PUMPS_PER_GATEWAY])
            for start in range(0, len(rows), PUMPS_PER_GATEWAY)
        ]

    def columns(self, start: datetime, end: datetime, interval_s: float) -> Readings:
        """Return every pump's readings at each `interval_s` in [start, end), ordered by time then pump."""
        instants = np.arange(start.timestamp(), end.timestamp(), interval_s)
        readings = empty_readings(len(instants) * len(self.pump_ids))
        readings.time_us[:] = np.repeat((instants * 1e6).astype(np.int64), len(self.pump_ids))
        readings.pump_id[:] = np.tile(np.array(self.pump_ids, dtype=object), len(instants))
        readings.values[:, CHANNEL_INDEX["intake_pressure_psi"]] = 500.0
        return readings

    def chunks(self, start: datetime, end: datetime, interval_s: float, hours: float = 6.0) -> Iterator[Readings]:
        """Yield `columns` of the span piece by piece, each `hours` long."""
        while start < end:
            until = min(start + timedelta(hours=hours), end)
            yield self.columns(start, until, interval_s)
            start = until


def build_field(seed: int, pumps: int = 50) -> Field:
    """Return a field of `pumps` wells, the same for the same seed."""
    return Field(seed, pumps)
