"""Read the fleet overview."""

from collections.abc import Sequence
from dataclasses import astuple, dataclass
from typing import Any, Final

from esp_common.database import Pool, load_queries

from esp_diagnostics.silence.rules import SilencePolicy

_SQL: Final = load_queries(__package__, "fleet.sql")

SHOWN: Final = (
    *("intake_pressure_psi", "discharge_pressure_psi", "motor_temp_c", "frequency_hz", "motor_current_a"),
    *("active_power_kw", "wellhead_pressure_psi", "flow_rate_bpd", "vibration_x_g", "choke_pct"),
)
"""Channels whose latest values the overview shows."""

_OLDEST: Final = (
    "SELECT now() - make_interval(secs => greatest(${1}::float8, ${0}::float8 * "
    "coalesce((p.nameplate ->> 'expected_interval_s')::float8, ${2}::float8))) AS oldest"
)
_PAGE: Final = _SQL.page.format(
    shown=", ".join(f"'{name}', c -> '{name}' -> 'value'" for name in SHOWN), oldest=_OLDEST.format(8, 9, 10)
)
_SUMMARY: Final = _SQL.summary.format(oldest=_OLDEST.format(2, 3, 4))
STATEMENTS: Final = (_PAGE, _SUMMARY)
"""Statements of a first page."""

Row = Any


@dataclass(frozen=True, slots=True)
class FleetFilter:
    """Filter of the fleet: None matches any; `severity`: minimum."""

    field_id: str | None = None
    states: Sequence[str] | None = None
    severity: str | None = None


@dataclass(frozen=True, slots=True)
class Place:
    """Sort key of a pump."""

    severity_place: int
    health_place: float
    pump_id: str


class FleetStore:
    """Read the fleet overview. `policy`: when a pump is silent."""

    def __init__(self, pool: Pool, policy: SilencePolicy) -> None:
        self._pool = pool
        self._policy = astuple(policy)

    async def page(self, wanted: FleetFilter, after: Place | None, limit: int) -> list[Row]:
        """Return up to `limit` pumps after `after`, worst first: `item` as JSON, and the sort key."""
        states = list(wanted.states) if wanted.states else None
        place = (after.severity_place, after.health_place, after.pump_id) if after else (None, None, None)
        return await self._pool.fetch(
            _PAGE, wanted.field_id, states, wanted.severity, *place, limit, *self._policy
        )

    async def summary(self, field_id: str | None) -> Row:
        """Return the number of pumps, by state and by severity."""
        return await self._pool.fetchrow(_SUMMARY, field_id, *self._policy)
