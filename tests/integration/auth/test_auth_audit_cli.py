"""`esp-auth audit`: verifying and exporting from the command line."""

import os
import subprocess
import sys
from base64 import b64encode
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import orjson
import pytest
from esp_auth.consumers import chain_key
from esp_auth.domain.records import record_of
from esp_auth.settings import AuthSettings
from esp_auth.store.audit import AuditStore
from esp_auth.store.migrations import migrate

MASTER_KEY = b64encode(bytes(32)).decode()


class Command:
    """`esp-auth` over a database with five audit records."""

    def __init__(self, settings: AuthSettings, admin_url: str) -> None:
        self.admin_url = admin_url
        self._environment = os.environ | {
            "ESP_AUTH_DATABASE_URL": settings.database_url,
            "ESP_AUTH_MASTER_KEY": MASTER_KEY,
        }

    def run(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
        command = Path(sys.executable).with_name("esp-auth")
        return subprocess.run(
            [command, "audit", *arguments],
            env=self._environment | environment,
            capture_output=True,
            check=False,
        )


@pytest.fixture(scope="module")
async def command(make_database: Any) -> Command:
    database = make_database("postgres")
    migrate(database.url("esp_auth_owner"), "postgres")
    settings = AuthSettings(database_url=database.url("esp_auth"), master_key=MASTER_KEY)
    async with asyncpg.create_pool(settings.database_url, min_size=0) as pool:
        records = [
            record_of(
                {
                    "id": str(uuid4()),
                    "time": f"2026-11-23T00:00:0{number}Z",
                    "service": "ingest",
                    "actor_kind": "anonymous",
                    "action": "GET /",
                    "object": "/",
                    "outcome": "denied",
                }
            )
            for number in range(5)
        ]
        await AuditStore(pool, chain_key(settings)).append(records)
    return Command(settings, database.admin_url)


async def test_an_export_has_every_record(command: Command) -> None:
    lines = command.run("export").stdout.splitlines()
    assert [orjson.loads(line)["seq"] for line in lines] == [5, 4, 3, 2, 1]
    assert len(command.run("export", "--format", "csv").stdout.splitlines()) == 6


async def test_key_of_the_seals_alone_verifies_the_log(command: Command) -> None:
    key = command.run("key").stdout.decode().strip()
    assert key != MASTER_KEY
    done = command.run("verify", ESP_AUTH_MASTER_KEY="", ESP_AUTH_AUDIT_KEY=key)
    assert (done.returncode, orjson.loads(done.stdout)["intact"]) == (0, True)
    other = b64encode(bytes(31) + b"x").decode()
    assert command.run("verify", ESP_AUTH_MASTER_KEY="", ESP_AUTH_AUDIT_KEY=other).returncode == 2


async def test_verifying_fails_once_the_log_was_tampered_with(command: Command) -> None:
    done = command.run("verify")
    told = orjson.loads(done.stdout)
    assert (done.returncode, told["intact"], told["records"]) == (0, True, 5)
    noted = f"{told['head']['seq']}:{told['head']['hash']}"
    assert command.run("verify", "--noted", noted).returncode == 0
    assert command.run("verify", "--noted", "5:zz").returncode == 2

    connection = await asyncpg.connect(command.admin_url)
    try:
        await connection.execute("DELETE FROM auth.audit_log WHERE seq > 3")
        await connection.execute(
            "UPDATE auth.audit_head SET seq = 3, hash = (SELECT hash FROM auth.audit_log WHERE seq = 3)"
        )
        assert command.run("verify").returncode == 0, "cut together with its head"
        found = command.run("verify", "--noted", noted)
        assert found.returncode != 0
        assert orjson.loads(found.stdout)["findings"][0]["kind"] == "truncated"
        await connection.execute("UPDATE auth.audit_log SET outcome = 'success' WHERE seq = 2")
        found = command.run("verify", "--from-seq", "2")
        assert [finding["seq"] for finding in orjson.loads(found.stdout)["findings"]] == [2]
    finally:
        await connection.close()
