"""The `esp-ingest` command: one subcommand for each role, and what an operator does by hand."""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from getpass import getuser
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
import uvloop
from esp_common import telemetry
from esp_common.database import create_pool
from esp_common.errors import InvalidInput, Unavailable, run_cli
from esp_common.settings import settings_table

from esp_ingest import app as roles
from esp_ingest.asset_files import read_assets
from esp_ingest.asset_kinds import Statement
from esp_ingest.assets import SERVICE, Assets, Changes
from esp_ingest.settings import IngestSettings
from esp_ingest.store.connection import Pool
from esp_ingest.store.migrations import migrate
from esp_ingest.store.telemetry import OUTAGES

Result = TypeVar("Result")

app = typer.Typer(
    help="Takes readings in, screens and stores them.", no_args_is_help=True, pretty_exceptions_enable=False
)
assets = typer.Typer(help="Fields, wells, pumps, gateways and tag maps.", no_args_is_help=True)
app.add_typer(assets, name="assets")


@app.command("api")
def api() -> None:
    """Serve the HTTP API."""
    _run_role("api", roles.run_api)


@app.command("worker")
def worker() -> None:
    """Store what arrives on the queue, and publish what was accepted."""
    _run_role("worker", roles.run_worker)


@app.command("maintenance")
def maintenance() -> None:
    """Keep partitions, aggregates and data quality current, and publish events."""
    _run_role("maintenance", roles.run_maintenance)


@app.command("migrate")
def run_migrate() -> None:
    """Bring the database's schema up to date."""
    settings = IngestSettings.load()
    engine = migrate(settings.database_url, settings.engine)
    typer.echo(f"schema is up to date; storage engine: {engine}")


@app.command("settings")
def show_settings() -> None:
    """Print every setting with its default and meaning."""
    typer.echo(settings_table(IngestSettings))


@assets.command("import")
def import_assets(file: Annotated[Path, typer.Argument(help="YAML (all kinds) or CSV (one kind).")]) -> None:
    """Make everything that FILE states true, or nothing of it; stating it again changes nothing."""
    settings = IngestSettings.load()
    try:
        statements = read_assets(file)
        changes = _run(_import(settings, statements))
    except InvalidInput as error:
        for problem in error.fields or []:
            typer.echo(f"{file}: {problem['where']}: {problem['what']}; {problem['fix']}", err=True)
        raise
    typer.echo(f"{changes.created} created, {changes.updated} updated, {changes.unchanged} as they were")


async def _import(settings: IngestSettings, statements: list[Statement]) -> Changes:
    async with _pool(settings) as pool:
        return await Assets(pool).write(statements, actor())


@asynccontextmanager
async def _pool(settings: IngestSettings) -> AsyncIterator[Pool]:
    pool = await create_pool(settings, role="esp-ingest cli", max_size=2)
    try:
        yield pool
    finally:
        await pool.close()


def actor() -> str:
    """Return who runs this command, for the audit trail."""
    return f"cli:{getuser()}"


def _run_role(name: str, role: roles.Role) -> None:
    settings = IngestSettings.load()
    telemetry.configure(SERVICE, name, settings)
    uvloop.run(roles.run_role(role, settings))


def _run(command: Coroutine[Any, Any, Result]) -> Result:
    """Run an operator's command; a database that is away becomes the error that says so."""
    try:
        return asyncio.run(command)
    except OUTAGES as error:
        raise Unavailable(
            f"the database does not answer: {error}", fix="check ESP_INGEST_DATABASE_URL"
        ) from error


def main() -> None:
    """Run the command."""
    run_cli(app)
