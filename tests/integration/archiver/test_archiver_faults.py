"""Whatever fails and whenever, the next run ends with the archive that an undisturbed one makes."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, time, timedelta
from email.utils import parsedate_to_datetime
from secrets import token_hex
from typing import Any

import pytest
from aiohttp import web
from azure.storage.blob import ContainerClient
from blob_proxy import BlobProxy, hang_up, refusal
from esp_archiver.domain.datasets import Dataset
from esp_archiver.reading import columns_named
from esp_archiver.storage import Damaged, open_store
from esp_archiver.store.manifest import PartFilter
from esp_archiver.verification import check
from esp_common.errors import EspError, Unavailable
from esp_ingest.archived import Refusal
from waiting import until

HOUR = timedelta(hours=1)
LEAST_STEPS, MOST_STEPS = 5, 30
"""Requests that a run of one day of two fields makes at least, and does not make."""


@pytest.fixture(scope="module")
async def proxy(azurite: Any) -> AsyncIterator[BlobProxy]:
    """The way of this module's archivers to their store."""
    async with BlobProxy(azurite).running() as proxy:
        yield proxy


EMPTY = "TRUNCATE ingest.telemetry, ingest.dropped_chunks, archiver.parts, archiver.days, archiver.outbox"


@pytest.fixture
async def archive(archive: Any) -> AsyncIterator[Any]:
    """The module's archive, empty, with a container of the test's own."""
    await archive.admin.execute(EMPTY)
    settings = archive.settings.model_copy(update={"blob_container": f"test-{token_hex(6)}"})
    async with open_store(settings) as store:
        await store.ensure()
        yield replace(archive, settings=settings, store=store)


@pytest.fixture
async def faulty(archive: Any, proxy: BlobProxy) -> AsyncIterator[Any]:
    """The same archive, whose requests go through the proxy and are not tried again."""
    settings = archive.settings.model_copy(
        update={
            "blob_connection_string": proxy.connection_string,
            "blob_retries": 0,
            "blob_timeout_s": 2,
            "uploads_at_once": 1,
        }
    )
    proxy.clear()
    async with open_store(settings) as store:
        yield replace(archive, settings=settings, store=store)
    proxy.clear()


async def nobody_leads(archive: Any) -> bool:
    """Return whether the lock of whoever writes the archive is free."""
    held = "SELECT count(*) FROM pg_locks JOIN pg_database ON pg_database.oid = database"
    held += " WHERE locktype = 'advisory' AND datname = current_database()"
    return bool(await archive.admin.fetchval(held) == 0)


async def is_whole(archive: Any, day: date) -> None:
    """Run undisturbed, and assert that the day is archived as if nothing had been."""
    assert (await archive.run()).problems == []
    parts = await archive.parts(day)
    assert [(each.part.place.part, each.part.rows) for each in parts] == [(0, 48), (0, 24)]
    of_day = f"year={day:%Y}/month={day:%m}/day={day:%d}/"
    assert [name for name in await archive.names() if of_day in name] == [each.name for each in parts]
    told = [event for event in await archive.events() if event["day"] == day.isoformat()]
    assert await archive.settle(told[-1]) is None
    assert len(await archive.read("P-1", day)) == 24


FAULTS = {
    "away": (True, hang_up),
    "busy": (True, lambda _: refusal(503, "ServerBusy")),
    "conflict": (False, lambda _: refusal(409, "BlobAlreadyExists")),
    "changed": (False, lambda _: refusal(412, "ConditionNotMet")),
}
"""Faults, and whether one lasts from its step on."""


@pytest.mark.parametrize("fault", FAULTS)
async def test_storage_that_fails_at_any_step_leaves_nothing_wrong(
    archive: Any, faulty: Any, proxy: BlobProxy, new_day: date, fault: str
) -> None:
    lasts, answer = FAULTS[fault]
    for step in range(1, MOST_STEPS):
        day = new_day + timedelta(days=step)
        await archive.add(day, every=HOUR)
        proxy.clear()

        async def fail(number: int, request: web.Request, at: int = step) -> web.Response | None:
            return answer(request) if number == at or (lasts and number > at) else None

        proxy.before = fail
        with suppress(EspError):
            await faulty.run()
        was_the_last = len(proxy.requests) <= step
        proxy.clear()
        await is_whole(archive, day)
        if was_the_last:
            assert step > LEAST_STEPS
            return
    pytest.fail("a run has more requests than were failed")


async def test_an_answer_that_is_lost_after_the_upload_makes_no_second_copy(
    archive: Any, faulty: Any, proxy: BlobProxy, new_day: date
) -> None:
    await archive.add(new_day, every=HOUR)
    lost = 0

    async def lose(number: int) -> None:
        nonlocal lost
        if proxy.requests[number].startswith("PUT") and "telemetry" in proxy.requests[number]:
            lost += 1
            raise ConnectionResetError

    proxy.after = lose
    with pytest.raises(Unavailable):
        await faulty.run()
    assert lost == 1
    proxy.clear()
    await is_whole(archive, new_day)


async def test_slow_storage_is_given_up_and_the_day_stays(
    archive: Any, faulty: Any, proxy: BlobProxy, new_day: date
) -> None:
    await archive.add(new_day, every=HOUR)

    async def dawdle(number: int, request: web.Request) -> web.Response | None:
        if number >= 2:
            await asyncio.sleep(10)
        return None

    proxy.before = dawdle
    with pytest.raises(Unavailable):
        await faulty.run()
    assert await archive.parts(new_day) == []
    proxy.clear()
    await is_whole(archive, new_day)


async def test_a_process_killed_at_any_request_leaves_nothing_wrong(
    archive: Any, faulty: Any, proxy: BlobProxy, new_day: date
) -> None:
    await archive.add(new_day, every=HOUR)
    environment = {
        **os.environ,
        "ESP_ARCHIVER_DATABASE_URL": archive.settings.database_url,
        "ESP_ARCHIVER_BLOB_CONNECTION_STRING": proxy.connection_string,
        "ESP_ARCHIVER_BLOB_CONTAINER": archive.settings.blob_container,
        "ESP_ARCHIVER_VERIFY_SHARE": "0",
    }
    for step in (1, 3):  # the first part is stored; it is read back
        proxy.clear()
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", "from esp_archiver.cli import main; main()", "run", env=environment,
            stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
        )  # fmt: skip

        async def kill(number: int, at: int = step, pid: int = process.pid) -> None:
            if number == at:
                os.kill(pid, signal.SIGKILL)

        proxy.after = kill
        assert await asyncio.wait_for(process.wait(), 60) == -signal.SIGKILL
        await until(lambda: nobody_leads(archive), "the database has seen that the process is gone")
    proxy.clear()
    await is_whole(archive, new_day)


async def test_a_source_that_changes_during_the_export_is_not_dropped(archive: Any, new_day: date) -> None:
    await archive.add(new_day, every=HOUR)
    late = datetime.combine(new_day, time(3, 30), UTC)

    class Meanwhile:
        """A store during whose first upload a late reading comes."""

        def __getattr__(self, name: str) -> Any:
            return getattr(archive.store, name)

        async def upload(self, *arguments: Any, **options: Any) -> str:
            insert = "INSERT INTO ingest.telemetry (pump_no, time) VALUES (1, $1) ON CONFLICT DO NOTHING"
            await archive.admin.execute(insert, late)
            return await archive.store.upload(*arguments, **options)

    await archive.run(Meanwhile())
    (event,) = [each for each in await archive.events() if each["day"] == new_day.isoformat()]
    assert await archive.settle(event) is Refusal.CHANGED
    await archive.archived_and_dropped(new_day)
    assert late in {row["time"] for row in await archive.read("P-1", new_day)}


async def flip(archive: Any, name: str, position: int) -> None:
    """Change one bit of an object."""
    container = ContainerClient.from_connection_string(
        archive.azurite.connection_string, archive.settings.blob_container
    )
    body = bytearray(await asyncio.to_thread(lambda: container.download_blob(name).readall()))
    body[position] ^= 1
    await asyncio.to_thread(lambda: container.upload_blob(name, bytes(body), overwrite=True))


async def test_a_byte_that_changes_on_its_way_is_found_before_the_day_is_told_of(
    archive: Any, new_day: date
) -> None:
    await archive.add(new_day, every=HOUR)

    class Corrupting:
        """A store that changes a byte of what it is given, each time."""

        def __getattr__(self, name: str) -> Any:
            return getattr(archive.store, name)

        async def upload(self, name: str, *arguments: Any, **options: Any) -> str:
            await archive.store.upload(name, *arguments, **options)
            await flip(archive, name, 300)
            found = await archive.store.find(name)
            return str(found.etag)

    outcome = await archive.run(Corrupting())
    assert len(outcome.problems) == 1
    assert await archive.parts(new_day) == []
    assert [event for event in await archive.events() if event["readings"]] == []


@pytest.mark.parametrize("where", ["data", "footer"])
async def test_a_byte_that_changes_later_is_found_by_verify_and_by_whoever_reads(
    archive: Any, new_day: date, where: str
) -> None:
    await archive.add(new_day, every=HOUR)
    await archive.archived_and_dropped(new_day)
    (north, _) = await archive.parts(new_day)
    await flip(archive, north.name, 200 if where == "data" else north.bytes - 2000)
    # Under the tag that was verified there is nothing any more; under the new one the checksums tell.
    with pytest.raises(Damaged):
        await archive.read("P-1", new_day)
    found = await archive.store.find(north.name)
    await archive.admin.execute(
        "UPDATE archiver.parts SET etag = $1 WHERE object = $2", found.etag, north.name
    )
    checked = await check(archive.pool, archive.store, PartFilter(Dataset.TELEMETRY), 1, None)
    assert [problem.split(":")[0] for problem in checked.problems] == [north.name]
    (north, south) = await archive.parts(new_day)
    assert north.damaged
    assert south.damaged is None
    if where == "data":
        with pytest.raises(Damaged):
            await archive.read("P-1", new_day, channels=columns_named(None))


@dataclass
class Policies:
    """Answers, before Azurite, for policies that it lacks as Azure documents them; keeps what was asked."""

    refuses: bool = False
    asked: list[tuple[str, dict[str, str]]] = field(default_factory=list)

    async def __call__(self, number: int, request: web.Request) -> web.Response | None:
        """Answer requests for policies; let all others pass."""
        policy = request.query.get("comp", "")
        if policy not in {"immutabilityPolicies", "legalhold"}:
            return None
        assert request.method == "PUT"
        headers = {name.lower(): value for name, value in request.headers.items()}
        self.asked.append((f"{policy} {request.path.partition('/telemetry/')[2]}", headers))
        if self.refuses:
            return refusal(409, "BlobImmutableStorageNotSupported")
        echoed = ("x-ms-immutability-policy-until-date", "x-ms-immutability-policy-mode", "x-ms-legal-hold")
        return web.Response(headers={name: headers[name] for name in echoed if name in headers})


async def test_parts_that_are_nowhere_else_are_put_into_the_tier_and_no_others(
    archive: Any, new_day: date
) -> None:
    settings = archive.settings.model_copy(update={"access_tier": "Cool"})
    async with open_store(settings) as store:
        tiered = replace(archive, settings=settings, store=store)
        await archive.add(new_day, every=HOUR)
        await archive.archived_and_dropped(new_day)
        await archive.add(new_day + timedelta(days=1), every=HOUR)
        assert (await tiered.run()).problems == []
    container = ContainerClient.from_connection_string(
        archive.azurite.connection_string, archive.settings.blob_container
    )
    tiers = {
        (day, container.get_blob_client(each.name).get_blob_properties().blob_tier)
        for day in (new_day, new_day + timedelta(days=1))
        for each in await archive.parts(day)
    }
    assert tiers == {(new_day, "Cool"), (new_day + timedelta(days=1), "Hot")}


async def test_parts_that_are_nowhere_else_are_made_immutable_and_held_once(
    archive: Any, proxy: BlobProxy, new_day: date
) -> None:
    await archive.add(new_day, every=HOUR)
    await archive.archived_and_dropped(new_day)
    held = {"blob_connection_string": proxy.connection_string, "immutable_days": 365, "legal_hold": True}
    settings = archive.settings.model_copy(update=held)
    proxy.clear()
    proxy.before = policies = Policies(refuses=True)
    async with open_store(settings) as store:
        protecting = replace(archive, settings=settings, store=store)
        refused = await protecting.run()
        assert len(refused.problems) == 2, "each part's refusal is told"
        policies.refuses, policies.asked = False, []
        assert (await protecting.run()).problems == [], "and tried again"
        asked, policies.asked = policies.asked, []
        assert (await protecting.run()).problems == []
    proxy.clear()
    assert policies.asked == [], "once is enough"
    names = [each.name.removeprefix("telemetry/") for each in await archive.parts(new_day)]
    assert [what for what, _ in asked] == [
        f"{policy} {name}" for name in names for policy in ("immutabilityPolicies", "legalhold")
    ]
    for what, headers in asked:
        if what.startswith("legalhold"):
            assert headers["x-ms-legal-hold"] == "true"
            continue
        until = parsedate_to_datetime(headers["x-ms-immutability-policy-until-date"])
        assert abs(until - datetime.now(UTC) - timedelta(days=365)) < timedelta(minutes=10)
        assert headers["x-ms-immutability-policy-mode"].lower() == "unlocked"
