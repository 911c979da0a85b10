"""`esp-platform`: renders the servers' configuration, applies the platform's state to them, checks it."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import httpx
import psycopg
import redis
import typer
from esp_common.cli import group
from esp_common.errors import InvalidInput, Unavailable, run_cli
from esp_common.settings import settings_table

from esp_platform.changes import Change, apply
from esp_platform.credentials import SecretFolder
from esp_platform.parts import PARTS, Part, part_named, secrets_of
from esp_platform.render import TARGETS
from esp_platform.render import render as render_files
from esp_platform.settings import PlatformSettings

app = group("Bootstrap of the platform's servers: render their files, apply, check.")


class TargetName(StrEnum):
    """The kinds of deployment."""

    NATIVE = "native"
    COMPOSE = "compose"
    HELM = "helm"


Parts = Annotated[
    list[str] | None,
    typer.Argument(metavar="[PART]...", help="database, vault, broker, redis, migrations, users; none: all."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]


@app.command("render")
def run_render(
    target: Annotated[TargetName, typer.Option("--for", help="The kind of deployment.")],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of the files.")],
) -> None:
    """Write the configuration files of the servers into DIR, and secrets that are missing there."""
    for path in render_files(TARGETS[target], PlatformSettings.load(), folder):
        typer.echo(f"wrote {folder / path}")


@app.command("secrets")
def run_secrets(folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of secrets.")]) -> None:
    """Generate the secrets that are missing in DIR, one file for each."""
    for name in SecretFolder(folder).generate():
        typer.echo(f"generated {name}")


@app.command("prepare")
def run_prepare(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of the host's state.")],
) -> None:
    """Write what the containers of deploy/compose need into DIR, each folder for its container's user."""
    # It loads cryptography and messaging, which the other commands do without.
    from esp_platform.compose import Host, hand_over, prepare

    prepare(folder, Host.of(os.environ))
    hand_over(folder, os.environ)


@app.command("apply")
def run_apply(
    parts: Parts = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Change nothing, print what would.")] = False,
    as_json: AsJson = False,
) -> None:
    """Bring the servers to the platform's state and print what changed; a second run changes nothing."""
    report = _report(parts, dry_run=dry_run)
    _show(report, as_json=as_json, heading="would change" if dry_run else "changed")
    if any(change.make is None for changes in report.values() for change in changes or ()):
        raise typer.Exit(1)


@app.command("check")
def run_check(parts: Parts = None, as_json: AsJson = False) -> None:
    """Print what is missing or different on the servers; exit 1 if anything is."""
    report = _report(parts, dry_run=True)
    _show(report, as_json=as_json, heading="differs")
    if any(report.values()):
        raise typer.Exit(1)


@app.command("settings")
def show_settings() -> None:
    """Print every setting with its default and meaning."""
    typer.echo(settings_table(PlatformSettings))


Report = dict[str, list[Change] | None]
"""The changes of each part; None for a part whose server is not configured."""


def _report(names: list[str] | None, *, dry_run: bool) -> Report:
    """Find, and unless `dry_run` make, the changes of the named parts (none: of every configured part)."""
    settings = PlatformSettings.load()
    wanted = [part_named(name) for name in names] if names else list(PARTS)
    secrets = secrets_of(settings)
    report: Report = {}
    for part in wanted:
        if names:
            settings.need(*part.needs)
        if settings.missing(part.needs):
            report[part.name] = None
            continue
        with _outages_of(part):
            report[part.name] = apply(part.changes(settings, secrets), dry_run=dry_run)
    if not any(changes is not None for changes in report.values()):
        raise InvalidInput("no server is configured", fix="see `esp-platform settings`")
    return report


@contextmanager
def _outages_of(part: Part) -> Iterator[None]:
    """Turn errors of a part's server into one that names the part and what to check."""
    fix = f"check {', '.join(PlatformSettings.variables(part.needs))}"
    try:
        yield
    except httpx.HTTPStatusError as error:
        refused = f"{error.request.method} {error.request.url.path}: {error.response.text.strip()[:300]}"
        raise InvalidInput(
            f"{part.name}: the server answered {error.response.status_code} to {refused}", fix=fix
        ) from error
    except psycopg.OperationalError as error:
        raise Unavailable(f"{part.name}: {' '.join(str(error).split())}", fix=fix) from error
    except psycopg.Error as error:
        raise InvalidInput(f"{part.name}: {' '.join(str(error).split())}", fix=fix) from error
    except (httpx.HTTPError, redis.RedisError, OSError) as error:
        raise Unavailable(f"{part.name}: {error or type(error).__name__}", fix=fix) from error


def _show(report: Report, *, as_json: bool, heading: str) -> None:
    if as_json:
        typer.echo(json.dumps(_document(report), indent=1))
        return
    for name, changes in report.items():
        if changes is None:
            typer.echo(f"{name}: skipped, not configured")
        elif not changes:
            typer.echo(f"{name}: unchanged")
        else:
            typer.echo(f"{name}: {heading}")
            for change in changes:
                typer.echo(f"  {'' if change.make else 'by hand: '}{change.text}")


def _document(report: Report) -> dict[str, Any]:
    return {
        name: None
        if changes is None
        else {
            "changes": [change.text for change in changes if change.make],
            "by_hand": [change.text for change in changes if not change.make],
        }
        for name, changes in report.items()
    }


def main() -> None:
    """Run the command line; what goes wrong is one line on stderr."""
    run_cli(app)
