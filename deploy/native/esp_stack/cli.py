"""`esp-stack`: the native stack's commands, which `make` calls."""

import os
import subprocess
import sys
import traceback
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Annotated, NoReturn

import httpx
import psycopg
import typer
from rich.console import Console

from esp_stack import lifecycle
from esp_stack.accounts import shared_account_warning
from esp_stack.failures import describe
from esp_stack.programs import StackError
from esp_stack.stack import ADMIN, Stack
from esp_stack.status import LACKS, flow, process_table

CHECKOUT = Path(__file__).parents[3]

app = typer.Typer(
    help="Run the whole platform on this machine, without containers.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
console = Console(highlight=False, soft_wrap=True)

Folder = Annotated[
    Path, typer.Option(envvar="ESP_STACK_FOLDER", help="Where the stack keeps everything it writes.")
]
DEFAULT_FOLDER = CHECKOUT / ".stack"


@app.command()
def up(folder: Folder = DEFAULT_FOLDER) -> None:
    """Start everything that does not run, wait until it is ready, print where it is."""
    with lifecycle.alone(folder):
        stack = Stack(folder.resolve())
        first = not stack.credentials.knows("admin")
        lifecycle.up(stack, console.print)
    console.print(_summary(stack, first=first))
    _warn_of_shared_account()


@app.command()
def down(folder: Folder = DEFAULT_FOLDER) -> None:
    """Stop everything; data stays."""
    if folder.exists():
        with lifecycle.alone(folder):
            lifecycle.down(Stack(folder.resolve()))


@app.command()
def clean(folder: Folder = DEFAULT_FOLDER) -> None:
    """Stop everything and remove all data, credentials and logs."""
    if folder.exists():
        with lifecycle.alone(folder):
            lifecycle.clean(Stack(folder.resolve()))


@app.command()
def status(folder: Folder = DEFAULT_FOLDER) -> None:
    """Show every process, the storage engine and what flows; exit 1 unless all of it is ready."""
    if not folder.exists() or (stack := Stack(folder.resolve())).supervisor.pid is None:
        console.print("The stack is down. `make up` starts it.")
        raise typer.Exit(1)
    table, all_ready = process_table(stack)
    console.print(table)
    for line in flow(stack):
        console.print(line)
    _warn_of_shared_account()
    if not all_ready:
        raise typer.Exit(1)


@app.command()
def logs(
    name: Annotated[str | None, typer.Argument(help="A process of `status`; all if not given.")] = None,
    lines: Annotated[int, typer.Option(help="How many of the last lines.")] = 50,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as lines are written.")] = False,
    folder: Folder = DEFAULT_FOLDER,
) -> None:
    """Show the end of the processes' logs."""
    files = sorted((folder / "logs").glob(f"{name or '*'}.log"))
    if not files:
        raise StackError(f"no log of {name or 'any process'} in {folder / 'logs'} — see `make status`")
    command = ["tail", f"--lines={lines}", *(["--follow=name"] if follow else []), *map(str, files)]
    subprocess.run(command, check=False)


def main() -> None:
    """Run the command line; what goes wrong is one line on stderr."""
    # A stricter mask of whoever calls would keep services out of folders on the way to their files.
    os.umask(0o022)
    try:
        app()
    except (StackError, httpx.HTTPError, psycopg.Error) as failure:
        _fail(str(failure))
    except OSError as failure:
        _fail(describe(failure))
    except Exception as failure:
        # Nobody foresaw it: whoever mends it needs the traceback, whoever ran the command does not.
        with NamedTemporaryFile("w", prefix="esp-stack-", suffix=".log", delete=False) as report:
            report.write(traceback.format_exc())
        _fail(f"{type(failure).__name__}: {describe(failure)} — the traceback is in {report.name}")


def _fail(message: str) -> NoReturn:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(1)


def _warn_of_shared_account() -> None:
    if warning := shared_account_warning():
        console.print(f"[bold red]{warning}[/]")


def _summary(stack: Stack, *, first: bool) -> str:
    endpoints = stack.folder / "endpoints.json"
    password = stack.admin_password if first else f"in {endpoints}, unless it has been changed"
    return f"""
The platform is up; 50 simulated pumps report through five gateways.
  Console     {stack.nginx.url}/
  HTTP API    {stack.nginx.url}/api/v1   authority: {stack.ca_file}
  First login user {ADMIN}, password {password} (to be changed at the first login)
  AMQP        {stack.rabbitmq.address}   MQTT {stack.rabbitmq.mqtt_url}
  PostgreSQL  127.0.0.1:{stack.ports["postgres"]}, storage engine: {LACKS[stack.engine]}
  Addresses and credentials for tools: {endpoints}
`make status` shows what flows, `make logs` what is said, `make down` stops it."""
