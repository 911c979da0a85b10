"""The `esp-auth` command: one subcommand for each role, and what an administrator does by hand."""

import base64
import secrets
import sys
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Final

import orjson
import typer
from esp_common.cli import actor_id, group, run_command, show_rows
from esp_common.database import Pool, create_pool
from esp_common.errors import Conflict, run_cli
from esp_common.redis import connect_redis
from esp_common.secrets import read_secret
from esp_common.service_cli import add_service_commands

from esp_auth.api_keys import NewKey
from esp_auth.audit import AuditLog, ExportFormat, noted_head
from esp_auth.bootstrap import bootstrap, missing_of, read_first_ones
from esp_auth.changes import Actor
from esp_auth.domain.secrets import AUDIT_CHAIN, decode_master_key, derive
from esp_auth.identity import Identity
from esp_auth.settings import AuthSettings
from esp_auth.store.audit import AuditFilter

Username = Annotated[str, typer.Argument(help="The user's name.")]
KeyId = Annotated[str, typer.Argument(help="The key's id, as `api-keys list` shows it.")]
PasswordFile = Annotated[
    Path | None, typer.Option(help="File with the password; none: one is made and printed.")
]
SecretFile = Annotated[Path, typer.Option("--file", help="JSON with api_key, admin and gateways; mode 0600.")]


app = group("Says who may do what, and keeps the record of what they did.")
users = group("People and their roles.")
api_keys = group("Keys of machines.")
audit = group("The record of what was done.")
for name, commands in (("users", users), ("api-keys", api_keys), ("audit", audit)):
    app.add_typer(commands, name=name)


ROLES: Final = {
    "api": "Serve the HTTP API.",
    "worker": "Answer the requests of other services, keep the audit log, and publish events.",
}

add_service_commands(app, AuthSettings, ROLES)


@app.command("bootstrap")
def run_bootstrap(
    file: SecretFile,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Create nothing, print what would be.")] = False,
) -> None:
    """Create the first signing key, administrator and API keys from FILE; existing ones are unchanged."""
    first = read_first_ones(file)

    async def command() -> None:
        async with _identity() as identity:
            parts = (identity.users, identity.api_keys, identity.signing)
            done = await missing_of(first, *parts) if dry_run else await bootstrap(first, *parts, actor())
        for what in done.created:
            typer.echo(f"{'would create' if dry_run else 'created'} {what}")
        for what in done.present:
            typer.echo(f"{what} was there already")

    _run(command())


@app.command("rotate-keys")
def rotate_keys() -> None:
    """Publish a new signing key, which signs tokens once every service has had time to fetch it."""

    async def command() -> None:
        async with _identity() as identity:
            key = await identity.signing.rotate(actor())
        typer.echo(
            f"key {key.kid} is published and signs from {key.signs_from.isoformat(timespec='seconds')}"
        )

    _run(command())


@users.command("create")
def create_user(
    username: Username,
    role: Annotated[list[str] | None, typer.Option(help="A role; may be repeated.")] = None,
    password_file: PasswordFile = None,
) -> None:
    """Add a user, who has to change the password at the first login."""
    password = _password(password_file)

    async def command() -> None:
        async with _identity() as identity:
            user = await identity.users.create(username, password, role or [], actor())
        typer.echo(f"{user.user_id}\t{user.username}")
        _show_password(password, password_file)

    _run(command())


@users.command("list")
def list_users() -> None:
    """Show the users by name."""

    async def command() -> None:
        async with _identity() as identity:
            rows = await identity.users.page(None, sys.maxsize)
        show_rows(
            ("id", "username", "roles", "disabled", "totp", "last_login_at"),
            (
                (u.user_id, u.username, ",".join(u.roles), u.disabled, u.has_totp, u.last_login_at)
                for u in rows
            ),
        )

    _run(command())


@users.command("disable")
def disable_user(username: Username) -> None:
    """Disable a user and refuse all of the user's tokens."""

    async def command() -> None:
        async with _identity() as identity:
            user = await identity.users.by_name(username)
            await identity.users.update(user.user_id, actor(), disabled=True)
        typer.echo(f"{user.username} is disabled")

    _run(command())


@users.command("reset-password")
def reset_password(username: Username, password_file: PasswordFile = None) -> None:
    """Set a password that the user has to change, end every session, and reset failed logins."""
    password = _password(password_file)

    async def command() -> None:
        async with _identity() as identity:
            user = await identity.users.by_name(username)
            await identity.users.reset_password(user.user_id, password, actor())
        _show_password(password, password_file)

    _run(command())


@users.command("unlock")
def unlock_user(username: Username) -> None:
    """Reset a user's failed logins, which an attacker may have caused to lock the user out."""

    async def command() -> None:
        async with _identity() as identity:
            user = await identity.users.by_name(username)
            await identity.users.unlock(user.user_id, actor())
        typer.echo(f"{user.username} may log in")

    _run(command())


@api_keys.command("create")
def create_api_key(
    name: Annotated[str, typer.Argument(help="What the key is for.")],
    scope: Annotated[list[str] | None, typer.Option(help="A permission; may be repeated.")] = None,
    gateway: Annotated[str | None, typer.Option(help="Id of the gateway whose key it is.")] = None,
    days: Annotated[float | None, typer.Option(min=0.001, max=3650, help="Days until it expires.")] = None,
) -> None:
    """Create a key and print it; it cannot be shown again."""
    expires_at = None if days is None else datetime.now(UTC) + timedelta(days=days)

    async def command() -> None:
        async with _identity() as identity:
            issued = await identity.api_keys.create(NewKey(name, scope or [], gateway, expires_at), actor())
        typer.echo(issued.key)

    _run(command())


@api_keys.command("list")
def list_api_keys() -> None:
    """Show the keys by id, without their secrets."""

    async def command() -> None:
        async with _identity() as identity:
            rows = await identity.api_keys.page(None, None, sys.maxsize)
        show_rows(
            ("id", "name", "scopes", "gateway", "expires_at", "revoked_at", "last_used_at"),
            (
                (
                    k.key_id,
                    k.name,
                    ",".join(k.scopes),
                    k.gateway_id,
                    k.expires_at,
                    k.revoked_at,
                    k.last_used_at,
                )
                for k in rows
            ),
        )

    _run(command())


@api_keys.command("revoke")
def revoke_api_key(key_id: KeyId) -> None:
    """Revoke a key everywhere at once."""

    async def command() -> None:
        async with _identity() as identity:
            await identity.api_keys.revoke(key_id, actor())
        typer.echo(f"{key_id} is revoked")

    _run(command())


@api_keys.command("rotate")
def rotate_api_key(
    key_id: KeyId,
    overlap_s: Annotated[
        float | None, typer.Option(min=0, help="Seconds the old secret stays good; none: as is set.")
    ] = None,
) -> None:
    """Give a key a new secret and print it; it cannot be shown again."""

    async def command() -> None:
        async with _identity() as identity:
            issued = await identity.api_keys.rotate(key_id, actor(), overlap_s=overlap_s)
        typer.echo(issued.key)

    _run(command())


@audit.command("verify")
def verify_audit(
    from_seq: Annotated[int | None, typer.Option(min=1, help="First record looked at.")] = None,
    to_seq: Annotated[int | None, typer.Option(min=1, help="Last record looked at.")] = None,
    noted: Annotated[
        list[str] | None,
        typer.Option(metavar="SEQ:HASH", help="A head noted before, which the log must contain; repeatable."),
    ] = None,
) -> None:
    """Look for records that were changed, removed or reordered; fail if any are found."""

    async def command() -> None:
        async with _audit_log() as trail:
            verification = await trail.verify(from_seq, to_seq, noted=map(noted_head, noted or ()))
        typer.echo(orjson.dumps(verification.to_json(), option=orjson.OPT_INDENT_2).decode())
        if not verification.verdict.intact:
            raise Conflict(
                f"the audit log is not intact: {verification.verdict.findings_total} findings",
                fix="keep the database as it is and look into it",
            )

    _run(command())


@audit.command("key")
def show_audit_key() -> None:
    """Print the key of the audit log's seals, for verifiers without the master key.

    It also allows creating seals.
    """
    typer.echo(base64.b64encode(_audit_key(AuthSettings.load())).decode())


@audit.command("export")
def export_audit(
    form: Annotated[ExportFormat, typer.Option("--format", help="Form of the export.")] = ExportFormat.JSONL,
) -> None:
    """Write every audit record to standard output, newest first."""

    async def command() -> None:
        async with _audit_log() as trail:
            async for part in trail.export(form, AuditFilter()):
                sys.stdout.buffer.write(part)
        sys.stdout.buffer.flush()

    _run(command())


def actor() -> Actor:
    """Return the user running this command, for the audit trail."""
    return Actor(actor_id(), "cli")


@asynccontextmanager
async def _pool(settings: AuthSettings) -> AsyncIterator[Pool]:
    async with await create_pool(settings, role="esp-auth cli", min_size=0, max_size=3) as pool:
        yield pool


@asynccontextmanager
async def _identity() -> AsyncIterator[Identity]:
    """Open the service; revocations are copied to Redis if there is one, else by the worker."""
    settings = AuthSettings.load()
    redis = connect_redis(settings.redis_url)
    async with _pool(settings) as pool:
        try:
            yield Identity(pool, settings, redis)
        finally:
            await redis.aclose()


@asynccontextmanager
async def _audit_log() -> AsyncIterator[AuditLog]:
    # Reading years of records takes longer than the roles' statement timeout.
    settings = AuthSettings.load().model_copy(update={"statement_timeout_s": 0})
    async with _pool(settings) as pool:
        yield AuditLog(pool, _audit_key(settings))


def _audit_key(settings: AuthSettings) -> bytes:
    if settings.audit_key:
        return decode_master_key(settings.audit_key)
    return derive(settings.master, AUDIT_CHAIN)


def _password(file: Path | None) -> str:
    return read_secret(file) if file else secrets.token_urlsafe(18)


def _show_password(password: str, file: Path | None) -> None:
    if file is None:
        typer.echo(password)


def _run(command: Coroutine[Any, Any, None]) -> None:
    run_command(command, away="the database", fix="check ESP_AUTH_DATABASE_URL")


def main() -> None:
    """Run the command."""
    run_cli(app)
