"""Key figures of a pump or a field over a span."""

from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import numpy as np
from esp_common.errors import InvalidInput, NotFound

from esp_diagnostics.kpis import formulas
from esp_diagnostics.kpis.formulas import Intervals, Life, Output, RunningTime
from esp_diagnostics.kpis.store import KpiStore, PumpLife

MAX_SPAN: Final = timedelta(days=400)
MAX_SPAN_BY_HOURS: Final = timedelta(days=31)
"""Longest span of a pump computed from hours; longer ones, and those of fields, use days."""

MAX_FIELD_SPAN_BY_HOURS: Final = timedelta(days=2)
USUAL_RATE_BEFORE: Final = timedelta(days=30)
"""Time before a span that determines a pump's usual rate."""

_STEPS: Final = {"hours": timedelta(hours=1), "days": timedelta(days=1)}


class Kpis:
    """Compute key figures. `kg_per_kwh`: carbon dioxide equivalent of the pumps' energy."""

    def __init__(self, store: KpiStore, kg_per_kwh: float) -> None:
        self._store = store
        self._kg_per_kwh = kg_per_kwh

    async def of_pump(self, pump_id: str, since: datetime, until: datetime) -> dict[str, Any]:
        """Return the figures of a pump; raise NotFound, or InvalidInput for an invalid span."""
        since, until = _span(since, until)
        pump = await self._store.pump(pump_id)
        if pump is None:
            raise NotFound(f"no pump {pump_id}", fix="see the list of pumps")
        grain = "hours" if until - since <= MAX_SPAN_BY_HOURS else "days"
        ((ran, made),) = await self._parts([pump_id], since, until, grain)
        lives = await self._store.lives(pump_id=pump_id)
        health = await self._store.health([pump_id])
        return {
            "pump_id": pump_id,
            "field_id": pump["field_id"],
            "since": since,
            "until": until,
            "grain": grain,
            **self._figures(ran, made, since, until),
            "run_life": _run_life(lives[0], until),
            "health": health.get(pump_id),
        }

    async def of_field(self, field_id: str, since: datetime, until: datetime) -> dict[str, Any]:
        """Return the figures of a field and a summary of each of its pumps; raise as `of_pump`."""
        since, until = _span(since, until)
        pump_ids = await self._store.pumps_of_field(field_id, since)
        if pump_ids is None:
            raise NotFound(f"no field {field_id}", fix="see the list of fields")
        grain = "hours" if until - since <= MAX_FIELD_SPAN_BY_HOURS else "days"
        parts = await self._parts(pump_ids, since, until, grain)
        lives = await self._store.lives(field_id=field_id)
        health = await self._store.health(pump_ids)
        scores = {id_: row["score"] for id_, row in health.items()}
        known = [score for score in scores.values() if score is not None]
        return {
            "field_id": field_id,
            "since": since,
            "until": until,
            "grain": grain,
            **self._figures(
                formulas.total_running(ran for ran, _ in parts),
                formulas.total_output(made for _, made in parts),
                since,
                until,
            ),
            "mean_life": asdict(formulas.mean_life(life for each in lives if (life := _life(each, until)))),
            "health": sum(known) / len(known) if known else None,
            "pumps": [
                {
                    "pump_id": id_,
                    "uptime": ran.uptime,
                    "starts": ran.starts,
                    "trips": ran.trips,
                    "deferred_bbl": made.deferred_bbl,
                    "kwh_per_bbl": made.kwh_per_bbl,
                    "health": scores.get(id_),
                }
                for id_, (ran, made) in zip(pump_ids, parts, strict=True)
            ],
        }

    async def _parts(
        self, pump_ids: Sequence[str], since: datetime, until: datetime, grain: str
    ) -> list[tuple[RunningTime, Output]]:
        """Return running, production and energy of each pump."""
        intervals = await self._store.state_intervals(pump_ids, since, until)
        begin = since - USUAL_RATE_BEFORE
        rows = await self._store.aggregates(pump_ids, grain, begin, until)
        step = _STEPS[grain]
        return [
            (
                formulas.running(intervals.get(id_, []), since, until),
                formulas.output(_intervals(rows.get(id_, []), step, since, until)),
            )
            for id_ in pump_ids
        ]

    def _figures(self, ran: RunningTime, made: Output, since: datetime, until: datetime) -> dict[str, Any]:
        days = (until - since).total_seconds() / formulas.DAY_S
        return {
            "uptime": ran.uptime,
            "uptime_known": ran.known if ran.span_s else 0.0,
            "running_hours": ran.up_s / 3600,
            "down_hours": ran.down_s / 3600,
            "starts": ran.starts,
            "starts_per_day": ran.starts / days,
            "trips": ran.trips,
            "mean_time_between_trips_days": ran.mean_time_between_trips_days,
            "produced_bbl": made.produced_bbl,
            "deferred_bbl": made.deferred_bbl,
            "usual_rate_bpd": made.usual_bpd,
            "energy_kwh": made.energy_kwh,
            "kwh_per_bbl": made.kwh_per_bbl,
            "co2e_kg": made.co2e_kg(self._kg_per_kwh),
            "co2e_kg_per_kwh": self._kg_per_kwh,
        }


def _span(since: datetime, until: datetime) -> tuple[datetime, datetime]:
    """Limit the span to the past; raise InvalidInput if it is empty or too long."""
    until = min(until, datetime.now(UTC))
    if not timedelta(0) < until - since <= MAX_SPAN:
        raise InvalidInput(
            f"no key figures from {since:%Y-%m-%dT%H:%M} to {until:%Y-%m-%dT%H:%M}",
            fix=f"give a `from` in the past and before `to`, at most {MAX_SPAN.days} days apart",
        )
    return since, until


def _intervals(
    rows: Sequence[dict[str, Any]], step: timedelta, since: datetime, until: datetime
) -> Intervals:
    """Return aggregates as columns, with the part of each within the span."""

    def column(name: str) -> formulas.Floats:
        return np.array([np.nan if row[name] is None else row[name] for row in rows], dtype=np.float64)

    inside = [
        max((min(row["bucket"] + step, until) - max(row["bucket"], since)).total_seconds(), 0.0)
        for row in rows
    ]
    return Intervals(
        np.array(inside, dtype=np.float64),
        column("running_share"),
        column("rate"),
        column("rate_measured"),
        column("power"),
        column("power_measured"),
    )


def _life(life: PumpLife, until: datetime) -> Life | None:
    """Return the life of a pump in its well; None if it was never seen running before `until`."""
    if life.first_run_at is None or life.first_run_at >= until:
        return None
    ended = life.removed_at is not None and life.removed_at <= until
    end = life.removed_at if ended and life.removed_at else until
    return Life((end - life.first_run_at).total_seconds() / formulas.DAY_S, ended)


def _run_life(life: PumpLife, until: datetime) -> dict[str, Any]:
    whole = _life(life, until)
    up_since = life.up_since if life.up_since is not None and life.up_since < until else None
    return {
        "first_run_at": life.first_run_at,
        "days": whole.days if whole else None,
        "ended": bool(whole and whole.ended),
        "up_since": up_since,
        "up_days": (until - up_since).total_seconds() / formulas.DAY_S if up_since else None,
    }
