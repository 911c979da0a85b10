"""The archive: how fast a day goes there, what a reading takes, and what reading one pump's day costs.

A day of 50 and a day of 150 pumps of the simulated field are archived as the worker does it: counted,
written, uploaded to Azurite, read back and proved. Held against a bare COPY TO of the same rows through the
same view.
Then one day of one pump is read out of thirty days of ten fields of 50 pumps.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time, timedelta
from io import BytesIO
from threading import Event, Thread
from time import perf_counter
from typing import Any

import asyncpg
import psutil
import pyarrow as pa
import structlog
from bed import SEED, Bed, Deployment
from benchmark import Size, main
from ceilings import copy_bodies
from esp_archiver.domain.datasets import Dataset
from esp_archiver.domain.layout import Place
from esp_archiver.domain.planning import Export
from esp_archiver.exports import publish, write
from esp_archiver.reading import Question, Reader, columns_named
from esp_archiver.runs import Archive
from esp_archiver.settings import ArchiverSettings
from esp_archiver.storage import Store, open_store
from esp_archiver.store import manifest
from esp_archiver.store.migrations import migrate
from esp_archiver.store.sources import Telemetry, snapshot
from esp_gateway.simulator.field import build_field
from esp_platform.databases import ARCHIVER_OWNER
from esp_stack.servers.azurite import Azurite
from prometheus_client import REGISTRY
from report import Figure

PUMPS, MORE_PUMPS = 50, 150
FIELDS, DAYS, FEW_DAYS = 10, 30, 3
"""What one pump's day is read out of; a quick run only proves that it can be."""

ROWS_A_COPY = 50_000
FEW, MANY = date(2026, 1, 1), date(2026, 1, 2)
A_DAY = timedelta(days=1)
OF_COPY, BYTES, MEMORY, MILLISECONDS, SHARE = 0.5, 20, 1.3, 300, 1


@dataclass
class Site:
    """An archive over a deployment's readings."""

    pool: Any
    store: Store
    settings: ArchiverSettings

    async def archive(self, day: date) -> tuple[float, int, int]:
        """Archive everything up to a day; return the seconds that took, the rows and the bytes."""
        start = perf_counter()
        async with manifest.leading(self.pool) as lead:
            outcome = await Archive(self.pool, self.store, self.settings).run(lead, day + timedelta(days=31))
        if outcome.problems:
            raise SystemExit("; ".join(outcome.problems))
        return perf_counter() - start, outcome.rows, outcome.bytes

    async def bare_copy(self, day: date) -> float:
        """Return the seconds a COPY TO of a day takes that nobody does anything with."""

        async def nowhere(data: bytes) -> None:
            """Leave it."""

        rows = "SELECT * FROM telemetry_v1.readings WHERE time >= $1 AND time < $2"
        start = perf_counter()
        async with self.pool.acquire() as connection:
            await connection.copy_from_query(
                rows, midnight(day), midnight(day) + A_DAY, output=nowhere, format="binary"
            )
        return perf_counter() - start


def archive(bed: Bed, size: Size) -> Iterator[Figure]:
    """Load two days, archive each, and read out of thirty."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    deployment = bed.deploy(bed.engines[0], MORE_PUMPS)
    deployment.stop_jobs()
    azurite = Azurite(bed.home / "azurite")
    azurite.start()
    try:
        migrate(deployment.url(ARCHIVER_OWNER), deployment.engine)
        yield from asyncio.run(_measure(deployment, azurite, size))
    finally:
        azurite.kill()


async def _measure(deployment: Deployment, azurite: Azurite, size: Size) -> list[Figure]:
    for day, pumps in ((FEW, PUMPS), (MANY, MORE_PUMPS)):
        await _load(deployment, day, pumps, size.interval_s)
    async with _site(deployment, azurite) as site:
        copies = [await site.bare_copy(MANY) for _ in range(size.rounds)]
        peaks, archived = [], []
        for day in (FEW, MANY):
            with _Peak() as peak:
                archived.append(await site.archive(day))
            peaks.append(peak.mib)
        seconds, rows, written = archived[1]
        limit: Any = {"of": "measured", "at_most": True}
        note = "bare COPY TO of the same rows"
        rates = [rows / taken for taken in copies]
        return [
            Figure("archive: a day of 150 pumps", [rows / seconds], "rows/s", rates, OF_COPY, note=note),
            Figure("archive: a reading", [written / rows], "bytes", target=BYTES, **limit),
            Figure("archive: memory, thrice the pumps", peaks[1:], "MiB", peaks[:1], MEMORY, at_most=True),
            *await _one_pump(site, size, limit),
        ]


async def _one_pump(site: Site, size: Size, limit: Any) -> list[Figure]:
    """Read one pump's day out of an archive of ten fields and thirty days."""
    days = FEW_DAYS if size.interval_s >= 60 else DAYS
    whole = await _fill(site, days)
    reader = Reader(site.pool, site.store)
    since = midnight(FEW)
    question = Question("SIM-007", since, since + A_DAY, columns_named(None))
    times, shares = [], []
    for _ in range(size.rounds + 2):
        before, start = _bytes_read(), perf_counter()
        tables = [table async for table in reader.tables(question, await reader.parts(question))]
        times.append((perf_counter() - start) * 1000)
        shares.append(100 * (_bytes_read() - before) / whole)
        if pa.concat_tables(tables).num_rows == 0:
            raise SystemExit("nothing was read")
    note = f"of {FIELDS} fields and {days} days, {whole / 2**20:.0f} MiB"
    return [
        Figure("archive: a pump's day", times, "ms", target=MILLISECONDS, note=note, **limit),
        Figure("archive: read for it", shares, "%", target=SHARE, **limit),
    ]


async def _fill(site: Site, days: int) -> int:
    """Put the small day under the names of ten fields and so many days; return the bytes of all."""
    source, whole = Telemetry(), 0
    async with snapshot(site.pool) as reader, manifest.leading(site.pool) as lead:
        (content,) = await source.contents(reader, FEW)
        written = await write(source, reader, Export(Place(Dataset.TELEMETRY, "F", FEW, 0), content), 0, None)
        first = await publish(site.store, written, None)
        for number in range(FIELDS * days):
            field, day = f"F-{number // days}", date(2026, 2, 1) + timedelta(days=number % days)
            place = Place(Dataset.TELEMETRY, field, day, 0)
            etag = await site.store.upload(place.name, written.file.body, written.file.bytes, {})
            part = replace(first.part, place=place, etag=etag)
            pumps = first.pumps if field == "F-0" else (f"{field}-only",)
            entered = replace(first, part=part, pumps=pumps)
            if number:  # all have the rows of the first, whose day alone is asked for
                entered = replace(entered, first_time=midnight(day), last_time=midnight(day) + A_DAY)
            await manifest.put(lead, entered)
            whole += written.file.bytes
        written.close()
    return whole


async def _load(deployment: Deployment, day: date, pumps: int, interval_s: float) -> None:
    numbers = deployment.pump_numbers()
    connection: Any = await asyncpg.connect(deployment.url("postgres"))
    try:
        for readings in build_field(SEED, pumps).chunks(midnight(day), midnight(day) + A_DAY, interval_s):
            deployment.ensure_partitions(readings)
            for body in copy_bodies(readings, numbers, ROWS_A_COPY, as_arrived=True):
                await connection.copy_to_table(
                    "telemetry", schema_name="ingest", source=BytesIO(body), format="binary"
                )
        await connection.execute("ANALYZE ingest.telemetry")
    finally:
        await connection.close()


@asynccontextmanager
async def _site(deployment: Deployment, azurite: Azurite) -> AsyncIterator[Site]:
    settings = ArchiverSettings(blob_connection_string=azurite.connection_string, verify_share=0)
    utc = {"timezone": "UTC"}
    async with (
        asyncpg.create_pool(deployment.url("esp_archiver"), min_size=1, server_settings=utc) as pool,
        open_store(settings) as store,
    ):
        await store.ensure()
        yield Site(pool, store, settings)


class _Peak:
    """The most memory this process had while inside, MiB."""

    def __enter__(self) -> "_Peak":
        self.mib, self._stop, self._process = 0.0, Event(), psutil.Process()
        self._thread = Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(0.02):
            self.mib = max(self.mib, self._process.memory_info().rss / 2**20)


def _bytes_read() -> float:
    return REGISTRY.get_sample_value("esp_archiver_read_bytes_total") or 0


def midnight(day: date) -> datetime:
    """Return the moment a day begins, UTC."""
    return datetime.combine(day, time(), UTC)


if __name__ == "__main__":
    main(archive)
