"""Which pumps and gateways have fallen silent, by the clock and each pump's own interval.

A gateway that sends nothing at all is one alert, not one of each of its pumps: they are covered by it.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, NamedTuple

PUMP_CONDITION: Final = "no_data"
GATEWAY_CONDITION: Final = "gateway_no_data"
QUIET_SHARE: Final = 0.5
"""A gateway is quiet after this share of its fastest pump's time: no pump is to be alerted before it."""

LEAST_PUMPS: Final = 2
"""A gateway with fewer pumps that report has no alert of its own."""


@dataclass(frozen=True, slots=True)
class Policy:
    """Silent: no reading for `intervals` intervals of the pump, and for `least_s`.

    `unknown_interval_s` stands for the interval of a pump that has none.
    """

    intervals: float
    least_s: float
    unknown_interval_s: float

    def after_s(self, interval_s: float | None) -> float:
        """Return the silence (s) of a pump with this interval that is an alert."""
        return max(self.least_s, self.intervals * (interval_s or self.unknown_interval_s))


class Reporting(NamedTuple):
    """A pump that has reported, its newest reading, and what was last noted of its silence."""

    pump_id: str
    field_id: str
    interval_s: float | None
    newest: datetime
    silent_since: datetime | None = None
    covered_by: str | None = None


class Silence(NamedTuple):
    """A pump is silent since `since`; `covered_by`: its gateway is, which has the alert."""

    since: datetime
    covered_by: str | None


class Found(NamedTuple):
    """The silent pumps, and since when each silent gateway has sent nothing."""

    pumps: Mapping[str, Silence]
    gateways: Mapping[str, datetime]


def find(
    pumps: Sequence[Reporting],
    gateways: Mapping[str, Collection[str]],
    returned: Mapping[str, datetime],
    policy: Policy,
    now: datetime,
) -> Found:
    """Return what is silent at `now`.

    `gateways`: the pumps of each. `returned`: when each gateway that was silent came back: its pumps have
    their usual time from then on.
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
    return Found(silent, {gateway: max(pump.newest for pump in mine[gateway]) for gateway in dead if gateway})


def _quiet(pumps: Sequence[Reporting], policy: Policy, now: datetime) -> bool:
    if len(pumps) < LEAST_PUMPS:
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
    """Return the gateway whose alert stands for a silent pump's; a pump with an alert of its own keeps it."""
    if pump.silent_since is not None and pump.covered_by is None:
        return None
    gateway = covering.get(pump.pump_id)
    if gateway is None and pump.covered_by is not None:
        back_at = returned.get(pump.covered_by)
        if back_at is None or now - back_at <= after:
            return pump.covered_by
    return gateway
