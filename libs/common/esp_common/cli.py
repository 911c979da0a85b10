"""Shared pieces of command lines: groups, tables, and a runner that reports outages."""

import asyncio
import base64
import logging
import os
from collections.abc import Callable, Coroutine, Iterable, Mapping
from dataclasses import asdict
from getpass import getuser
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeVar

import orjson
import structlog
import typer

from esp_common.database import OUTAGES, create_pool
from esp_common.errors import InvalidInput, Unavailable
from esp_common.text import printable

if TYPE_CHECKING:
    from esp_common.dead_letters import DeadLetters

Result = TypeVar("Result")

MAX_ACTOR_LENGTH: Final = 64

Limit = Annotated[int, typer.Option(min=1, max=100_000, help="Most rows shown.")]
All = Annotated[bool, typer.Option("--all", help="All there are.")]
LetterIds = Annotated[list[str] | None, typer.Argument(help="Ids, as `dead-letters list` shows them.")]


def group(purpose: str) -> typer.Typer:
    """Return a group of commands whose errors are plain text."""
    return typer.Typer(
        help=purpose, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None
    )


def actor_id() -> str:
    """Return the user running this command for the audit trail: `ESP_ACTOR`, else login name, else uid.

    A container's user may have neither a login name nor a passwd entry.
    """
    name = os.environ.get("ESP_ACTOR", "").strip()
    if len(name) > MAX_ACTOR_LENGTH or not name.isprintable():
        raise InvalidInput(
            f"ESP_ACTOR is not 1 to {MAX_ACTOR_LENGTH} printable characters", fix="set it to your login name"
        )
    if not name:
        try:
            name = getuser()
        except (KeyError, OSError):
            name = f"uid-{os.getuid()}"
    return f"cli:{name}"


def run_command(command: Coroutine[Any, Any, Result], *, away: str, fix: str) -> Result:
    """Run an operator's command; turn an outage into an error with its remedy."""
    # Standard output carries the result; library logs belong to the roles.
    logging.getLogger().addHandler(logging.NullHandler())
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    try:
        return asyncio.run(command)
    except OUTAGES as error:
        raise Unavailable(f"{away} does not answer: {error}", fix=fix) from error


def show_rows(columns: Iterable[str], rows: Iterable[Iterable[Any]]) -> None:
    """Print rows under their column names, tab-separated for cut and grep."""
    typer.echo("\t".join(columns))
    for row in rows:
        typer.echo("\t".join("-" if value is None else _cell(value) for value in row))


def _cell(value: Any) -> str:
    """Return a value on one line, without control characters that a gateway may have sent."""
    return printable(str(value).encode(errors="backslashreplace"))


def show_whole(document: Mapping[str, Any]) -> None:
    """Print a document as JSON; bytes as text if they are UTF-8, else as base64."""
    typer.echo(orjson.dumps(document, option=orjson.OPT_INDENT_2, default=_readable).decode())


def _readable(value: Any) -> str:
    try:
        return value.decode() if isinstance(value, bytes) else str(value)
    except UnicodeDecodeError:
        return f"base64:{base64.b64encode(value).decode()}"


def dead_letter_commands(
    service: str, purpose: str, columns: tuple[str, ...], opened: Callable[[], tuple[Any, "DeadLetters[Any]"]]
) -> typer.Typer:
    """Return the commands that manage a service's dead letters.

    `columns`: the fields to list. `opened` returns the service's settings and its dead letters.
    """
    commands = group(purpose)

    def run(command: Coroutine[Any, Any, None]) -> None:
        fix = f"check ESP_{service.upper()}_DATABASE_URL and _AMQP_URL"
        run_command(command, away="database or broker", fix=fix)

    @commands.command("list")
    def list_letters(limit: Limit = 100) -> None:
        """Show dead letters, oldest first."""

        async def command() -> None:
            _, letters = opened()
            found = await letters.list(limit)
            show_rows(columns, ([getattr(letter, column) for column in columns] for letter in found))

        run(command())

    @commands.command("show")
    def show_letter(id: str) -> None:  # noqa: A002 - the name the help shows
        """Show a dead letter with its body."""

        async def command() -> None:
            _, letters = opened()
            show_whole(asdict(await letters.show(id)))

        run(command())

    @commands.command("replay")
    def replay_letters(ids: LetterIds = None, every: All = False) -> None:
        """Replay the named dead letters, or all of them."""
        from esp_common.messaging import Publisher  # slow to import

        wanted = _letters_wanted(ids, every)

        async def command() -> None:
            settings, letters = opened()
            async with (
                await create_pool(settings, role=f"esp-{service} cli", max_size=1) as pool,
                Publisher(settings.amqp_url) as publisher,
            ):
                count = await letters.replay(wanted, actor_id(), publisher, pool)
            typer.echo(f"{count} replayed")

        run(command())

    @commands.command("discard")
    def discard_letters(ids: LetterIds = None, every: All = False) -> None:
        """Delete the named dead letters, or all of them."""
        wanted = _letters_wanted(ids, every)

        async def command() -> None:
            settings, letters = opened()
            async with await create_pool(settings, role=f"esp-{service} cli", max_size=1) as pool:
                count = await letters.discard(wanted, actor_id(), pool)
            typer.echo(f"{count} discarded")

        run(command())

    return commands


def _letters_wanted(ids: list[str] | None, every: bool) -> list[str] | None:
    if bool(ids) == every:
        raise InvalidInput("which dead letters?", fix="give ids, or else --all")
    return ids or None
