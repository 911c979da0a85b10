"""Trends and latest values within a requested number of points."""

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
from esp_diagnostics.trends.archive import ArchiveReader, merge_readings
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

SETTLED_AFTER: Final = timedelta(minutes=2)
"""Age after which the readings of a span are stored and their buckets complete."""

MIN_VALUES_FOR_THREAD: Final = 50_000
"""Number of values from which on encoding runs in a thread; below, the thread costs more."""

MAX_NEWEST: Final = 240
"""Number of newest readings searched for each channel's latest value."""

LOOK_BACK: Final = (timedelta(hours=1), timedelta(days=1), timedelta(days=35))
"""Spans searched for the newest readings, one after another until one contains readings."""


@dataclass(frozen=True, slots=True)
class TrendRequest:
    """Requested trend; empty `channels`: all measured channels."""

    pump_id: str
    start: datetime
    end: datetime
    channels: tuple[str, ...]
    resolution: Resolution
    max_points: int


class Trends:
    """Return trends and latest values, from the cache where possible."""

    def __init__(
        self,
        history: History,
        archive: ArchiveReader,
        nameplates: Nameplates,
        cache: AnswerCache,
        settings: DiagnosticsSettings,
    ) -> None:
        self._history = history
        self._archive = archive
        self._nameplates = nameplates
        self._cache = cache
        self._settings = settings

    async def answer(self, request: TrendRequest, media_type: str, rights: str) -> Answer:
        """Return the encoded trend; raise NotFound, InvalidInput or TooManyPoints."""
        now = datetime.now(UTC)
        interval_s = await self._nameplates.interval_s(request.pump_id)
        wanted = self._plan(request, interval_s, now)
        settled = wanted.span.end <= now - SETTLED_AFTER
        parameters = (request.pump_id, request.channels, request.resolution, request.max_points, media_type)
        key = cache_key(rights, "trend", *parameters, *self._when(request, wanted, now))

        async def compute() -> bytes:
            trend = await self.trend(request, wanted)
            write = WRITERS[media_type]
            values = len(trend) * sum(map(len, trend.channels.values()))
            return await asyncio.to_thread(write, trend) if values > MIN_VALUES_FOR_THREAD else write(trend)

        ttl_s = self._settings.cache_closed_s if settled else self._settings.cache_open_s
        return await self._cache.get("trend", key, ttl_s, compute)

    async def trend(self, request: TrendRequest, wanted: Plan) -> Trend:
        """Return the planned trend, in buckets if `auto` planned more readings than allowed."""
        channels = request.channels or CHANNEL_NAMES
        if wanted.bucket_s is None:
            max_rows = request.max_points
            rows = await self._readings(request.pump_id, wanted.span, channels, max_rows + 1)
            if len(rows) <= max_rows:
                return _requested(request, _of_readings(request.pump_id, wanted, channels, rows))
            if request.resolution is Resolution.RAW:
                raise TooManyPoints(
                    f"the span contains more than max_points {max_rows} readings",
                    fix="request a shorter span, resolution=auto, or more points",
                )
            wanted = bucketed(wanted.span, max_rows)
        buckets = await self._history.columns(request.pump_id, wanted, channels)
        return _requested(request, _of_buckets(request.pump_id, wanted, channels, buckets))

    async def _readings(self, pump_id: str, span: Span, channels: Sequence[str], limit: int) -> list[Row]:
        """Return up to `limit` readings, oldest first, from the store and the archive."""
        rows = await self._history.readings(pump_id, span, channels, limit)
        if not await self._history.dropped(span):
            return rows
        return merge_readings(await self._archive.readings(pump_id, span, channels, limit), rows, limit)

    def _when(self, request: TrendRequest, wanted: Plan, now: datetime) -> tuple[object, ...]:
        """Return the time component of the cache key.

        Requests for the last day made within a short time share a key, because a response that reaches to the
        present may be slightly old in any case. Requests for readings always get exactly their span.
        """
        kept = timedelta(seconds=self._settings.cache_open_s)
        if request.resolution is not Resolution.RAW and abs(request.end - now) <= kept:
            return "last", round((request.end - request.start).total_seconds()), wanted.bucket_s
        return wanted.span.start, wanted.span.end, wanted.bucket_s

    def _plan(self, request: TrendRequest, interval_s: float | None, now: datetime) -> Plan:
        settings = self._settings
        if request.max_points > settings.max_points:
            raise TooManyPoints(
                f"max_points must be at most {settings.max_points}",
                fix="request fewer points, or parts of the span",
            )
        span = checked_span(request.start, request.end, timedelta(days=settings.max_span_days))
        return plan(
            span,
            request.resolution,
            request.max_points,
            interval_s=interval_s,
            raw_since=now - timedelta(days=settings.raw_days),
        )

    async def latest(self, pump_id: str) -> bytes:
        """Return each channel's latest good value with its time, as JSON; raise NotFound."""
        await self._nameplates.interval_s(pump_id)
        rows = await self.newest(pump_id)
        return orjson.dumps(_latest(pump_id, rows), option=orjson.OPT_UTC_Z)

    async def newest(self, pump_id: str) -> list[Row]:
        """Return a pump's newest readings, newest first, with every channel and both flags."""
        now = datetime.now(UTC)
        for back in LOOK_BACK:
            if rows := await self._history.newest(pump_id, now - back, MAX_NEWEST):
                return rows
        return []


def _requested(request: TrendRequest, trend: Trend) -> Trend:
    """Drop channels without values, unless the request names channels."""
    return trend if request.channels else trend.measured()


def _of_readings(pump_id: str, plan_: Plan, channels: Sequence[str], rows: Sequence[Row]) -> Trend:
    values = _matrix(rows, 4, len(channels))
    place = {name: column for column, name in enumerate(channels)}
    # By position: rows of the archive have no names.
    times, running, trip_codes, faults = ([row[column] for row in rows] for column in range(4))
    for row, faulty in enumerate(faults):
        for name in faulty or ():
            if name in place:
                values[row, place[name]] = np.nan
    found = {name: {"value": values[:, column]} for name, column in place.items()}
    return Trend(pump_id, plan_, times, found, {"running": running, "trip_code": trip_codes})


def _of_buckets(pump_id: str, plan_: Plan, channels: Sequence[str], buckets: Buckets) -> Trend:
    count, values = len(STATISTICS), buckets.values
    found = {
        name: {statistic: values[:, count * place + offset] for offset, statistic in enumerate(STATISTICS)}
        for place, name in enumerate(channels)
    }
    state = {"readings": buckets.readings, "running_share": buckets.running_share}
    return Trend(pump_id, plan_, buckets.times, found, state)


def _matrix(rows: Sequence[Row], first: int, columns: int) -> Floats:
    """Return the columns of `rows` from `first` on as one array, NaN for null."""
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
    """Return the first of `rows` with a value of the channel that is not an error code, if any."""
    return next(
        (row for row in rows if row[channel] is not None and channel not in (row["fault_channels"] or ())),
        None,
    )


def _first(rows: Sequence[Row], name: str) -> Any:
    return next((row[name] for row in rows if row[name] is not None), None)
