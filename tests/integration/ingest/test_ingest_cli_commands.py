"""`esp-ingest` as an operator runs it: what it prints, and how it ends."""

import asyncio
import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import httpx
import pytest
from esp_ingest.store.migrations import migrate
from esp_stack.programs import free_port

COMMAND = Path(sys.executable).with_name("esp-ingest")
ASSETS = """
fields: [{field_id: north, name: North}]
wells: [{well_id: W-1, field_id: north, name: One}]
pumps: [{pump_id: P-1, well_id: W-1, model: M, stages: 1}]
"""


@dataclass
class Outcome:
    code: int
    out: str
    err: str


@pytest.fixture(scope="module")
def environment(make_database, vhost) -> dict[str, str]:
    database = make_database("postgres")
    migrate(database.url("esp_ingest_owner"), "postgres")
    return {
        **os.environ,
        "ESP_INGEST_DATABASE_URL": database.url("esp_ingest"),
        "ESP_INGEST_AMQP_URL": vhost.url_for("ingest"),
        "ESP_INGEST_HTTP_PORT": str(free_port()),
        "ESP_INGEST_METRICS_PORT": str(free_port()),
    }


async def start(environment, *arguments: str) -> asyncio.subprocess.Process:
    pipe = asyncio.subprocess.PIPE
    return await asyncio.create_subprocess_exec(
        COMMAND, *arguments, env=environment, stdout=pipe, stderr=pipe
    )


async def run(environment, *arguments: str) -> Outcome:
    process = await start(environment, *arguments)
    async with asyncio.timeout(60):
        out, err = await process.communicate()
    return Outcome(process.returncode or 0, out.decode(), err.decode())


async def test_importing_twice_changes_nothing_the_second_time(environment, tmp_path) -> None:
    file = tmp_path / "assets.yaml"
    file.write_text(ASSETS)
    first = await run(environment, "assets", "import", str(file))
    second = await run(environment, "assets", "import", str(file))
    assert (first.code, first.out) == (0, "3 created, 0 updated, 0 as they were\n")
    assert (second.code, second.out) == (0, "0 created, 0 updated, 3 as they were\n")


async def test_an_import_with_problems_changes_nothing_and_tells_them_all(environment, tmp_path) -> None:
    file = tmp_path / "wells.csv"
    file.write_text("well_id,field_id,name\nW-2,north,Two\nW-3,atlantis,Three\nW-4,lemuria,Four\n")
    failed = await run(environment, "assets", "import", str(file))
    assert failed.code == 2
    told = failed.err.splitlines()
    assert [line.split(": ")[1] for line in told[:2]] == ["line 3", "line 4"]
    assert told[2].startswith("error: invalid input")
    assert len(told) == 3
    file.write_text("well_id,field_id,name\nW-2,north,Two\n")
    assert "1 created" in (await run(environment, "assets", "import", str(file))).out


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["quarantine", "list"], 0),
        (["quarantine", "list", "--channel", "motor_temp_c"], 0),
        (["quarantine", "list", "--channel", "motor_heat"], 2),
        (["quarantine", "show", "00000000-0000-0000-0000-000000000000"], 4),
        (["quarantine", "replay", "00000000-0000-0000-0000-000000000000"], 4),
        (["quarantine", "replay"], 2),
        (["quarantine", "body", "00000000-0000-0000-0000-000000000000"], 4),
        (["quarantine", "replay", "--all", "--edited", "/dev/null"], 2),
        (["quarantine", "replay", "00000000-0000-0000-0000-000000000000", "--edited", "/dev/null"], 4),
        (["quarantine", "discard", "00000000-0000-0000-0000-000000000000", "--all"], 2),
        (["quarantine", "replay", "--all"], 0),
        (["quarantine", "discard", "--reason", "unknown-pump", "--gateway", "gw-01"], 0),
        (["dead-letters", "replay"], 2),
        (["dead-letters", "replay", "--all"], 0),
        (["dead-letters", "discard", "--all"], 0),
        (["dead-letters", "list"], 0),
        (["dead-letters", "discard", "nothing"], 4),
        (["reconcile"], 0),
        (["reconcile", "--receipt", "/no/such/file"], 2),
        (["retention", "drop", "--before", "2999-01-01"], 2),
        (["retention", "drop", "--before", "2999-01-01", "--unarchived"], 2),
        (["settings"], 0),
    ],
)
async def test_a_command_ends_with_its_exit_code_and_at_most_one_line_of_error(
    environment, arguments, code
) -> None:
    outcome = await run(environment, *arguments)
    assert outcome.code == code, outcome.err
    assert len(outcome.err.splitlines()) == (code != 0)


async def test_refused_readings_are_resolved_by_the_hundred(environment) -> None:
    """More than a page of them, of which one is of another gateway and one was resolved before."""
    connection = await asyncpg.connect(environment["ESP_INGEST_DATABASE_URL"])
    await connection.execute(
        "INSERT INTO ingest.quarantine (id, gateway_id, reason, detail, payload, state)"
        " SELECT gen_random_uuid(), CASE n WHEN 0 THEN 'gw-02' ELSE 'gw-01' END, 'unknown-pump', '', '{}',"
        " CASE n WHEN 1 THEN 'discarded' ELSE 'pending' END FROM generate_series(0, 1501) AS n"
    )
    replayed = await run(environment, "quarantine", "replay", "--gateway", "gw-01")
    assert (replayed.out, replayed.code) == ("1500 replayed\n", 0), replayed.err
    discarded = await run(environment, "quarantine", "discard", "--all")
    assert discarded.out == "1 discarded\n"
    states = await connection.fetch("SELECT state, count(*) AS n FROM ingest.quarantine GROUP BY state")
    assert {row["state"]: row["n"] for row in states} == {"replayed": 1500, "discarded": 2}
    await connection.close()


async def test_without_a_database_a_command_says_so(environment) -> None:
    away = {**environment, "ESP_INGEST_DATABASE_URL": "postgresql://127.0.0.1:1/esp"}
    outcome = await run(away, "quarantine", "list")
    assert outcome.code == 3
    assert len(outcome.err.splitlines()) == 1


@pytest.mark.parametrize("role", ["api", "worker"])
async def test_a_role_ends_cleanly_on_sigterm(environment, role) -> None:
    process = await start(environment, role)
    port = environment["ESP_INGEST_METRICS_PORT"]
    async with (
        asyncio.timeout(90),
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=30) as client,
    ):
        while True:
            try:
                if (await client.get("/health/ready")).status_code == 200:
                    break
            except httpx.TransportError:
                pass
            await asyncio.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        _, err = await process.communicate()
    assert (process.returncode, err) == (0, b"")
