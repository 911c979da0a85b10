"""The `esp-ingest` command: one subcommand for each role, and what an operator does by hand."""

from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final
from uuid import UUID

import typer
from esp_common.cli import (
    All,
    Limit,
    actor_id,
    dead_letter_commands,
    group,
    run_command,
    show_rows,
    show_whole,
)
from esp_common.contracts.channels import MASK_NAMES
from esp_common.database import Pool, create_pool
from esp_common.errors import Conflict, InvalidInput, NotFound, run_cli
from esp_common.progress import progress_bar
from esp_common.service_cli import add_service_commands

from esp_ingest.assets import SERVICE, Assets
from esp_ingest.domain.decode import ARROW_TYPE, JSON_TYPE
from esp_ingest.domain.readings import Reason
from esp_ingest.quarantine import Edited, Quarantine, body_of
from esp_ingest.quarantine import every as every_refused
from esp_ingest.retention import drop_before
from esp_ingest.settings import IngestSettings
from esp_ingest.store.lists import Lists, QuarantineFilter
from esp_ingest.store.telemetry import installed_engine

if TYPE_CHECKING:
    from esp_ingest.dead_letters import DeadLetters

ReadingIds = Annotated[list[UUID] | None, typer.Argument(help="Ids, as `quarantine list` shows them.")]
ReasonFilter = Annotated[Reason | None, typer.Option("--reason", help="Only those refused for this.")]
GatewayFilter = Annotated[str | None, typer.Option("--gateway", help="Only those of this gateway.")]
PumpFilter = Annotated[str | None, typer.Option("--pump", help="Only those of this pump.")]


def _channel(given: str | None) -> str | None:
    if given is not None and given not in MASK_NAMES:
        raise InvalidInput(f"{given!r} is not a channel", fix=f"give one of {', '.join(MASK_NAMES)}")
    return given


ChannelFilter = Annotated[
    str | None, typer.Option("--channel", callback=_channel, help="Only those of this channel.")
]
Resolution = Callable[[Quarantine, UUID, str], Awaitable[None]]

REFUSED_COLUMNS: Final = (
    *("id", "received_at", "state", "reason", "gateway_id", "pump_id", "time", "channel", "detail"),
)
LETTER_COLUMNS: Final = ("id", "died_at", "routing_key", "message_id", "reason")


def _dead_letters() -> tuple[IngestSettings, "DeadLetters"]:
    from esp_ingest.dead_letters import DeadLetters

    settings = IngestSettings.load()
    return settings, DeadLetters(settings.amqp_url)


app = group("Takes readings in, screens and stores them.")
assets = group("Fields, wells, pumps, gateways and tag maps.")
quarantine = group("Readings that were refused.")
letters = dead_letter_commands(
    SERVICE, "Messages that no worker could process.", LETTER_COLUMNS, _dead_letters
)
retention = group("Raw days that may go.")
for name, commands in (
    ("assets", assets),
    ("quarantine", quarantine),
    ("dead-letters", letters),
    ("retention", retention),
):
    app.add_typer(commands, name=name)


ROLES: Final = {
    "api": "Serve the HTTP API.",
    "worker": "Store the readings that arrive on the queue, and publish the accepted ones.",
    "maintenance": "Keep partitions, aggregates and data quality current, and publish events.",
}

add_service_commands(app, IngestSettings, ROLES)


# --- assets -----------------------------------------------------------------------------------------------


@assets.command("import")
def import_assets(file: Annotated[Path, typer.Argument(help="YAML (all kinds) or CSV (one kind).")]) -> None:
    """Make everything that FILE states true, or nothing of it; stating it again changes nothing."""
    from esp_ingest.asset_files import read_assets

    async def command() -> None:
        async with _tools() as (_, pool):
            changes = await Assets(pool).write(statements, actor_id())
        typer.echo(f"{changes.created} created, {changes.updated} updated, {changes.unchanged} as they were")

    try:
        statements = read_assets(file)
        _run(command())
    except InvalidInput as error:
        for problem in error.fields or []:
            typer.echo(f"{file}: {problem['where']}: {problem['what']}; {problem['fix']}", err=True)
        raise


# --- quarantine -------------------------------------------------------------------------------------------


@quarantine.command("list")
def list_quarantine(
    reason: ReasonFilter = None,
    gateway: GatewayFilter = None,
    pump: PumpFilter = None,
    channel: ChannelFilter = None,
    state: Annotated[str, typer.Option(help="pending, replayed, discarded or any")] = "pending",
    limit: Limit = 100,
) -> None:
    """Show refused readings, the last received first."""
    wanted = QuarantineFilter(reason, gateway, pump, channel, None if state == "any" else state)

    async def command() -> None:
        async with _tools() as (_, pool):
            _show_rows(await Lists(pool).quarantine(wanted, None, limit), REFUSED_COLUMNS)

    _run(command())


@quarantine.command("show")
def show_quarantined(id: UUID) -> None:  # noqa: A002 - the name the help shows
    """Show a refused reading with what was sent."""

    async def command() -> None:
        show_whole(await _refused(id))

    _run(command())


@quarantine.command("body")
def write_quarantined_body(id: UUID) -> None:  # noqa: A002 - the name the help shows
    """Write a refused reading, or the body that could not be read, to standard output: to edit and replay."""

    async def command() -> None:
        typer.echo(body_of((await _refused(id))["payload"])[0], nl=False)

    _run(command())


@quarantine.command("replay")
def replay_quarantined(
    ids: ReadingIds = None,
    reason: ReasonFilter = None,
    gateway: GatewayFilter = None,
    pump: PumpFilter = None,
    channel: ChannelFilter = None,
    every: All = False,
    edited: Annotated[
        typer.FileBinaryRead | None,
        typer.Option("--edited", help="File to send in place of the one reading named; - for stdin."),
    ] = None,
    content_type: Annotated[str, typer.Option(help="Media type of the edited body.")] = JSON_TYPE,
) -> None:
    """Send refused readings in again, once their cause is mended: those named or all that fit."""
    act: Resolution = Quarantine.replay
    if edited is not None:
        if len(ids or ()) != 1:
            raise InvalidInput("an edited body replaces one reading", fix="name it by its id")
        act = _replay_edited(edited.read(), content_type)
    _resolve(ids, QuarantineFilter(reason, gateway, pump, channel, "pending"), every, act, "replayed")


def _replay_edited(body: bytes, content_type: str) -> Resolution:
    if content_type not in (JSON_TYPE, ARROW_TYPE):
        raise InvalidInput(f"{content_type!r} is not {JSON_TYPE} or {ARROW_TYPE}", fix="use one of these")

    async def replay(refused: Quarantine, id_: UUID, actor: str) -> None:
        await refused.replay(id_, actor, Edited(body, content_type))

    return replay


@quarantine.command("discard")
def discard_quarantined(
    ids: ReadingIds = None,
    reason: ReasonFilter = None,
    gateway: GatewayFilter = None,
    pump: PumpFilter = None,
    channel: ChannelFilter = None,
    every: All = False,
) -> None:
    """Give refused readings up, those named or all that fit; their rows stay."""
    _resolve(
        ids,
        QuarantineFilter(reason, gateway, pump, channel, "pending"),
        every,
        Quarantine.discard,
        "discarded",
    )


async def _refused(id_: UUID) -> dict[str, Any]:
    """Return a refused reading; raise NotFound if quarantine does not have it."""
    async with _tools() as (_, pool):
        refused = await Lists(pool).refused(id_)
    if refused is None:
        raise NotFound(f"no reading {id_} in quarantine", fix="see `esp-ingest quarantine list`")
    return refused


def _resolve(
    ids: list[UUID] | None, wanted: QuarantineFilter, every: bool, act: Resolution, done: str
) -> None:
    """Do `act` to the readings named, or to all pending ones that fit; say of each that it is `done`."""
    from esp_common.messaging import Publisher

    many = every or wanted != QuarantineFilter(state="pending")
    if bool(ids) == many:
        raise InvalidInput("which readings?", fix="give ids, or else filters or --all")

    async def command() -> None:
        async with _tools() as (settings, pool), Publisher(settings.amqp_url) as publisher:
            refused = Quarantine(pool, publisher)
            for id_ in ids or ():
                await act(refused, id_, actor_id())
                typer.echo(f"{id_} {done}")
            if not ids:
                typer.echo(f"{await count(refused, pool)} {done}")

    async def count(refused: Quarantine, pool: Pool) -> int:
        resolved = 0
        with progress_bar() as progress:
            progress("refused readings", None)
            async for id_ in every_refused(Lists(pool), wanted):
                with suppress(Conflict, NotFound):  # someone else was faster
                    await act(refused, id_, actor_id())
                    resolved += 1
        return resolved

    _run(command())


# --- accounts and retention -------------------------------------------------------------------------------


@app.command("reconcile")
def run_reconcile(
    receipt: Annotated[Path | None, typer.Option(help="JSON lines of confirmed readings.")] = None,
) -> None:
    """Compare the service's accounts with what is stored; fail when readings are lost or duplicated."""
    from esp_ingest.reconcile import reconcile

    async def command() -> None:
        async with _tools() as (settings, pool):
            with progress_bar() as progress:
                result = await reconcile(pool, settings.amqp_url, receipt, progress)
        typer.echo(result.text())
        if not result.agrees:
            raise Conflict("; ".join(result.differences), fix="run it again once the queue is empty")

    if receipt is not None and not receipt.is_file():
        raise InvalidInput(f"no receipt at {receipt}", fix="check the path")
    _run(command())


@retention.command("drop")
def drop_raw_days(
    before: Annotated[datetime, typer.Option(formats=["%Y-%m-%d"], help="First day that stays.")],
    unarchived: Annotated[
        bool, typer.Option("--unarchived", help="Also what the archive does not have: it is gone for good.")
    ] = False,
) -> None:
    """Drop the raw readings of every day before a date that the archive has proved; aggregates stay."""

    async def command() -> None:
        async with _tools(statement_timeout_s=0) as (settings, pool):
            async with pool.acquire() as connection:
                engine = await installed_engine(connection)
            async for dropped in drop_before(
                pool,
                engine,
                before.date(),
                today=datetime.now(UTC).date(),
                keep_days=settings.retention_days,
                by=actor_id(),
                unarchived=unarchived,
            ):
                where = f"in archive {dropped.archive_id}" if dropped.archive_id else "not archived"
                typer.echo(f"{dropped.day}: {dropped.readings} readings dropped, {where}")

    _run(command())


# --- shared -----------------------------------------------------------------------------------------------


@asynccontextmanager
async def _tools(**overrides: Any) -> AsyncIterator[tuple[IngestSettings, Pool]]:
    """Open what a command needs: the settings, and a few connections to the database."""
    settings = IngestSettings.load().model_copy(update=overrides)
    async with await create_pool(settings, role="esp-ingest cli", max_size=3) as pool:
        yield settings, pool


def _run(command: Coroutine[Any, Any, None]) -> None:
    fix = "check ESP_INGEST_DATABASE_URL and _AMQP_URL"
    run_command(command, away="database or broker", fix=fix)


def _show_rows(rows: Iterable[Mapping[str, Any]], columns: tuple[str, ...]) -> None:
    show_rows(columns, ([row[column] for column in columns] for row in rows))


def main() -> None:
    """Run the command."""
    run_cli(app)
