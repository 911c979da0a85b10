"""A day leaves the database only for an archive that has just what it still holds."""

import asyncio
import json
from collections.abc import Callable
from datetime import date, datetime, timedelta
from typing import Any

import asyncpg
import pytest
from esp_common import topology
from esp_common.contracts.events import Event
from esp_common.errors import Conflict
from esp_common.messaging import Publisher
from esp_ingest.archived import ArchivedDay, Refusal, archived_day, settle
from esp_ingest.maintenance import Maintenance
from esp_ingest.retention import Dropped, drop_before
from esp_ingest.settings import IngestSettings
from esp_ingest.store.batch import Batch
from esp_ingest.store.retention import Content, content
from esp_stack.servers import Vhost
from waiting import until

BatchOf = Callable[..., Batch]
TODAY = date(2026, 1, 1)


async def archive(stored: Any, day: datetime, archive_id: str) -> ArchivedDay:
    """Return what an archiver that has the day would tell."""
    async with stored.owner.acquire() as connection:
        return ArchivedDay(archive_id, day.date(), await content(connection, day.date()))


async def settled(stored: Any, archived: ArchivedDay, today: date = TODAY) -> Refusal | None:
    return await settle(stored.owner, stored.engine, archived, today=today, keep_days=30)


async def told(stored: Any, day: datetime) -> list[tuple[str, dict[str, Any]]]:
    """Return the events about a day that wait to be sent."""
    query = (
        "SELECT routing_key, convert_from(body, 'UTF8') AS body FROM ingest.outbox "
        "WHERE routing_key LIKE 'retention.%' AND headers ->> 'cloudEvents_subject' = $1 ORDER BY id"
    )
    rows = await stored.rows(query, day.date().isoformat())
    return [(row["routing_key"], json.loads(row["body"])) for row in rows if row["routing_key"]]


async def raw(stored: Any, day: datetime) -> int:
    query = "SELECT count(*) FROM ingest.telemetry WHERE time >= $1 AND time < $2"
    return int(await stored.value(query, day, day + timedelta(days=1)))


def minutes(day: datetime, count: int, pump: int = 1) -> list[tuple[int, datetime]]:
    return [(pump, day + timedelta(minutes=minute)) for minute in range(count)]


async def test_a_day_that_is_archived_as_it_is_goes_and_its_aggregates_stay(
    stored: Any, batch_of: BatchOf, new_day: datetime
) -> None:
    await stored.write(batch_of(minutes(new_day, 60), choke_pct=4))
    await stored.compress(new_day)
    archived = await archive(stored, new_day, "a-1")
    assert await settled(stored, archived) is None
    assert await raw(stored, new_day) == 0
    hourly = "SELECT readings FROM telemetry_v1.readings_1hour WHERE bucket = $1"
    assert await stored.value(hourly, new_day) == 60
    assert await settled(stored, archived) is None, "the same message again"
    (event,) = await told(stored, new_day)
    assert event[0] == "retention.dropped"
    assert (event[1]["readings"], event[1]["archive_id"]) == (60, "a-1")


@pytest.mark.parametrize("change", ["one-more", "one-fuller"])
async def test_a_day_that_changed_after_it_was_archived_stays(
    stored: Any, batch_of: BatchOf, new_day: datetime, change: str
) -> None:
    await stored.write(batch_of(minutes(new_day, 10), choke_pct=4))
    archived = await archive(stored, new_day, f"b-{change}")
    late = [(2, new_day)] if change == "one-more" else [(1, new_day)]
    await stored.write(batch_of(late, water_cut_pct=7))
    assert await settled(stored, archived) is Refusal.CHANGED
    kept = 11 if change == "one-more" else 10
    assert await raw(stored, new_day) == kept
    (event,) = await told(stored, new_day)
    assert event[0] == "retention.refused"
    assert (event[1]["reason"], event[1]["archived"], event[1]["stored"]) == ("changed", 10, kept)


async def test_a_day_that_is_not_old_enough_stays(stored: Any, batch_of: BatchOf, new_day: datetime) -> None:
    await stored.write(batch_of(minutes(new_day, 3), choke_pct=4))
    archived = await archive(stored, new_day, "c-1")
    assert await settled(stored, archived, new_day.date() + timedelta(days=30)) is Refusal.TOO_YOUNG
    assert await raw(stored, new_day) == 3


async def test_late_readings_of_a_day_that_is_gone_are_kept_until_they_are_archived_too(
    stored: Any, batch_of: BatchOf, new_day: datetime
) -> None:
    await stored.write(batch_of(minutes(new_day, 5), choke_pct=4))
    first = await archive(stored, new_day, "d-1")
    assert await settled(stored, first) is None
    await stored.write(batch_of(minutes(new_day, 2, pump=3), choke_pct=5))
    assert await settled(stored, first) is None, "the first archive's message again takes nothing"
    assert await raw(stored, new_day) == 2
    assert await settled(stored, await archive(stored, new_day, "d-2")) is None
    assert await raw(stored, new_day) == 0
    dropped = "SELECT sum(readings)::int FROM ingest.dropped_chunks WHERE day = $1"
    assert await stored.value(dropped, new_day.date()) == 7


async def test_late_values_that_contradict_the_archive_are_in_quarantine_once(
    stored: Any, batch_of: BatchOf, new_day: datetime
) -> None:
    await stored.write(batch_of(minutes(new_day, 1), choke_pct=4))
    content_ = (await archive(stored, new_day, "i-1")).content
    data = {
        "dataset": "telemetry",
        "archive_id": "i-1",
        "day": new_day.date().isoformat(),
        "readings": content_.readings,
        "digest": str(content_.digest),
        "contradictions": [
            {
                "pump_id": "P-1",
                "time": new_day.isoformat(),
                "channel": "choke_pct",
                "archived": 0.4,
                "value": 0.5,
            }
        ],
    }
    archived = archived_day(Event("archive.verified", "archiver", data["day"], data))
    assert archived is not None
    for _ in range(2):
        assert await settled(stored, archived) is None
    query = "SELECT pump_id, channel, reason, detail, payload FROM ingest.quarantine WHERE time = $1"
    ((pump_id, channel, reason, detail, payload),) = [tuple(row) for row in await stored.rows(query, new_day)]
    assert (pump_id, channel, reason) == ("P-1", "choke_pct", "conflict")
    assert "archived value 0.4" in detail
    assert json.loads(payload)["choke_pct"] == 0.5


async def test_a_day_nobody_has_is_refused(stored: Any, new_day: datetime) -> None:
    assert await settled(stored, ArchivedDay("e-1", new_day.date(), Content(1, 1))) is Refusal.ABSENT


async def by_hand(stored: Any, day: datetime, **options: bool) -> list[Dropped]:
    """Drop everything up to a day as an operator does; return what is said of the day."""
    before = day.date() + timedelta(days=1)
    dropping = drop_before(
        stored.owner, stored.engine, before, today=TODAY, keep_days=30, by="ann", **options
    )
    return [dropped async for dropped in dropping if dropped.day == day.date()]


async def audited(stored: Any, day: datetime) -> list[str]:
    """Return what the audit trail says was done with a day."""
    query = "SELECT convert_from(body, 'UTF8') AS body FROM ingest.outbox WHERE exchange = $1 ORDER BY id"
    bodies = [json.loads(row["body"]) for row in await stored.rows(query, topology.AUDIT)]
    return [body["action"] for body in bodies if body.get("object") == day.date().isoformat()]


async def test_by_hand_only_a_day_that_is_archived_as_it_is_goes(
    stored: Any, batch_of: BatchOf, new_day: datetime
) -> None:
    await by_hand(stored, new_day, unarchived=True)  # what other tests left
    await stored.write(batch_of(minutes(new_day, 10), choke_pct=4))
    with pytest.raises(Conflict, match=f"{new_day.date()} holds what is not proved"):
        await by_hand(stored, new_day)
    young = new_day.date() + timedelta(days=30)
    stale = await archive(stored, new_day, "g-1")
    assert await settled(stored, stale, young) is Refusal.TOO_YOUNG
    await stored.write(batch_of(minutes(new_day, 1, pump=2), choke_pct=4))
    with pytest.raises(Conflict, match="not proved"):
        await by_hand(stored, new_day)
    assert await raw(stored, new_day) == 11
    assert await settled(stored, await archive(stored, new_day, "g-2"), young) is Refusal.TOO_YOUNG
    assert await by_hand(stored, new_day) == [Dropped(new_day.date(), 11, "g-2")]
    assert await audited(stored, new_day) == ["retention.dropped"]


async def test_what_is_not_archived_goes_by_hand_when_that_is_said_and_the_trail_says_so(
    stored: Any, batch_of: BatchOf, new_day: datetime
) -> None:
    await by_hand(stored, new_day, unarchived=True)
    await stored.write(batch_of(minutes(new_day, 5), choke_pct=4))
    assert await settled(stored, await archive(stored, new_day, "h-1")) is None
    await stored.write(batch_of(minutes(new_day, 5), choke_pct=4))
    with pytest.raises(Conflict, match="not proved"):
        await by_hand(stored, new_day)
    assert await by_hand(stored, new_day, unarchived=True) == [Dropped(new_day.date(), 5)]
    assert await audited(stored, new_day) == ["retention.dropped", "retention.dropped-unarchived"]


async def test_only_the_archiver_is_told_what_a_day_holds(
    stored: Any, batch_of: BatchOf, new_day: datetime
) -> None:
    await stored.write(batch_of(minutes(new_day, 4), choke_pct=4))
    connection = await asyncpg.connect(stored.database.url("esp_archiver"))
    try:
        assert new_day.date() in {row[0] for row in await connection.fetch("SELECT telemetry_v1.raw_days()")}
        rows = await connection.fetch("SELECT * FROM telemetry_v1.day_digest($1)", new_day.date())
    finally:
        await connection.close()
    assert [(row["field_id"], row["pump_id"], row["readings"]) for row in rows] == [("north", "P-1", 4)]
    connection = await asyncpg.connect(stored.database.url("esp_diagnostics"))
    try:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.fetch("SELECT telemetry_v1.raw_days()")
    finally:
        await connection.close()


async def test_maintenance_drops_what_the_archiver_tells_and_what_nobody_else_does(
    stored: Any, vhost: Vhost, batch_of: BatchOf, new_day: datetime
) -> None:
    await stored.write(batch_of(minutes(new_day, 6), choke_pct=4))
    archived = await archive(stored, new_day, "f-1")
    data = {
        "dataset": "telemetry",
        "archive_id": "f-1",
        "day": archived.day.isoformat(),
        "readings": archived.content.readings,
        "digest": str(archived.content.digest),
    }
    settings = IngestSettings(amqp_url=vhost.url_for("ingest"), retention_days=30)
    stop = asyncio.Event()
    async with Publisher(vhost.url_for("ingest")) as publisher:
        role = asyncio.create_task(Maintenance(stored.owner, stored.engine, publisher, settings).run(stop))
        try:
            await send(vhost.url, {**data, "archive_id": "forged"})
            await send(vhost.url_for("archiver"), {**data, "dataset": "audit", "archive_id": "another's"})
            await send(vhost.url_for("archiver"), data)
            gone_for = "SELECT archive_id FROM ingest.dropped_chunks WHERE day = $1"
            await until(lambda: stored.rows(gone_for, archived.day), "the day dropped")
        finally:
            stop.set()
            await asyncio.wait_for(role, 20)
    assert [row[0] for row in await stored.rows(gone_for, archived.day)] == ["f-1"]


async def send(url: str, data: dict[str, Any]) -> None:
    event = Event("archive.verified", "archiver", data["day"], data)
    async with Publisher(url) as publisher:
        await publisher.publish(topology.EVENTS, event.type, event.body(), headers=event.headers())
