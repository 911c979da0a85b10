"""The `esp-diagnostics` command: one subcommand for each role, and what an engineer does by hand."""

from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Annotated, Any, Final

import typer
from esp_common.cli import actor_id, group, run_command, show_rows
from esp_common.errors import InvalidInput, run_cli
from esp_common.settings import settings_table

from esp_diagnostics.settings import SERVICE, DiagnosticsSettings

Limit = Annotated[int, typer.Option(min=1, max=100_000, help="Most rows shown.")]
LetterIds = Annotated[list[str] | None, typer.Argument(help="Ids, as `dead-letters list` shows them.")]
All = Annotated[bool, typer.Option("--all", help="All there are.")]

LETTER_COLUMNS: Final = ("id", "died_at", "event_id", "alert_id", "priority", "title", "refusal")

app = group("Tells what a pump did, does and suffers from, and whom to tell.")
letters = group("Notifications that a destination did not take.")
app.add_typer(letters, name="dead-letters")


# --- roles ------------------------------------------------------------------------------------------------


@app.command("api")
def run_api() -> None:
    """Serve the HTTP API."""
    _run_role("api")


@app.command("worker")
def run_worker() -> None:
    """Judge the readings that ingest accepts: states, findings and alerts."""
    _run_role("worker")


@app.command("notifier")
def run_notifier() -> None:
    """Send messages to people, take the platform's own failures, and end shelvings and delays."""
    _run_role("notifier")


@app.command("migrate")
def run_migrate() -> None:
    """Bring the database's schema up to date."""
    # Alembic takes longer to load than most commands take.
    from esp_diagnostics.store.migrations import migrate

    settings = DiagnosticsSettings.load()
    engine = migrate(settings.database_url, settings.engine)
    typer.echo(f"schema is up to date; storage engine: {engine}")


@app.command("settings")
def show_settings() -> None:
    """Print every setting with its default and meaning."""
    typer.echo(settings_table(DiagnosticsSettings))


# --- dead letters -----------------------------------------------------------------------------------------


@letters.command("list")
def list_letters(limit: Limit = 100) -> None:
    """Show dead letters, oldest first; `refusal` says why one cannot be sent in again."""
    from esp_diagnostics.dead_letters import DeadLetters

    async def command() -> None:
        found = await DeadLetters(DiagnosticsSettings.load().amqp_url).list(limit)
        show_rows(LETTER_COLUMNS, ([getattr(letter, name) for name in LETTER_COLUMNS] for letter in found))

    _run(command())


@letters.command("replay")
def replay_letters(ids: LetterIds = None, every: All = False) -> None:
    """Send dead letters in again, those named or all, to the destinations that do not have them."""
    from esp_common.messaging import Publisher

    from esp_diagnostics.dead_letters import DeadLetters

    wanted = _letters_wanted(ids, every)

    async def command() -> None:
        async with _tools() as (settings, pool), Publisher(settings.amqp_url) as publisher:
            count = await DeadLetters(settings.amqp_url).replay(wanted, actor_id(), publisher, pool)
        typer.echo(f"{count} replayed")

    _run(command())


@letters.command("discard")
def discard_letters(ids: LetterIds = None, every: All = False) -> None:
    """Remove dead letters for good, those named or all."""
    from esp_diagnostics.dead_letters import DeadLetters

    wanted = _letters_wanted(ids, every)

    async def command() -> None:
        async with _tools() as (settings, pool):
            count = await DeadLetters(settings.amqp_url).discard(wanted, actor_id(), pool)
        typer.echo(f"{count} discarded")

    _run(command())


def _letters_wanted(ids: list[str] | None, every: bool) -> list[str] | None:
    if bool(ids) == every:
        raise InvalidInput("which dead letters?", fix="give ids, or else --all")
    return ids or None


# --- shared -----------------------------------------------------------------------------------------------


@asynccontextmanager
async def _tools() -> AsyncIterator[tuple[DiagnosticsSettings, Any]]:
    """Open what a command needs: the settings, and a connection to the database."""
    from esp_common.database import create_pool

    settings = DiagnosticsSettings.load()
    async with await create_pool(settings, role="esp-diagnostics cli", max_size=1) as pool:
        yield settings, pool


def _run(command: Coroutine[Any, Any, None]) -> None:
    fix = "check ESP_DIAGNOSTICS_DATABASE_URL and _AMQP_URL"
    run_command(command, away="database or broker", fix=fix)


def _run_role(name: str) -> None:
    # Only the roles need their frameworks, which take longer to load than most commands take.
    from esp_common.roles import run_role

    from esp_diagnostics import app as roles

    role = {"api": roles.run_api, "worker": roles.run_worker, "notifier": roles.run_notifier}[name]
    run_role(SERVICE, name, role, DiagnosticsSettings.load())


def main() -> None:
    """Run the command."""
    run_cli(app)
