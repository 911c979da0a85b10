"""Data quality: what passing readings left to be counted, and the hours that are scored from it."""

from collections.abc import Sequence
from dataclasses import asdict, astuple, dataclass
from datetime import datetime
from typing import Final

from esp_common.database import Connection, load_queries

from esp_ingest.domain.quality import HourCounts, Quality
from esp_ingest.store.batch import Key, Tally

_QUERIES: Final = load_queries("esp_ingest.store", "quality.sql")
_COUNTS: Final = tuple(HourCounts.__dataclass_fields__)


@dataclass(frozen=True, slots=True)
class DueHour:
    """An hour to score; `score_before` is of the pump's hour before, `announced`: as degraded, already."""

    pump_no: int
    pump_id: str
    field_id: str
    hour: datetime
    counts: HourCounts
    score_before: float | None
    announced: bool

    @property
    def key(self) -> Key:
        """The pump's number and the hour."""
        return self.pump_no, self.hour


async def tally(connection: Connection, tallies: Sequence[Tally]) -> None:
    """Add to what is known of those pumps and hours."""
    if tallies:
        columns = zip(*map(astuple, tallies), strict=True)
        await connection.execute(_QUERIES.tally, *map(list, columns))


async def mark_stale(connection: Connection, hours: Sequence[Key]) -> None:
    """Have these pumps' hours scored (again)."""
    if hours:
        await connection.execute(_QUERIES.mark_stale, *map(list, zip(*hours, strict=True)))


async def mark_silent(connection: Connection, until: datetime) -> None:
    """Have hours up to `until` scored in which a pump in use sent nothing."""
    await connection.execute(_QUERIES.mark_silent, until)


async def due(connection: Connection, until: datetime, limit: int) -> list[DueHour]:
    """Return up to `limit` stale hours no later than `until`, oldest first; they are locked."""
    return [
        DueHour(
            pump_no=row["pump_no"],
            pump_id=row["pump_id"],
            field_id=row["field_id"],
            hour=row["hour"],
            counts=HourCounts(**{name: row[name] for name in _COUNTS}),
            score_before=row["score_before"],
            announced=row["degraded_at"] is not None,
        )
        for row in await connection.fetch(_QUERIES.due, until, limit)
    ]


async def score(
    connection: Connection, scored: Sequence[tuple[DueHour, Quality]], announced: dict[Key, datetime]
) -> None:
    """Keep the hours' qualities, and when those were announced that just have been."""
    rows = [
        (
            *hour.key,
            hour.counts.readings,
            *asdict(quality).values(),
            announced.get(hour.key),
            hour.counts.rejected,
            hour.counts.refused_channels,
            hour.counts.clamped_channels,
        )
        for hour, quality in scored
    ]
    if rows:
        await connection.execute(_QUERIES.score, *map(list, zip(*rows, strict=True)))
