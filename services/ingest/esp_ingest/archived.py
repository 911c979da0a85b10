"""Days that the archiver has proved to have: looked at once more, then dropped, or kept and why."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from enum import StrEnum
from typing import Any, Final

from esp_common import outbox, topology
from esp_common.contracts.events import Event
from esp_common.database import Connection, Engine, Pool
from esp_common.errors import InvalidInput

from esp_ingest.assets import SERVICE
from esp_ingest.domain.keep import quarantine_id
from esp_ingest.domain.readings import Quarantined, Reason
from esp_ingest.retention import Dropped, tell_dropped
from esp_ingest.rollups import roll_up
from esp_ingest.store import quarantine, rollups
from esp_ingest.store import retention as store

VERIFIED: Final = "archive.verified"
REFUSED: Final = "retention.refused"
ACTOR: Final = "archiver"
GATEWAY: Final = "_archive"
"""Stands for the gateway of late values that the archive does not take: rows do not say who sent them."""


class Refusal(StrEnum):
    """Why an archived day stays."""

    CHANGED = "changed"
    TOO_YOUNG = "too-young"
    ABSENT = "absent"


@dataclass(frozen=True, slots=True)
class ArchivedDay:
    """What the archive has of a day: so many readings, whose hashes come to `digest`.

    `contradictions`: late values that it does not take, since another of the same key came first.
    """

    archive_id: str
    day: date
    content: store.Content
    contradictions: tuple[Quarantined, ...] = ()


def archived_day(event: Event) -> ArchivedDay | None:
    """Return the day of readings an `archive.verified` is about, None where it is about something else.

    Raises InvalidInput for an event that does not say what it must.
    """
    data: Mapping[str, Any] = event.data if isinstance(event.data, Mapping) else {}
    if data.get("dataset") != "telemetry":
        return None
    try:
        content = store.Content(int(data["readings"]), int(data["digest"]))
        contradictions = tuple(_contradiction(each) for each in data.get("contradictions", ()))
        return ArchivedDay(str(data["archive_id"]), date.fromisoformat(data["day"]), content, contradictions)
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidInput(f"an {VERIFIED} that cannot be used: {error!r}") from None


def _contradiction(told: Mapping[str, Any]) -> Quarantined:
    """Return the quarantine row of a late value that contradicts the archived one."""
    pump_id, time, channel = str(told["pump_id"]), datetime.fromisoformat(told["time"]), str(told["channel"])
    payload = {"pump_id": pump_id, "time": time.isoformat(), channel: told["value"]}
    return Quarantined(
        quarantine_id(GATEWAY, payload),
        GATEWAY,
        None,
        pump_id,
        time,
        Reason.CONFLICT,
        f"contradicts the archived value {told['archived']}, which came first",
        payload,
        channel,
    )


async def settle(
    pool: Pool, engine: Engine, archived: ArchivedDay, *, today: date, keep_days: int
) -> Refusal | None:
    """Drop the day if it still holds just what is archived; return why it was not dropped, if so.

    Either is told as an event in the same transaction; settling again changes nothing. Values that contradict
    archived ones go into quarantine first. The day's aggregates
    are made current first, since nothing can make them afterwards. Raises what asyncpg raises, a
    LockNotAvailableError where the day stays in use.
    """
    async with pool.acquire() as connection:
        if await store.gone_for(connection, archived.archive_id):
            return None
        await quarantine.keep(connection, archived.contradictions)
        await store.note_archived(connection, archived.day, archived.archive_id, archived.content)
        if archived.day >= today - timedelta(days=keep_days):
            return await _refuse(connection, archived, Refusal.TOO_YOUNG, None)
        await roll_up(pool, engine, today)
        if engine == "timescale" and not await rollups.dropped(connection, [archived.day]):
            await rollups.refresh_day(connection, archived.day)
        async with connection.transaction():
            return await _drop(connection, archived)


async def _drop(connection: Connection, archived: ArchivedDay) -> Refusal | None:
    # Only writers wait while it is counted; late readings then find that the day has gone, and begin another.
    if not await store.freeze_day(connection, archived.day):
        return await _refuse(connection, archived, Refusal.ABSENT, None)
    found = await store.content(connection, archived.day)
    if found != archived.content:
        return await _refuse(connection, archived, Refusal.CHANGED, found)
    readings = await store.drop_day(connection, archived.day, ACTOR, archived.archive_id)
    await tell_dropped(connection, Dropped(archived.day, readings, archived.archive_id), ACTOR)
    return None


async def _refuse(
    connection: Connection, archived: ArchivedDay, reason: Refusal, found: store.Content | None
) -> Refusal:
    data = {
        "day": archived.day.isoformat(),
        "reason": reason,
        "archive_id": archived.archive_id,
        "archived": archived.content.readings,
        "stored": found and found.readings,
    }
    event = Event(REFUSED, SERVICE, archived.day.isoformat(), data)
    await outbox.enqueue(connection, event, topology.EVENTS)
    return reason
