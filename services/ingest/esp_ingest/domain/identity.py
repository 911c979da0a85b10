"""Whose readings they are, of which pump and of when: what refuses a reading whole."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import numpy as np
from esp_common.contracts.readings import Int32Array, Int64Array
from esp_common.times import time_fault

from esp_ingest.domain.blocks import Columns
from esp_ingest.domain.columns import Mask
from esp_ingest.domain.decode import Decoded
from esp_ingest.domain.readings import Reason
from esp_ingest.domain.registry import Registry
from esp_ingest.domain.verdicts import Verdicts

MAX_AHEAD_US: Final = 5 * 60 * 1_000_000
"""How far a gateway's clock may run ahead."""

OLDEST_US: Final = 946_684_800 * 1_000_000
"""2000-01-01: nothing was measured before."""


def _us(year: int, month: int, day: int, hour: int = 0) -> int:
    return int(datetime(year, month, day, hour, tzinfo=UTC).timestamp()) * 1_000_000


CLOCK_STARTS: Final = (
    (_us(1969, 12, 31, 10), _us(1970, 1, 2, 12)),
    (_us(1980, 1, 5, 10), _us(1980, 1, 7, 12)),
    (_us(1999, 12, 31, 10), _us(2000, 1, 2)),
)
"""The first day of clocks that nobody has set (Unix, GPS, PLCs and drives), from and until.

Local time of any zone: 14 hours before and 12 after, but not into times that a reading may have.
"""


@dataclass(frozen=True, slots=True)
class Pumps:
    """Who reported what: (N,) pump number, -1 where unknown, and whether the gateway may report it."""

    names: list[str]
    pump_no: Int32Array
    allowed: Mask

    @classmethod
    def find(cls, decoded: Decoded, columns: Columns, registry: Registry) -> "Pumps":
        """Look up the pumps of N readings."""
        names = list(columns.pump_ids)
        pumps = [registry.pumps.get(name) for name in names]
        by_code = np.array([*(-1 if pump is None else pump.pump_no for pump in pumps), -1], dtype=np.int32)
        gateways: dict[str, int] = {}
        codes = np.array(
            [gateways.setdefault(b.gateway_id, len(gateways)) for b in decoded.bodies], dtype=np.int64
        )
        pairs, which = np.unique(
            codes[decoded.body_of] * (len(names) + 1) + columns.pump_code % (len(names) + 1),
            return_inverse=True,
        )
        gateway_ids = list(gateways)
        allowed = np.array(
            [
                registry.may_report(
                    gateway_ids[pair // (len(names) + 1)], int(by_code[pair % (len(names) + 1)])
                )
                for pair in pairs.tolist()
            ],
            dtype=np.bool_,
        )
        return cls(names, by_code[columns.pump_code], allowed[which])


def judge_identity(
    decoded: Decoded, registry: Registry, columns: Columns, pumps: Pumps, verdicts: Verdicts
) -> None:
    """Refuse readings without a time, of unknown gateways and pumps, and of pumps of other gateways."""
    verdicts.refuse(columns.unset, Reason.INVALID_TIME, lambda n: time_fault(decoded.sent(n).get("time")))
    strangers = np.array(
        [not registry.knows_gateway(body.gateway_id) for body in decoded.bodies], dtype=np.bool_
    )
    if strangers.any():
        verdicts.refuse(strangers[decoded.body_of], Reason.UNKNOWN_GATEWAY, "the gateway is not registered")

    def pump(number: int) -> str:
        return pumps.names[int(columns.pump_code[number])]

    verdicts.refuse(pumps.pump_no < 0, Reason.UNKNOWN_PUMP, lambda n: f"no pump {pump(n)!r} is registered")
    verdicts.refuse(
        ~pumps.allowed, Reason.FOREIGN_GATEWAY, lambda n: f"pump {pump(n)!r} is not one of this gateway's"
    )


def judge_time(time_us: Int64Array, now_us: Int64Array, verdicts: Verdicts) -> None:
    """Refuse times ahead of `now_us` (N,), of clocks that were never set, and before the year 2000."""
    verdicts.refuse(
        time_us > now_us + MAX_AHEAD_US,
        Reason.TIME_IN_FUTURE,
        lambda n: f"{(int(time_us[n]) - int(now_us[n])) / 1e6:.0f} s ahead of the clock",
    )
    if not (time_us < CLOCK_STARTS[-1][1]).any():
        return
    for start, end in CLOCK_STARTS:
        detail = "the sender's clock was never set: its time is on the first day of a clock"
        verdicts.refuse((time_us >= start) & (time_us < end), Reason.CLOCK_NOT_SET, detail)
    verdicts.refuse(time_us < OLDEST_US, Reason.TIME_TOO_OLD, "before the year 2000")
