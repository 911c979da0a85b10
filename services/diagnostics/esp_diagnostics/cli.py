"""The `esp-diagnostics` command: one subcommand for each role, and what an engineer does by hand."""

from typing import TYPE_CHECKING, Final

import typer
from esp_common.cli import dead_letter_commands, group
from esp_common.errors import run_cli
from esp_common.settings import settings_table

from esp_diagnostics.settings import SERVICE, DiagnosticsSettings

if TYPE_CHECKING:
    from esp_diagnostics.notifications.dead_letters import DeadLetters


LETTER_COLUMNS: Final = ("id", "died_at", "event_id", "alert_id", "priority", "title", "refusal")


def _dead_letters() -> tuple[DiagnosticsSettings, "DeadLetters"]:
    from esp_diagnostics.notifications.dead_letters import DeadLetters

    settings = DiagnosticsSettings.load()
    return settings, DeadLetters(settings.amqp_url)


app = group("Tells what a pump did, does and suffers from, and whom to tell.")
letters = dead_letter_commands(
    SERVICE,
    "Notifications that a destination did not take; `refusal`: why one cannot be sent in again.",
    LETTER_COLUMNS,
    _dead_letters,
)
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


def _run_role(name: str) -> None:
    # Only the roles need their frameworks, which take longer to load than most commands take.
    from esp_common.roles import run_role

    from esp_diagnostics import app as roles

    role = {"api": roles.run_api, "worker": roles.run_worker, "notifier": roles.run_notifier}[name]
    run_role(SERVICE, name, role, DiagnosticsSettings.load())


def main() -> None:
    """Run the command."""
    run_cli(app)
