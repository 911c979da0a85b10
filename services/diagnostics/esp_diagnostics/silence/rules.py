"""Detect silent pumps and gateways from the clock and each pump's own interval.

A gateway that sends nothing is one alert; it covers its pumps, which raise none of their own.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, NamedTuple

PUMP_CONDITION: Final = "no_data"
GATEWAY_CONDITION: Final = "gateway_no_data"
QUIET_SHARE: Final = 0.5
"""Share of the shortest pump timeout after which a gateway is quiet, ahead of its pumps."""

MIN_PUMPS: Final = 2
"""Minimum number of reporting pumps for a gateway to have an alert of its own."""


@dataclass(frozen=True, slots=True)
class SilencePolicy:
    """Silent: no reading for `intervals` intervals of the pump, and for at least `least_s`.

    `unknown_interval_s` is the interval of pumps without one.
    """

    intervals: float
    least_s: float
    unknown_interval_s: float

    def after_s(self, interval_s: float | None) -> float:
        """Return the time without readings (s) after which a pump with this interval is silent."""
        return max(self.least_s, self.intervals * (interval_s or self.unknown_interval_s))


class Reporting(NamedTuple):
    """Reporting pump: its newest reading, and its recorded silence."""

    pump_id: str
    field_id: str
    interval_s: float | None
    newest: datetime
    silent_since: datetime | None = None
    covered_by: str | None = None


class Silence(NamedTuple):
    """Silence of a pump since `since`; `covered_by`: silent gateway that has the alert."""

    since: datetime
    covered_by: str | None


class SilenceReport(NamedTuple):
    """Silent pumps, and the time since which each silent gateway sent nothing."""

    pumps: Mapping[str, Silence]
    gateways: Mapping[str, datetime]


def find_silent(
    pumps: Sequence[Reporting],
    gateways: Mapping[str, Collection[str]],
    returned: Mapping[str, datetime],
    policy: SilencePolicy,
    now: datetime,
) -> SilenceReport:
    """Return the silent pumps and gateways at `now`.

    `gateways`: pumps of each gateway. `returned`: when each formerly silent gateway returned; the timeout of
    its pumps restarts then.
    """
    by_id = {pump.pump_id: pump for pump in pumps}
    mine = {gateway: [by_id[p] for p in ids if p in by_id] for gateway, ids in gateways.items()}
    quiet = {gateway for gateway, those in mine.items() if _quiet(those, policy, now)}
    covering = {pump.pump_id: gateway for gateway in sorted(quiet) for pump in mine[gateway]}
    silent: dict[str, Silence] = {}
    for pump in pumps:
        after = timedelta(seconds=policy.after_s(pump.interval_s))
        if now - pump.newest > after:
            silent[pump.pump_id] = Silence(pump.newest, _cover(pump, covering, returned, after, now))
    dead = {silence.covered_by for silence in silent.values()} & quiet
    return SilenceReport(
        silent, {gateway: max(pump.newest for pump in mine[gateway]) for gateway in dead if gateway}
    )


def _quiet(pumps: Sequence[Reporting], policy: SilencePolicy, now: datetime) -> bool:
    if len(pumps) < MIN_PUMPS:
        return False
    soonest_s = min(policy.after_s(pump.interval_s) for pump in pumps)
    newest = max(pump.newest for pump in pumps)
    return now - newest > timedelta(seconds=QUIET_SHARE * soonest_s)


def _cover(
    pump: Reporting,
    covering: Mapping[str, str],
    returned: Mapping[str, datetime],
    after: timedelta,
    now: datetime,
) -> str | None:
    """Return the gateway whose alert covers a silent pump; a pump with its own alert keeps it."""
    if pump.silent_since is not None and pump.covered_by is None:
        return None
    gateway = covering.get(pump.pump_id)
    if gateway is None and pump.covered_by is not None:
        back_at = returned.get(pump.covered_by)
        if back_at is None or now - back_at <= after:
            return pump.covered_by
    return gateway
