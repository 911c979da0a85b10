"""Backups while the blob storage is away, refuses, is slow, or hangs up."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from aiohttp import web
from backup_site import Site, open_site
from blob_proxy import Before, BlobProxy, hang_up, refusal
from esp_backup.blobs import Blobs
from esp_backup.domain.physical import expiry
from esp_backup.jobs import Jobs
from esp_backup.sets import Sets
from esp_backup.store.cluster import Cluster
from esp_backup.watch import Watch
from esp_backup.work import Work
from esp_common.errors import EspError, Unavailable
from waiting import until

pytestmark = pytest.mark.timeout(420)


@pytest.fixture(scope="module")
async def site(server_home: Path) -> AsyncIterator[Site]:
    """A cluster with a full backup in each repository, and a dump; its storage engine makes no difference."""
    conf = server_home / "faults.conf"
    conf.write_text("kept")
    conf.chmod(0o644)
    async with open_site(server_home / "backup-storage", configuration_files=(conf,)) as site:
        for kind in ("full", "dump"):
            await Jobs(site.pool, site.work).run(kind, "test")
        await site.failures()
        yield site


@pytest.fixture
def jobs(site: Site) -> Jobs:
    """The work as the worker does it."""
    return Jobs(site.pool, site.work)


async def test_with_storage_away_nothing_is_lost_and_what_can_be_done_is_done(site, jobs):
    site.azurite.kill()
    try:
        await site.rows("CREATE TABLE IF NOT EXISTS public.meanwhile AS SELECT 1 AS n")
        await site.rows("SELECT pg_switch_wal()")
        with pytest.raises(EspError):
            await jobs.run("full", "test")
        with pytest.raises(Unavailable):
            await jobs.run("set", "test")
        assert (await jobs.run("dump", "test"))["name"]
        places = await site.rows("SELECT place FROM backup.backups WHERE kind = 'full' AND gone_at IS NULL")
        assert sorted(row["place"] for row in places) == ["azure", "local", "local"]
        assert (await Cluster(site.settings.cluster_url).archiver()).waiting_segments > 0
        assert await site.failures() == ["full", "set"]
    finally:
        site.azurite.start()
    await jobs.run("full", "test")
    await jobs.run("set", "test")

    async def caught_up() -> bool:
        return (await Cluster(site.settings.cluster_url).archiver()).waiting_segments == 0

    await until(caught_up, "the segments that waited are archived", timeout_s=120)
    assert await site.failures() == []


async def test_storage_that_does_not_answer_fails_the_set_in_bounded_time(site, jobs):
    site.azurite.pause()
    try:
        began = asyncio.get_running_loop().time()
        with pytest.raises(Unavailable, match="blob storage does not answer"):
            await jobs.run("set", "test")
        assert asyncio.get_running_loop().time() - began < 60
    finally:
        site.azurite.resume()
    assert (await jobs.run("set", "test"))["files"]
    await site.failures()


async def test_an_archive_that_falls_behind_is_told_once_and_so_is_that_it_has_caught_up(site):
    settings = site.settings.model_copy(update={"rpo_limit_s": 1e-6})
    late, fine = Watch(settings, site.pool), Watch(site.settings, site.pool)
    for watch in (late, late, fine, fine):
        await watch.look()
    told = [(type_, data["kind"]) for type_, data in await site.events()]
    assert told == [("backup.failed", "wal"), ("backup.completed", "wal")]
    await site.failures()


class Clock:
    """Stands for `datetime` where work asks what time it is: no two sets are of the same second."""

    def __init__(self) -> None:
        self._now = datetime.now(UTC)

    def now(self, zone: object) -> datetime:
        """Return a time a second after the one before."""
        self._now += timedelta(seconds=1)
        return self._now


@pytest.fixture
async def proxy(site: Site) -> AsyncIterator[BlobProxy]:
    """The way of a test's work to the storage."""
    async with BlobProxy(site.azurite).running() as proxy:
        yield proxy


@pytest.fixture
def faulty(site: Site, proxy: BlobProxy, monkeypatch: pytest.MonkeyPatch) -> Jobs:
    """The work, whose requests for sets go through the proxy and are tried again at once."""
    monkeypatch.setattr("esp_backup.blobs.RETRY_S", 0)
    monkeypatch.setattr("esp_backup.work.datetime", Clock())
    return Jobs(site.pool, site.changed(blob_connection_string=proxy.connection_string, io_timeout_s=0.2))


async def _refuse_409(request: web.Request) -> web.Response:
    return refusal(409, "LeaseAlreadyPresent")


async def _refuse_412(request: web.Request) -> web.Response:
    return refusal(412, "ConditionNotMet")


async def _refuse_503(request: web.Request) -> web.Response:
    return refusal(503, "ServerBusy")


async def _hang_up(request: web.Request) -> web.Response:
    return hang_up(request)


async def _be_slow(request: web.Request) -> web.Response:
    await asyncio.sleep(0.5)
    return refusal(503, "ServerBusy")


FAULTS = {"409": _refuse_409, "412": _refuse_412, "503": _refuse_503, "cut": _hang_up, "slow": _be_slow}
OLD_SET = "sets/20200101T000000Z.tar.gz"
REQUESTS_OF_A_SET = range(6, 15)
"""How many requests a set is that nothing disturbs: reckoned with when a fault is put before each."""


async def _begin_with_an_old_set(site: Site) -> None:
    """Have one daily set in storage, long past its age, and the catalogue know of it."""
    async with Blobs(site.settings) as blobs:
        for blob in await blobs.all("sets/"):
            await blobs.delete(blob.name)
        digest = {"sha256": hashlib.sha256(b"of old").hexdigest()}
        await blobs.put(OLD_SET, b"of old", digest)
    await site.work.rebuild()


async def _stored_sets(site: Site) -> dict[str, str | None]:
    """Return what is wrong with each set in storage."""
    async with Blobs(site.settings) as blobs:
        return await Sets(site.settings, blobs).problems()


async def _known(site: Site, kind: str, place: str = "azure") -> list[str]:
    query = "SELECT name FROM backup.backups WHERE kind = $1 AND place = $2 AND gone_at IS NULL ORDER BY 1"
    return [row["name"] for row in await site.rows(query, kind, place)]


async def _states(site: Site) -> list[str]:
    """Return how the jobs of this test ended, and forget them."""
    return [row["state"] for row in await site.rows("DELETE FROM backup.jobs RETURNING state")]


@pytest.mark.parametrize("fault", FAULTS)
async def test_whatever_the_storage_answers_from_any_request_on_the_next_set_is_right(
    site, proxy, faulty, fault
):
    answer = FAULTS[fault]
    await _begin_with_an_old_set(site)
    await faulty.run("set", "test")
    steps = len(proxy.requests)
    assert steps in REQUESTS_OF_A_SET
    assert OLD_SET not in await _stored_sets(site)
    for step in range(steps):
        await _begin_with_an_old_set(site)
        await _states(site)

        async def from_here_on(number: int, request: web.Request, step: int = step) -> web.Response | None:
            return await answer(request) if number >= step else None

        proxy.clear()
        proxy.before = from_here_on
        with suppress(EspError):
            await faulty.run("set", "test")
        found = await _stored_sets(site)
        assert None in found.values()
        told = {"completed": [], "failed": ["set"]}[(await _states(site))[0]]
        assert await site.failures() == told
        assert told or any(name != OLD_SET for name in found)

        proxy.clear()
        await faulty.run("set", "test")
        found = await _stored_sets(site)
        assert set(found.values()) == {None}
        assert OLD_SET not in found
        assert sorted(found) == await _known(site, "set")
        assert await site.failures() == []


async def test_a_set_whose_answer_was_lost_is_not_taken_for_somebody_elses(site, proxy, faulty):
    async def busy_once_it_is_stored(number: int) -> None:
        if proxy.requests[number].startswith("PUT") and len(put) == 0:
            put.append(number)
            await asyncio.sleep(0.5)

    put: list[int] = []
    proxy.after = busy_once_it_is_stored
    done = await faulty.run("set", "test")
    assert len([request for request in proxy.requests if request.startswith("PUT")]) == 2
    assert (await _stored_sets(site))[done["name"]] is None


async def test_old_sets_that_cannot_be_deleted_do_not_have_the_new_one_taken_again(site, proxy, faulty):
    await _begin_with_an_old_set(site)

    async def immutable(number: int, request: web.Request) -> web.Response | None:
        return refusal(409, "BlobImmutableDueToPolicy") if request.method == "DELETE" else None

    proxy.before = immutable
    done = await faulty.run("set", "test")
    assert "BlobImmutableDueToPolicy" in done["not_pruned"]
    assert await _known(site, "set") == [OLD_SET, done["name"]]
    proxy.clear()
    assert (await faulty.run("set", "test"))["expired"] == [OLD_SET]


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_catalogue_is_not_made_poorer_by_storage_that_does_not_say_what_it_holds(
    site, proxy, faulty, fault
):
    before = {kind: await _known(site, kind) for kind in ("set", "full")}
    answer = FAULTS[fault]

    async def never(number: int, request: web.Request) -> web.Response | None:
        return await answer(request)

    proxy.before = never
    work = site.changed(blob_connection_string=proxy.connection_string, io_timeout_s=0.2)
    with pytest.raises(EspError):
        await work.rebuild()
    assert {kind: await _known(site, kind) for kind in before} == before


@pytest.fixture
async def through_the_proxy(site: Site, proxy: BlobProxy) -> AsyncIterator[Work]:
    """The work, whose physical backups and log's archive go through the proxy as well; to Azure alone."""
    work = site.changed(blob_connection_string=proxy.connection_string)
    work.repository.configure()
    yield work
    proxy.clear()
    site.repository.configure()


def _of(path: str, method: str, fault: str) -> Before:
    """Return what refuses such requests for such paths, and no others."""

    async def before(number: int, request: web.Request) -> web.Response | None:
        return await FAULTS[fault](request) if method == request.method and path in request.path else None

    return before


@pytest.mark.parametrize(
    ("fault", "path"),
    [("409", "/bundle/"), ("412", "/backup.manifest"), ("503", "/backup.info"), ("slow", "/bundle/")],
)
async def test_storage_that_refuses_a_part_of_a_backup_has_no_half_of_one(
    site, proxy, through_the_proxy, fault, path
):
    before = await _known(site, "full")
    proxy.before = _of(path, "PUT", fault)
    with pytest.raises(EspError):
        await through_the_proxy.repository.backup("azure")
    await through_the_proxy.note_physical()
    assert await _known(site, "full") == before


async def test_after_refusals_the_next_backup_is_whole_and_the_log_arrives(site, proxy, through_the_proxy):
    cluster = Cluster(site.settings.cluster_url)
    proxy.before = _of("/archive/", "PUT", "503")
    await site.rows("SELECT pg_logical_emit_message(true, 'test', 'a change')")
    await site.rows("SELECT pg_switch_wal()")

    async def waits() -> bool:
        return (await cluster.archiver()).waiting_segments > 0

    await until(waits, "a segment waits for the storage", timeout_s=30)
    proxy.clear()
    await through_the_proxy.repository.backup("azure")
    contents = await through_the_proxy.repository.contents()
    assert not contents.unreachable
    await through_the_proxy.note_physical()
    assert await _known(site, "full") == sorted(
        each.label for each in contents.backups if each.place == "azure"
    )


async def test_what_an_outage_made_unreadable_is_not_called_damaged(site, proxy, through_the_proxy):
    """And nothing else is: the backup that was taken after the refusals is whole."""
    refused = []

    async def each_once(number: int, request: web.Request) -> web.Response | None:
        if request.method != "GET" or "backup.manifest" not in request.path or request.path in refused:
            return None
        refused.append(request.path)
        return refusal(403, "AuthorizationFailure")

    proxy.before = each_once
    assert await through_the_proxy.repository.verify("azure") == {}
    assert len(refused) >= 2


async def test_storage_that_is_read_too_slowly_is_given_up_and_the_rest_is_read_again(site, proxy):
    work = site.changed(blob_connection_string=proxy.connection_string, verify_timeout_s=0.5)
    work.repository.configure()
    (dump,) = await site.rows("SELECT name, verified_at FROM backup.backups WHERE kind = 'dump' LIMIT 1")
    proxy.before = _of("/backup/", "GET", "slow")
    try:
        with pytest.raises(Unavailable, match=r"within 0\.5 s"):
            await work.verify()
    finally:
        proxy.clear()
        site.repository.configure()
    read = "SELECT verified_at FROM backup.backups WHERE kind = 'dump' AND name = $1"
    assert (await site.pool.fetchval(read, dump["name"])) != dump["verified_at"]
    damaged = "SELECT name FROM backup.backups WHERE kind = 'full' AND problem IS NOT NULL"
    assert await site.rows(damaged) == []


async def test_old_backups_that_cannot_be_deleted_go_with_the_next_run(
    site, proxy, through_the_proxy, monkeypatch
):
    monkeypatch.setattr(
        through_the_proxy, "_expiry", lambda place, backups: expiry(backups, datetime.now(UTC))
    )
    await through_the_proxy.repository.backup("azure")
    await through_the_proxy.note_physical()
    fulls = await _known(site, "full")
    assert len(fulls) > 1
    proxy.before = _of("/backup/", "DELETE", "503")
    with pytest.raises(EspError):
        await through_the_proxy.expire_physical(["azure"])
    proxy.clear()
    await through_the_proxy.expire_physical(["azure"])
    assert await _known(site, "full") == fulls[-1:]
    assert await through_the_proxy.repository.verify("azure") == {}
    async with Blobs(site.settings) as blobs:
        left = {blob.name.split("/")[3] for blob in await blobs.all("esp/backup/esp/2")}
    assert left == set(fulls[-1:])
