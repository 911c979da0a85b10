"""What an administrator does with the `esp-auth` command."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from esp_auth.store.migrations import migrate
from esp_common.auth import key_digest
from esp_platform.databases import AUTH_OWNER

PASSWORD = "seven wells under the rain"
Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def run(auth: Any) -> Run:
    """Run `esp-auth` with the settings of the module's API."""
    settings = auth.settings
    environment = {
        **os.environ,
        **{
            f"ESP_AUTH_{name.upper()}": str(getattr(settings, name))
            for name in ("database_url", "amqp_url", "redis_url", "master_key", "argon2_memory_kib")
        },
    }

    def run(*arguments: str, **overrides: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [str(Path(sys.executable).parent / "esp-auth"), *arguments],
            env={**environment, **overrides},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    return run


async def test_a_user_is_created_with_a_password_that_is_shown_once(run: Run, auth: Any) -> None:
    made = await asyncio.to_thread(run, "users", "create", "Marta", "--role", "viewer", "--role", "operator")
    assert made.returncode == 0, made.stderr
    (named, password) = made.stdout.split("\n")[:2]
    assert named.endswith("\tmarta")
    answer = await auth.try_log_in("marta", password)
    assert answer.status_code == 200
    assert answer.json()["must"] == ["password"]
    listed = await asyncio.to_thread(run, "users", "list")
    assert "\tmarta\toperator,viewer\t" in listed.stdout
    assert password not in listed.stdout
    (record,) = [r for r in await auth.records("user.create") if r["detail"].get("username") == "marta"]
    assert record["actor_kind"] == "cli"
    assert record["actor_id"].startswith("cli:")


async def test_a_password_comes_from_a_file(run: Run, auth: Any, tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text(PASSWORD)
    file.chmod(0o600)
    user = await auth.user("viewer")
    done = await asyncio.to_thread(
        run, "users", "reset-password", user.username, "--password-file", str(file)
    )
    assert (done.returncode, done.stdout) == (0, "")
    assert (await auth.try_log_in(user.username, PASSWORD)).json()["must"] == ["password"]


async def test_a_disabled_user_is_out(run: Run, auth: Any) -> None:
    user = await auth.user("viewer")
    session = await auth.log_in(user)
    done = await asyncio.to_thread(run, "users", "disable", user.username)
    assert done.returncode == 0, done.stderr
    assert (await auth.refresh(session.refresh_token)).status_code == 401
    assert (await auth.try_log_in(user.username, PASSWORD)).status_code == 401


async def test_a_user_whom_others_kept_out_is_unlocked(run: Run, auth: Any) -> None:
    user = await auth.user("viewer")
    address = "192.0.2.77"
    for _ in range(auth.settings.lockout_account_failures):
        await auth.try_log_in(user.username, "not the password", address=address)
    assert (await auth.try_log_in(user.username, PASSWORD, address=address)).status_code == 429
    done = await asyncio.to_thread(run, "users", "unlock", user.username)
    assert (done.returncode, done.stdout) == (0, f"{user.username} may log in\n")
    await auth.log_in(user, address=address)


async def test_a_key_is_made_listed_rotated_and_revoked(run: Run, auth: Any) -> None:
    verify = auth.identity.api_keys.verify
    made = await asyncio.to_thread(
        run,
        "api-keys",
        "create",
        "gateway 9",
        "--scope",
        "telemetry:write",
        "--gateway",
        "gw-09",
        "--days",
        "2",
    )
    key = made.stdout.strip()
    principal = await verify(key_digest(key))
    assert principal.gateway_id == "gw-09"
    rotated = await asyncio.to_thread(run, "api-keys", "rotate", principal.id, "--overlap-s", "0")
    assert await verify(key_digest(key)) is None
    assert await verify(key_digest(rotated.stdout.strip()))
    listed = await asyncio.to_thread(run, "api-keys", "list")
    assert f"{principal.id}\tgateway 9\ttelemetry:write\tgw-09" in listed.stdout
    assert key not in listed.stdout
    await asyncio.to_thread(run, "api-keys", "revoke", principal.id)
    assert await verify(key_digest(rotated.stdout.strip())) is None


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("users", "disable", "nobody"), 4, "no user nobody"),
        (("users", "create", "a b"), 2, "a username has"),
        (("users", "create", "someone", "--role", "root"), 2, "no such roles: root"),
        (("api-keys", "create", "x", "--scope", "everything"), 2, "not a permission"),
        (("api-keys", "revoke", "no-such-key"), 4, "no API key no-such-key"),
    ],
    ids=["nobody", "name", "role", "scope", "key"],
)
async def test_what_cannot_be_done_is_one_line(
    arguments: tuple[str, ...], code: int, said: str, run: Run
) -> None:
    done = await asyncio.to_thread(run, *arguments)
    assert done.returncode == code
    assert said in done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1


async def test_a_database_that_is_away_is_one_line(run: Run) -> None:
    nowhere = "postgresql://esp_auth:hunter2@127.0.0.1:1/esp"
    done = await asyncio.to_thread(run, "users", "list", ESP_AUTH_DATABASE_URL=nowhere)
    assert done.returncode == 3
    assert "check ESP_AUTH_DATABASE_URL" in done.stderr
    assert "hunter2" not in done.stderr


@pytest.mark.parametrize("role", ["api", "worker"])
async def test_a_role_without_a_master_key_does_not_start(role: str, run: Run) -> None:
    done = await asyncio.to_thread(run, role, ESP_AUTH_MASTER_KEY="")
    assert done.returncode == 2
    assert "ESP_AUTH_MASTER_KEY" in done.stderr


async def test_under_another_master_key_nothing_is_made(run: Run, auth: Any) -> None:
    await auth.identity.signing.ensure()
    first = auth.settings.master_key
    other = ("B" if first[0] == "A" else "A") + first[1:]
    done = await asyncio.to_thread(run, "rotate-keys", ESP_AUTH_MASTER_KEY=other)
    assert "does not open" in done.stderr
    ((count,),) = await auth.rows("SELECT count(*) FROM auth.signing_keys WHERE signs_from > now()")
    assert count == 0


async def test_migrate_says_which_engine(run: Run, make_database: Any) -> None:
    url = make_database("postgres").url(AUTH_OWNER)
    done = await asyncio.to_thread(run, "migrate", ESP_AUTH_DATABASE_URL=url)
    assert done.stdout == "schema is up to date; storage engine: postgres\n"
    assert migrate(url) == "postgres"


async def test_settings_are_shown_without_their_values(run: Run, auth: Any) -> None:
    done = await asyncio.to_thread(run, "settings")
    assert "ESP_AUTH_LOCKOUT_ACCOUNT_FAILURES" in done.stdout
    assert auth.settings.master_key not in done.stdout
