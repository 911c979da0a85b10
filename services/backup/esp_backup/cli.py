"""The `esp-backup` command: one subcommand for each role, and what an operator does by hand."""

from collections.abc import Callable, Coroutine
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar

import orjson
import typer
from esp_common import audit
from esp_common.cli import actor_id, group, run_command, show_rows
from esp_common.errors import Conflict, InvalidInput, run_cli
from esp_common.progress import progress_bar
from esp_common.service_cli import add_service_commands
from esp_common.times import EXAMPLE, parse_time

from esp_backup.blobs import Blobs
from esp_backup.doctor import Diagnosis, Doctor
from esp_backup.domain.modes import Mode, require
from esp_backup.domain.physical import FULL, TYPES
from esp_backup.dumps import Dumps
from esp_backup.jobs import SERVICE, Jobs
from esp_backup.recovery import Recovery
from esp_backup.repository import AZURE, LOCAL, Repository
from esp_backup.sets import Sets
from esp_backup.settings import BackupSettings
from esp_backup.store import catalogue, jobs
from esp_backup.work import open_work, owner_of

TAKEN: Final = ("dump", *TYPES, "set")
PHYSICAL_WORK: Final = (*TYPES, "verify", "drill")
"""Work that reads pgBackRest's configuration."""

Result = TypeVar("Result")
Kind = Annotated[str, typer.Argument(help=f"{', '.join(TAKEN[:-1])} or {TAKEN[-1]}.")]
Place = Annotated[
    str | None, typer.Option("--from", help=f"{AZURE} or {LOCAL}; none: whichever has the newest backup.")
]

app = group("Backs the platform up, and proves that the backups restore.")
catalogue_commands = group("What backups there are.")
app.add_typer(catalogue_commands, name="catalogue")


ROLES: Final = {
    "api": "Serve the HTTP API.",
    "worker": "Take backups, restore them as a check, and monitor WAL archiving; runs beside the cluster.",
}

add_service_commands(app, BackupSettings, ROLES)


@app.command("doctor")
def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Print the backup mode, what it promises and cannot do, and check it; exit 1 when a check fails."""

    async def command(settings: BackupSettings) -> Diagnosis:
        async with open_work(settings) as (pool, work):
            return await Doctor(settings, work.account, pool).examine()

    diagnosis = _run(command)
    document = diagnosis.to_json()
    if as_json:
        typer.echo(orjson.dumps(document, option=orjson.OPT_INDENT_2).decode())
    else:
        for name in ("mode", "physical_by", "rpo", "rto"):
            typer.echo(f"{name.replace('_', ' ')}: {document[name]}")
        for limit in document["limits"]:
            typer.echo(f"limit: {limit}")
        show_rows(
            ("check", "result", "detail"),
            (finding.row for finding in diagnosis.findings),
        )
    if not diagnosis.passed:
        raise typer.Exit(1)


@app.command("configure")
def configure() -> None:
    """Write pgBackRest's configuration and print the lines that the cluster's postgresql.conf needs."""
    settings = BackupSettings.load()
    require(settings.mode, FULL)
    repository = _repository(settings)
    repository.configure()
    typer.echo("archive_mode = on")
    typer.echo("archive_timeout = 60s")
    typer.echo(f"archive_command = '{repository.archive_command}'")


@app.command("now")
def backup_now(kind: Kind = "full") -> None:
    """Take a backup here and now: a dump, a physical backup (full, diff, incr), or the daily set."""
    if kind not in TAKEN:
        raise InvalidInput(f"no kind of backup: {kind!r}", fix=f"name one of {', '.join(TAKEN)}")
    require(BackupSettings.load().mode, kind)
    _do(kind)


@app.command("drill")
def drill_now() -> None:
    """Restore the newest backup into a scratch instance, check it, and print the report."""
    _do("drill")


@app.command("verify")
def verify_now() -> None:
    """Read every backup again; exit 1 when one is not as it was written."""
    _do("verify")


@app.command("list")
def list_backups(
    kind: Annotated[str | None, typer.Option(help="Only these: dump, full, diff, incr or set.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="Most rows shown.")] = 100,
) -> None:
    """Show the backups in the catalogue, newest first."""

    async def command(settings: BackupSettings) -> None:
        async with open_work(settings) as (pool, _):
            rows = await catalogue.page(pool, kind, None, limit)
        columns = ("kind", "place", "name", "started_at", "stored_bytes", "verified_at", "problem", "held")
        shown = ({**row, "held": row["detail"].get("held")} for row in rows)
        show_rows(columns, ([row[column] for column in columns] for row in shown))

    _run(command)


@app.command("jobs")
def list_jobs(
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="Most rows shown.")] = 20,
) -> None:
    """Show what was done and is being done, the last requested first."""

    async def command(settings: BackupSettings) -> None:
        async with open_work(settings) as (pool, _):
            rows = await jobs.page(pool, None, None, None, limit)
        columns = ("job_id", "kind", "state", "requested_by", "started_at", "ended_at", "error")
        show_rows(columns, ([row[column] for column in columns] for row in rows))

    _run(command)


@app.command("hold")
def hold_backup(
    name: Annotated[str, typer.Argument(help="A physical backup, as `list` shows it.")],
    reason: Annotated[str, typer.Option(help="Why it is kept.")],
) -> None:
    """Keep a physical backup, and the full one it needs, until `release`, whatever the retention says."""
    if not reason.strip():
        raise InvalidInput("a hold needs a reason", fix="--reason 'before the migration'")
    _hold(name, reason.strip())


@app.command("release")
def release_backup(
    name: Annotated[str, typer.Argument(help="A backup that is held, as `list` shows it.")],
) -> None:
    """End the hold of a physical backup: the retention applies to it again."""
    _hold(name, None)


@catalogue_commands.command("rebuild")
def rebuild_catalogue() -> None:
    """Make the catalogue say what is in storage."""

    async def command(settings: BackupSettings) -> None:
        async with open_work(settings) as (_, work):
            work.repository.require_configured()
            found = await work.rebuild()
        typer.echo(", ".join(f"{count} {kind}s" for kind, count in found.items()))

    _run(command)


@app.command("restore")
def restore(
    to: Annotated[str, typer.Option(help="A time with offset (2026-01-31T12:00:00Z), or latest.")],
    target: Annotated[
        Path | None, typer.Option(help="Empty folder for the data; none: one of this time.")
    ] = None,
    place: Place = None,
) -> None:
    """Put the database back to a moment, in a new folder, and verify it; the running one is not touched.

    Needs neither the database nor the catalogue.
    """
    moment = _moment(to)

    async def command(settings: BackupSettings) -> None:
        _require_repository(settings)
        with progress_bar() as progress:
            recovery = Recovery(settings, owner_of(settings.cluster_data), progress)
            done = await recovery.restore(moment, target.absolute() if target else None, place)
        newest = done.newest.isoformat() if done.newest else "unknown"
        typer.echo(f"restored {done.backup.label} from {done.backup.place} to {to} in {done.folder}")
        typer.echo(f"newest heartbeat: {newest}")
        typer.echo(
            f"files in {done.copy_s:.1f} s, log in {done.recovery_s:.1f} s: {done.megabytes_per_s:.0f} MB/s"
        )
        typer.echo("it is verified and shut down; docs/runbooks/restore.md says how to put it to work")

    _run(command)


@app.command("restore-dump")
def restore_dump(
    name: Annotated[str, typer.Argument(help="A dump, as `list --kind dump` shows it.")],
    database: Annotated[str, typer.Option(help="Name of the database to make.")],
    roles: Annotated[
        bool, typer.Option("--roles", help="Make the roles as well: on a server that has none of ours.")
    ] = False,
) -> None:
    """Load a dump, once it is verified, as a new database of the cluster."""

    async def command(settings: BackupSettings) -> None:
        with progress_bar() as progress:
            async with open_work(settings, progress) as (_, work):
                await work.dumps.load(name, settings.cluster_url, database, roles=roles)
        typer.echo(f"{name} is loaded as {database}")

    _run(command)


@app.command("open-dump")
def open_dump(
    name: Annotated[str, typer.Argument(help="A sealed dump, as `list --kind dump` shows it.")],
    target: Annotated[Path, typer.Option(help="Folder to make.")],
) -> None:
    """Write what a sealed dump holds into a folder, for pg_restore by hand; needs no database."""

    async def command(settings: BackupSettings) -> None:
        dumps = Dumps(settings, owner_of(settings.cluster_data))
        await dumps.open(name, target.absolute())
        typer.echo(f"{name} is open in {target}; remove that when it has served")

    _run(command)


@app.command("restore-set")
def restore_set(
    target: Annotated[Path, typer.Option(help="Folder to make.")],
    name: Annotated[str | None, typer.Argument(help="A set, as `list` shows it; none: the newest.")] = None,
) -> None:
    """Unpack a daily set: definitions of the broker, the vault's snapshot and configuration."""

    async def command(settings: BackupSettings) -> None:
        async with Blobs(settings) as blobs:
            sets = Sets(settings, blobs)
            if name is None and not (found := await sets.all()):
                raise Conflict("there is no daily set", fix="take one: esp-backup now set")
            files = await sets.fetch(name or found[-1].name, target)
        typer.echo("\n".join(str(target / file) for file in files))

    _run(command)


def _do(kind: str) -> None:
    async def command(settings: BackupSettings) -> None:
        with progress_bar() as progress:
            async with open_work(settings, progress) as (pool, work):
                if kind in PHYSICAL_WORK:
                    work.repository.require_configured()
                result = await Jobs(pool, work).run(kind, actor_id())
        typer.echo(orjson.dumps(result, option=orjson.OPT_INDENT_2).decode())

    _run(command)


def _hold(name: str, reason: str | None) -> None:
    async def command(settings: BackupSettings) -> None:
        _require_repository(settings)
        async with open_work(settings) as (pool, work):
            work.repository.require_configured()
            places = await work.hold(name, reason)
            action = "backup.held" if reason else "backup.released"
            async with pool.acquire() as connection, connection.transaction():
                await audit.record(connection, source=SERVICE, actor=actor_id(), action=action, subject=name)
        typer.echo(f"{name} is {'held' if reason else 'released'} in {', '.join(places)}")

    _run(command)


def _moment(text: str) -> datetime | None:
    if text == "latest":
        return None
    try:
        return parse_time(text)
    except ValueError as error:
        raise InvalidInput(f"{text!r}: {error}", fix=f"write it like {EXAMPLE}, or latest") from None


def _require_repository(settings: BackupSettings) -> None:
    if settings.mode is Mode.MANAGED:
        raise InvalidInput(
            "physical backups of a managed database are its provider's",
            fix="use the provider's point-in-time restore, or load a dump: esp-backup restore-dump",
        )


def _repository(settings: BackupSettings) -> Repository:
    return Repository(settings, owner_of(settings.cluster_data))


def _run(command: Callable[[BackupSettings], Coroutine[Any, Any, Result]]) -> Result:
    # A backup takes longer than any statement of the roles may.
    settings = BackupSettings.load().model_copy(update={"statement_timeout_s": 0})
    return run_command(command(settings), away="the database", fix="check ESP_BACKUP_DATABASE_URL")


def main() -> None:
    """Run the command."""
    run_cli(app)
