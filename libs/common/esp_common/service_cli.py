"""The commands that every service has: one for each role, `migrate`, `asyncapi` and `settings`."""

import json
from collections.abc import Callable, Mapping
from importlib import import_module

import typer

from esp_common.errors import Unavailable
from esp_common.settings import ServiceSettings, env_name, service_of, settings_table
from esp_common.text import printable


def add_service_commands(
    app: typer.Typer, settings_class: type[ServiceSettings], roles: Mapping[str, str]
) -> None:
    """Add the commands to `app`; `roles`: name of each role with its help text.

    The command of the role `api` runs `run_api` of the service's `app` module. Frameworks are imported when a
    role starts, since they take longer to load than most commands take to run.
    """
    package = f"esp_{service_of(settings_class)}"
    for role, purpose in roles.items():
        app.command(role, help=purpose)(_role_command(package, role, settings_class))

    @app.command("migrate")
    def migrate() -> None:
        """Bring the database's schema up to date."""
        from psycopg import OperationalError

        settings = settings_class.load()
        migrations = import_module(f"{package}.store.migrations")
        try:
            engine = migrations.migrate(settings.database_url, getattr(settings, "engine", "auto"))
        except OperationalError as error:
            reason = printable(str(error).partition("\n")[0].encode())
            variable = env_name(settings_class, "database_url")
            raise Unavailable(f"the database does not answer: {reason}", fix=f"check {variable}") from error
        typer.echo(f"schema is up to date; storage engine: {engine}")

    @app.command("asyncapi")
    def show_asyncapi() -> None:
        """Print the AsyncAPI document: the messages that the service receives and sends."""
        from esp_common.contracts.asyncapi import document

        text = json.dumps(document(service_of(settings_class)), indent=2, ensure_ascii=False)
        typer.echo(text)

    @app.command("settings")
    def show_settings() -> None:
        """Print every setting with its default and meaning."""
        typer.echo(settings_table(settings_class))


def _role_command(package: str, role: str, settings_class: type[ServiceSettings]) -> Callable[[], None]:
    def run() -> None:
        from esp_common.roles import run_role

        settings = settings_class.load()
        run_role(
            service_of(settings_class),
            role,
            getattr(import_module(f"{package}.app"), f"run_{role}"),
            settings,
        )

    return run
