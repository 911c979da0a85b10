"""A role that is told to stop: not ready at once, then what is under way is finished, then it exits."""

import base64
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from typing import Any

import httpx
import pytest
from esp_auth.store.migrations import migrate
from esp_platform.databases import AUTH_OWNER
from esp_stack.programs import free_port, wait_for
from esp_stack.servers import Vhost

COMMAND = Path(sys.executable).with_name("esp-auth")
LOGIN = json.dumps({"username": "maria", "password": "seven wells under the rain"}).encode()
DELAY_S = 5


class Api:
    """`esp-auth api` in a process of its own."""

    def __init__(self, environment: dict[str, str]) -> None:
        self.port, metrics_port = free_port(), free_port()
        self.second = f"http://127.0.0.1:{metrics_port}"
        ports = {"ESP_AUTH_HTTP_PORT": str(self.port), "ESP_AUTH_METRICS_PORT": str(metrics_port)}
        delay = {"ESP_AUTH_SHUTDOWN_DELAY_S": str(DELAY_S)}
        self.process = subprocess.Popen(
            [COMMAND, "api"], env={**environment, **ports, **delay}, stdout=subprocess.DEVNULL
        )

    def check_ready(self) -> None:
        """Raise unless the role is ready."""
        httpx.get(f"{self.second}/health/ready", timeout=5).raise_for_status()

    def check_not_ready(self) -> None:
        """Raise unless the second listener says that the role is stopping."""
        answer = httpx.get(f"{self.second}/health/ready", timeout=5)
        if answer.status_code != 503 or answer.json()["checks"] != {"running": "the role is stopping"}:
            raise ConnectionError(answer.text)

    def check_closed(self) -> None:
        """Raise while the public port takes connections."""
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=5).close()
        except ConnectionRefusedError:
            return
        raise ConnectionError("the port is open")

    def begin_login(self) -> Callable[[], HTTPResponse]:
        """Send a login but for the last byte; return what sends that and takes the answer."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.putrequest("POST", "/api/v1/auth/login")
        connection.putheader("Content-Type", "application/json")
        connection.putheader("Content-Length", str(len(LOGIN)))
        connection.endheaders(LOGIN[:-1])

        def finish() -> HTTPResponse:
            connection.send(LOGIN[-1:])
            return connection.getresponse()

        return finish


@pytest.fixture
def api(make_database: Any, vhost: Vhost, redis_url: str, tmp_path: Path) -> Iterator[Api]:
    """The API, ready, with one user."""
    database = make_database("postgres")
    migrate(database.url(AUTH_OWNER), "postgres")
    settings = {
        "AMQP_URL": vhost.url_for("auth"),
        "DATABASE_URL": database.url("esp_auth"),
        "REDIS_URL": redis_url,
        "MASTER_KEY": base64.b64encode(os.urandom(32)).decode(),
        "ARGON2_MEMORY_KIB": "64",
    }
    environment = os.environ | {f"ESP_AUTH_{name}": value for name, value in settings.items()}
    first = tmp_path / "first.json"
    first.touch(0o600)
    first.write_text(json.dumps({"admin": json.loads(LOGIN)}))
    subprocess.run([COMMAND, "bootstrap", "--file", first], env=environment, check=True)
    api = Api(environment)
    try:
        wait_for(api.check_ready, "the API", 90)
        yield api
    finally:
        api.process.kill()
        api.process.wait()


def test_a_role_told_to_stop_is_not_ready_serves_what_is_under_way_and_exits(api: Api) -> None:
    finish_early, finish_late = api.begin_login(), api.begin_login()
    public = f"http://127.0.0.1:{api.port}"

    api.process.send_signal(signal.SIGTERM)
    wait_for(api.check_not_ready, "readiness fails", 30)
    # Until load balancers have noticed, the API serves as before.
    assert httpx.get(f"{public}/health/ready").status_code == 503
    assert httpx.get(f"{public}/health/live").status_code == 200
    assert httpx.post(f"{public}/api/v1/auth/login", json=json.loads(LOGIN)).status_code == 200
    assert finish_early().status == 200

    wait_for(api.check_closed, "new connections are refused", 60)
    api.check_not_ready()
    assert httpx.get(f"{api.second}/health/live").status_code == 200
    late = finish_late()
    assert late.status == 200
    assert json.loads(late.read())["access_token"]
    assert api.process.wait(60) == 0
