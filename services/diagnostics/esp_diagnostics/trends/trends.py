"""Trends and latest values: what was measured, in as many points as one wants to see."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import numpy as np
import orjson
from esp_common.contracts.channels import CHANNEL_INDEX, CHANNEL_NAMES, CHANNELS

from esp_diagnostics.common.cache import Answer, AnswerCache, cache_key
from esp_diagnostics.physics.arrays import Floats
from esp_diagnostics.pumps.registry import Nameplates
from esp_diagnostics.settings import DiagnosticsSettings
from esp_diagnostics.trends.archive import Archive, joined
from esp_diagnostics.trends.encoding import WRITERS
from esp_diagnostics.trends.resolution import (
    Plan,
    Resolution,
    Span,
    TooManyPoints,
    Trend,
    bucketed,
    checked_span,
    plan,
)
from esp_diagnostics.trends.store import STATISTICS, Buckets, History, Row

SETTLED: Final = timedelta(minutes=2)
"""Age after which a span counts as over: by then its readings are stored and their buckets made."""

OFF_THE_LOOP: Final = 50_000
"""Values from which on an answer is put together beside the event loop: below, a thread costs more."""

NEWEST: Final = 240
"""Readings that are looked through for each channel's latest value."""

LOOK_BACK: Final = (timedelta(hours=1), timedelta(days=1), timedelta(days=35))
"""Spans that are looked through for the newest readings, one after the other until one has some."""


@dataclass(frozen=True, slots=True)
class Question:
    """Which trend: `channels` none: all of which anything was measured."""

    pump_id: str
    start: datetime
    end: datetime
    channels: tuple[str, ...]
    resolution: Resolution
    max_points: int


class Trends:
    """Answers questions about what was measured, from the cache where it can."""

    def __init__(
        self,
        history: History,
        archive: Archive,
        nameplates: Nameplates,
        cache: AnswerCache,
        settings: DiagnosticsSettings,
    ) -> None:
        self._history = history
        self._archive = archive
        self._nameplates = nameplates
        self._cache = cache
        self._settings = settings

    async def answer(self, question: Question, media_type: str, rights: str) -> Answer:
        """Return the trend as `media_type`; raise NotFound, InvalidInput or TooManyPoints."""
        now = datetime.now(UTC)
        interval_s = await self._nameplates.interval_s(question.pump_id)
        wanted = self._plan(question, interval_s, now)
        over = wanted.span.end <= now - SETTLED
        asked = (question.pump_id, question.channels, question.resolution, question.max_points, media_type)
        key = cache_key(rights, "trend", *asked, *self._when(question, wanted, now))

        async def compute() -> bytes:
            trend = await self.trend(question, wanted)
            write = WRITERS[media_type]
            values = len(trend) * sum(map(len, trend.channels.values()))
            return await asyncio.to_thread(write, trend) if values > OFF_THE_LOOP else write(trend)

        ttl_s = self._settings.cache_closed_s if over else self._settings.cache_open_s
        return await self._cache.get("trend", key, ttl_s, compute)

    async def trend(self, question: Question, wanted: Plan) -> Trend:
        """Return the trend as planned, or in buckets where `auto` planned more readings than there may be."""
        channels = question.channels or CHANNEL_NAMES
        if wanted.bucket_s is None:
            most = question.max_points
            rows = await self._readings(question.pump_id, wanted.span, channels, most + 1)
            if len(rows) <= most:
                return _shown(question, _of_readings(question.pump_id, wanted, channels, rows))
            if question.resolution is Resolution.RAW:
                raise TooManyPoints(
                    f"there are more than max_points {most} readings",
                    fix="ask for a shorter span, resolution=auto, or more points",
                )
            wanted = bucketed(wanted.span, most)
        buckets = await self._history.columns(question.pump_id, wanted, channels)
        return _shown(question, _of_buckets(question.pump_id, wanted, channels, buckets))

    async def _readings(self, pump_id: str, span: Span, channels: Sequence[str], limit: int) -> list[Row]:
        """Return up to `limit` readings, oldest first, wherever they are by now."""
        rows = await self._history.readings(pump_id, span, channels, limit)
        if not await self._history.dropped(span):
            return rows
        return joined(await self._archive.readings(pump_id, span, channels, limit), rows, limit)

    def _when(self, question: Question, wanted: Plan, now: datetime) -> tuple[object, ...]:
        """Return what of the time tells one question from another.

        Those who ask for the last day, now and a little later, ask for the same: an answer that touches the
        present may be a little old in any case. Readings asked for by name are those asked for.
        """
        kept = timedelta(seconds=self._settings.cache_open_s)
        if question.resolution is not Resolution.RAW and abs(question.end - now) <= kept:
            return "last", round((question.end - question.start).total_seconds()), wanted.bucket_s
        return wanted.span.start, wanted.span.end, wanted.bucket_s

    def _plan(self, question: Question, interval_s: float | None, now: datetime) -> Plan:
        settings = self._settings
        if question.max_points > settings.max_points:
            raise TooManyPoints(
                f"max_points may be {settings.max_points} at most",
                fix="ask for fewer, or for parts of the span",
            )
        span = checked_span(question.start, question.end, timedelta(days=settings.max_span_days))
        return plan(
            span,
            question.resolution,
            question.max_points,
            interval_s=interval_s,
            raw_since=now - timedelta(days=settings.raw_days),
        )

    async def latest(self, pump_id: str) -> bytes:
        """Return each channel's latest good value with its time, as JSON; raise NotFound."""
        await self._nameplates.interval_s(pump_id)
        rows = await self.newest(pump_id)
        return orjson.dumps(_latest(pump_id, rows), option=orjson.OPT_UTC_Z)

    async def newest(self, pump_id: str) -> list[Row]:
        """Return a pump's newest readings, newest first, with every channel and both flags; maybe none."""
        now = datetime.now(UTC)
        for back in LOOK_BACK:
            if rows := await self._history.newest(pump_id, now - back, NEWEST):
                return rows
        return []


def _shown(question: Question, trend: Trend) -> Trend:
    """Return the channels that were asked for; where none was named, those that were measured."""
    return trend if question.channels else trend.measured()


def _of_readings(pump_id: str, made: Plan, channels: Sequence[str], rows: Sequence[Row]) -> Trend:
    values = _matrix(rows, 4, len(channels))
    place = {name: column for column, name in enumerate(channels)}
    # By place: rows of the archive have no names.
    times, running, trip_codes, faults = ([row[column] for row in rows] for column in range(4))
    for row, faulty in enumerate(faults):
        for name in faulty or ():
            if name in place:
                values[row, place[name]] = np.nan
    found = {name: {"value": values[:, column]} for name, column in place.items()}
    return Trend(pump_id, made, times, found, {"running": running, "trip_code": trip_codes})


def _of_buckets(pump_id: str, made: Plan, channels: Sequence[str], buckets: Buckets) -> Trend:
    count, values = len(STATISTICS), buckets.values
    found = {
        name: {statistic: values[:, count * place + offset] for offset, statistic in enumerate(STATISTICS)}
        for place, name in enumerate(channels)
    }
    state = {"readings": buckets.readings, "running_share": buckets.running_share}
    return Trend(pump_id, made, buckets.times, found, state)


def _matrix(rows: Sequence[Row], first: int, columns: int) -> Floats:
    """Return the columns of `rows` from `first` on, NaN for null; all at once, which is fastest."""
    values = [row[first:] for row in rows]
    return np.array(values, dtype=np.float64).reshape(len(rows), columns)


def _latest(pump_id: str, rows: Sequence[Row]) -> dict[str, Any]:
    """Return the newest good value of each channel among `rows`, newest first."""
    channels: dict[str, Any] = {}
    for name in CHANNEL_NAMES:
        if (row := newest_good(rows, name)) is not None:
            channels[name] = {
                "value": row[name],
                "unit": CHANNELS[CHANNEL_INDEX[name]].unit,
                "time": row["time"],
                "frozen": name in (row["frozen_channels"] or ()),
            }
    newest = rows[0] if rows else None
    return {
        "pump_id": pump_id,
        "time": newest and newest["time"],
        "running": _first(rows, "running"),
        "trip_code": _first(rows, "trip_code"),
        "channels": channels,
        "fault_channels": list(newest["fault_channels"] or ()) if newest else [],
    }


def newest_good(rows: Sequence[Row], channel: str) -> Row | None:
    """Return the first of `rows` in which the channel was measured, not an error code; None: in none."""
    return next(
        (row for row in rows if row[channel] is not None and channel not in (row["fault_channels"] or ())),
        None,
    )


def _first(rows: Sequence[Row], name: str) -> Any:
    return next((row[name] for row in rows if row[name] is not None), None)
