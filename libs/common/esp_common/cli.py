"""What the services' commands do alike: groups, tables, and a run that says when the database is away."""

import asyncio
import logging
from collections.abc import Coroutine, Iterable
from getpass import getuser
from typing import Any, TypeVar

import structlog
import typer

from esp_common.database import OUTAGES
from esp_common.errors import Unavailable

Result = TypeVar("Result")


def group(purpose: str) -> typer.Typer:
    """Return a group of commands; an error of theirs is a line of plain text, not a box."""
    return typer.Typer(
        help=purpose, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None
    )


def actor_id() -> str:
    """Return who runs this command, for the audit trail."""
    return f"cli:{getuser()}"


def run_command(command: Coroutine[Any, Any, Result], *, away: str, fix: str) -> Result:
    """Run an operator's command; what is away becomes the error that says so, and what to do."""
    # Its output is the answer; what libraries have to say is for the roles' logs.
    logging.getLogger().addHandler(logging.NullHandler())
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    try:
        return asyncio.run(command)
    except OUTAGES as error:
        raise Unavailable(f"{away} does not answer: {error}", fix=fix) from error


def show_rows(columns: Iterable[str], rows: Iterable[Iterable[Any]]) -> None:
    """Print rows under their columns, tab-separated: for eyes, and for cut and grep."""
    typer.echo("\t".join(columns))
    for row in rows:
        typer.echo("\t".join("-" if value is None else str(value) for value in row))
