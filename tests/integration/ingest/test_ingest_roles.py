"""The roles as processes: what they write, and how they end, with every server away."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import orjson
import pytest


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


@pytest.fixture(params=["this user", "a user without a passwd entry"])
def user(request: pytest.FixtureRequest) -> dict[str, Any]:
    """As whom a process is started: without a passwd entry, it has no home and may write nowhere."""
    if request.param == "this user":
        return {}
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    return {"user": 54321, "group": 54321, "extra_groups": [], "cwd": "/"}


@pytest.mark.parametrize("role", ["api", "worker", "maintenance"])
def test_a_role_without_its_servers_writes_json_lines_and_stops_when_told(
    role: str, user: dict[str, Any]
) -> None:
    environment = {
        "ESP_INGEST_AMQP_URL": "amqp://ingest:hidden@127.0.0.1:1/",
        "ESP_INGEST_DATABASE_URL": "postgresql://esp_ingest:hidden@127.0.0.1:1/esp",
        "ESP_INGEST_REDIS_URL": "redis://127.0.0.1:1/0",
        "ESP_INGEST_HTTP_PORT": str(_free_port()),
    }
    if user:
        environment["PATH"] = os.environ["PATH"]
    process = subprocess.Popen(
        [Path(sys.executable).with_name("esp-ingest"), role],
        env=environment if user else os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        **user,
    )
    try:
        assert process.stdout is not None
        first = process.stdout.readline()  # it has begun
        process.send_signal(signal.SIGTERM)
        rest, _ = process.communicate(timeout=15)
    finally:
        process.kill()
    lines = (first + rest).splitlines()
    assert [line for line in lines if not line.startswith(b"{")] == []
    assert all(orjson.loads(line)["service"] == "ingest" for line in lines)
    assert b"hidden" not in first + rest
    assert process.returncode == 0
