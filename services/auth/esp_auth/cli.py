"""The `esp-auth` command: one subcommand for each role."""

import typer
import uvloop
from esp_common import telemetry
from esp_common.errors import run_cli
from esp_common.settings import settings_table

from esp_auth import worker
from esp_auth.settings import AuthSettings
from esp_auth.store.migrations import migrate

app = typer.Typer(help="Answers who may do what.", no_args_is_help=True, pretty_exceptions_enable=False)


@app.command("worker")
def run_worker() -> None:
    """Answer every service's questions about API keys."""
    settings = AuthSettings.load()
    telemetry.configure("auth", "worker", settings)
    uvloop.run(worker.run(settings))


@app.command("migrate")
def run_migrate() -> None:
    """Bring the database's schema up to date."""
    settings = AuthSettings.load()
    engine = migrate(settings.database_url, settings.engine)
    typer.echo(f"schema is up to date; storage engine: {engine}")


@app.command("settings")
def show_settings() -> None:
    """Print every setting with its default and meaning."""
    typer.echo(settings_table(AuthSettings))


def main() -> None:
    """Run the command."""
    run_cli(app)
