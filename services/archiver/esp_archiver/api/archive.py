"""The archive over HTTP: what there is, readings straight from it, and readings brought back."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import asdict
from datetime import date, datetime, timedelta
from typing import Annotated, Any, Final
from uuid import UUID

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
from esp_common.answers import BODY, Cursor, Limit, Page, UtcTime, page, position, problems
from esp_common.auth import Principal, require
from esp_common.cursors import day_field, text_field
from esp_common.database import Pool
from esp_common.errors import InvalidInput, NotFound
from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field

from esp_archiver.api.answers import NO_NUL, NotAcceptable
from esp_archiver.domain.datasets import FAULT_CHANNELS, FROZEN_CHANNELS, Dataset
from esp_archiver.reading import Question, Reader, columns_named
from esp_archiver.settings import ArchiverSettings
from esp_archiver.store import manifest
from esp_archiver.store import runs as store
from esp_archiver.store.manifest import PartFilter, Stored

ARROW: Final = "application/vnd.apache.arrow.stream"
CSV: Final = "text/csv"
_ANY: Final = ("*/*", "application/*", "")

PumpId = Annotated[str, Query(min_length=1, max_length=64, pattern=NO_NUL, description="Whose readings.")]
Id = Annotated[str, Field(min_length=1, max_length=64, pattern=NO_NUL)]
Reads = Annotated[Principal, Depends(require("archive:read"))]
Writes = Annotated[Principal, Depends(require("archive:write"))]


class ArchivedPart(BaseModel):
    """One object: what it holds, its hashes, and when it was verified and last read again.

    `revision` counts how often it was written. `damaged`: what was wrong with it then.
    """

    dataset: Dataset
    field_id: str | None
    day: date
    part: int
    object: str
    revision: int
    rows: int
    bytes: int
    sha256: str
    content_hash: str
    first_time: datetime
    last_time: datetime
    pumps: int
    verified_at: datetime
    checked_at: datetime | None
    damaged: str | None


class RestoreRequest(BaseModel):
    """Which readings to bring back, from `from` to before `to`, and for how many days."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True)

    pump_ids: list[Id] = Field(min_length=1)
    since: UtcTime = Field(alias="from")
    until: UtcTime = Field(alias="to")
    days: int = Field(7, ge=1, description="Days after which they go again.")


class Restored(BaseModel):
    """Readings brought back: rows of `archive_v1.restored` with this `restore_id`, until they expire."""

    restore_id: UUID
    state: str
    asked_by: str
    asked_at: datetime
    pump_ids: list[str]
    since: datetime = Field(serialization_alias="from")
    until: datetime = Field(serialization_alias="to")
    expires_at: datetime
    ended_at: datetime | None
    rows: int
    problem: str | None


class RunState(BaseModel):
    """One run of the archive, and what it wrote so far."""

    run_id: UUID
    state: str
    asked_by: str
    asked_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    days: int
    parts: int
    rows: int
    bytes: int
    problem: str | None


def archive_router(pool: Pool, reader: Reader, settings: ArchiverSettings) -> APIRouter:
    """Return the routes of the archive."""
    router = APIRouter(prefix="/archive", tags=["archive"])

    @router.get("", response_model=Page[ArchivedPart], responses=problems())
    async def list_archive(
        _: Reads,
        dataset: Dataset | None = None,
        field_id: Annotated[str | None, Query(max_length=64, pattern=NO_NUL)] = None,
        since: Annotated[date | None, Query(alias="from", description="Only days from this on.")] = None,
        until: Annotated[date | None, Query(alias="to", description="Only days before this.")] = None,
        cursor: Cursor = None,
        limit: Limit = 100,
    ) -> Any:
        """Return the archive's objects, newest day first."""
        wanted = PartFilter(dataset, field_id, since, until)
        after = position(cursor, day_field, text_field)
        rows = await manifest.page(pool, wanted, after, limit + 1)
        found = page(rows, limit, lambda row: [row.part.place.day, row.name])
        return {**found, "items": [_shown(each) for each in found["items"]]}

    @router.get("/telemetry", response_class=Response, responses={**problems(404, 406, 409), **_FORMS})
    async def read_telemetry(
        request: Request,
        _: Reads,
        pump_id: PumpId,
        since: Annotated[UtcTime, Query(alias="from", description="Only readings at or after this time.")],
        until: Annotated[UtcTime, Query(alias="to", description="Only readings before this time.")],
        channels: Annotated[
            str | None, Query(max_length=2000, description="Names with commas between; none: all.")
        ] = None,
    ) -> Response:
        """Return a pump's readings straight from the archive, in the order of time, as Arrow or CSV."""
        form = _form(request.headers.get("accept", ""))
        _check_span(since, until, settings.max_span_days)
        names = [name.strip() for name in channels.split(",")] if channels is not None else None
        question = Question(pump_id, since, until, columns_named(names))
        parts = await reader.parts(question)
        if not parts:
            raise NotFound(
                f"the archive has nothing of pump {pump_id} in that time",
                fix="younger readings: pumps/{id}/telemetry",
            )
        return await _answer(reader.tables(question, parts), question.schema, form)

    @router.post("/restore", status_code=202, response_model=Restored, responses=problems(404, *BODY))
    async def restore_readings(caller: Writes, wanted: RestoreRequest, response: Response) -> Any:
        """Have readings brought back into the database, into a table that goes when it expires.

        404 when the archive has nothing of one of the pumps in that time.
        """
        _check_span(wanted.since, wanted.until, settings.max_span_days)
        if len(wanted.pump_ids) > settings.max_pumps or wanted.days > settings.restored_days:
            raise InvalidInput(
                f"at most {settings.max_pumps} pumps for {settings.restored_days} days", fix="ask for less"
            )
        ids = sorted(set(wanted.pump_ids))
        await _require_archived(pool, ids, wanted.since, wanted.until)
        kept = timedelta(days=wanted.days)
        restore = await store.ask_restore(pool, caller.id, ids, wanted.since, wanted.until, kept)
        response.headers["Location"] = f"/api/v1/archive/restore/{restore.restore_id}"
        return asdict(restore)

    @router.get("/restore/{id}", response_model=Restored, responses=problems(404))
    async def show_restore(_: Reads, id: UUID) -> Any:  # noqa: A002 - the name the path shows
        """Return how far bringing readings back is."""
        return _found(await store.find_restore(pool, id), id)

    @router.delete("/restore/{id}", response_model=Restored, responses=problems(404))
    async def end_restore(_: Writes, id: UUID) -> Any:  # noqa: A002 - the name the path shows
        """Have readings that were brought back go at once."""
        return _found(await store.expire_now(pool, id), id)

    @router.post("/runs", status_code=202, response_model=RunState, responses=problems())
    async def ask_run(caller: Writes, response: Response) -> Any:
        """Have all that is due archived now; where a run waits already, that one."""
        run = await store.ask_run(pool, caller.id)
        response.headers["Location"] = f"/api/v1/archive/runs/{run.run_id}"
        return asdict(run)

    @router.get("/runs/{id}", response_model=RunState, responses=problems(404))
    async def show_run(_: Reads, id: UUID) -> Any:  # noqa: A002 - the name the path shows
        """Return how far a run is."""
        return _found(await store.find_run(pool, id), id)

    return router


_FORMS: Final[dict[int | str, dict[str, Any]]] = {
    200: {
        "description": "Readings",
        "content": {
            ARROW: {"schema": {"type": "string", "format": "binary"}},
            CSV: {"schema": {"type": "string"}},
        },
    }
}


async def _require_archived(pool: Pool, pump_ids: Sequence[str], since: datetime, until: datetime) -> None:
    """Raise NotFound naming the pumps of which the archive has no reading in [since, until)."""
    missing = [each for each in pump_ids if not await manifest.parts_of_pump(pool, each, since, until)]
    if missing:
        raise NotFound(
            f"the archive has nothing of {', '.join(missing)} in that time",
            fix="check the pump ids and the time; leave out pumps without archived readings",
        )


def _found(found: store.Run | store.Restore | None, id_: UUID) -> dict[str, Any]:
    if found is None:
        raise NotFound(f"nothing was asked for under {id_}")
    return asdict(found)


def _shown(stored: Stored) -> dict[str, Any]:
    place = stored.part.place
    return {
        **{
            name: getattr(stored, name) for name in ("revision", "bytes", "sha256", "first_time", "last_time")
        },
        **{name: getattr(stored, name) for name in ("verified_at", "checked_at", "damaged")},
        "dataset": place.dataset,
        "field_id": place.field_id or None,
        "day": place.day,
        "part": place.part,
        "object": stored.name,
        "rows": stored.part.rows,
        "content_hash": stored.part.content_hash,
        "pumps": len(stored.pumps),
    }


def _check_span(since: datetime, until: datetime, most_days: int) -> None:
    if until <= since:
        raise InvalidInput("`to` is not after `from`", fix="swap them")
    if until - since > timedelta(days=most_days):
        raise InvalidInput(f"at most {most_days} days at once", fix="ask for a shorter time")


def _form(accept: str) -> str:
    """Return the media type that the caller takes: Arrow where both will do."""
    wanted = [part.partition(";")[0].strip().lower() for part in accept.split(",")]
    for each in wanted:
        if each in (ARROW, CSV):
            return each
        if each in _ANY:
            return ARROW
        if each == "text/*":
            return CSV
    raise NotAcceptable("readings come as Arrow or CSV", fix=f"Accept: {ARROW} or {CSV}")


async def _answer(tables: AsyncIterator[pa.Table], schema: pa.Schema, form: str) -> Response:
    # The first table is read before the answer begins: what is away or damaged is told as a problem.
    first = await anext(tables, None)

    async def every() -> AsyncIterator[pa.Table]:
        if first is not None:
            yield first
        async for table in tables:
            yield table

    body = _csv(every(), schema) if form == CSV else _arrow(every(), schema)
    media_type = f"{CSV}; charset=utf-8" if form == CSV else ARROW
    return StreamingResponse(body, media_type=media_type)


class _Sink:
    """Takes what a writer writes, to be passed on."""

    closed = False

    def __init__(self) -> None:
        self._pieces: list[bytes] = []

    def write(self, data: Any) -> int:
        self._pieces.append(bytes(data))
        return len(self._pieces[-1])

    def flush(self) -> None:
        """Nothing is held back."""

    def take(self) -> bytes:
        pieces, self._pieces = self._pieces, []
        return b"".join(pieces)


async def _arrow(tables: AsyncIterator[pa.Table], schema: pa.Schema) -> AsyncIterator[bytes]:
    sink = _Sink()
    with pa.ipc.new_stream(pa.PythonFile(sink, mode="w"), schema) as writer:
        async for table in tables:
            writer.write_table(table)
            yield sink.take()
    yield sink.take()


async def _csv(tables: AsyncIterator[pa.Table], schema: pa.Schema) -> AsyncIterator[bytes]:
    lists = [name for name in (FAULT_CHANNELS, FROZEN_CHANNELS) if name in schema.names]
    options = pacsv.WriteOptions(include_header=False, quoting_style="needed")
    yield (",".join(schema.names) + "\n").encode()
    async for table in tables:
        sink = pa.BufferOutputStream()
        pacsv.write_csv(_flat(table, lists), sink, options)
        yield sink.getvalue().to_pybytes()


def _flat(table: pa.Table, lists: list[str]) -> pa.Table:
    """Return the table with names in lists separated by semicolons, and times in RFC 3339."""
    for name in lists:
        joined = pc.binary_join(table.column(name), ";")
        table = table.set_column(table.column_names.index(name), name, joined)
    times = pc.strftime(table.column("time"), format="%Y-%m-%dT%H:%M:%SZ")
    return table.set_column(table.column_names.index("time"), "time", times)
