"""The whole platform as `make up` starts it: 50 simulated pumps, through the broker, into the store."""

import json
import os
import signal
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from time import monotonic, sleep

import httpx
import paho.mqtt.client as mqtt
import psutil
import psycopg
import pytest
from aiormq.exceptions import ChannelAccessRefused, ProbableAuthenticationError
from esp_common import topology
from esp_common.auth import new_api_key
from esp_common.errors import EspError
from esp_common.messaging import Publisher
from esp_gateway.link import with_credentials
from readable import files_readable_by, readable_by

CHECKOUT = Path(__file__).parents[2]
COMMAND = Path(sys.executable).with_name("esp-stack")
GUARD = 'while kill -0 "$0" 2>/dev/null; do sleep 1; done; exec "$1" clean'
KEYS = {
    *("http", "ca_file", "amqp", "postgres", "mqtt", "redis", "blob", "vault", "prometheus", "admin"),
    *("api_key", "gateway", "engine", "processes"),
}
PUBLIC = {
    *("ca.pem", "env", "layout", "lock", "ports.json", "simulated-field.yaml", "supervisord.pid"),
}
"""Files of the stack that every account may read: none of them holds a secret."""

pytestmark = pytest.mark.timeout(600)


class NativeStack:
    """A stack in a folder of its own, on ports of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {**os.environ, "ESP_STACK_FOLDER": str(folder)}

    def make(self, target: str, *, check: bool = True) -> subprocess.CompletedProcess[str]:
        command = ["make", target, f"STACK={self.folder}", "HISTORY=0"]
        done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=False)
        assert not check or done.returncode == 0, f"make {target}:\n{done.stdout}\n{done.stderr}"
        return done

    @property
    def endpoints(self) -> dict:
        return json.loads((self.folder / "endpoints.json").read_text())

    @property
    def trust(self) -> ssl.SSLContext:
        """What a client needs to believe the stack's servers."""
        return ssl.create_default_context(cafile=self.endpoints["ca_file"])

    def http(self, **options: object) -> httpx.Client:
        return httpx.Client(base_url=self.endpoints["http"], verify=self.trust, **{"timeout": 30, **options})

    def gateway_url(self, key: str) -> str:
        """The broker's address with the engineer's gateway's id and `key`."""
        return with_credentials(self.endpoints["amqp"], self.endpoints["gateway"]["id"], key)

    def query(self, statement: str) -> object:
        with psycopg.connect(self.endpoints["postgres"]) as connection:
            return connection.execute(statement).fetchone()[0]

    def processes(self) -> list[psutil.Process]:
        """Every process that works in the stack's folder, whoever started it."""
        found = []
        for process in psutil.process_iter():
            try:
                place = f"{process.cwd()} {' '.join(process.cmdline())}"
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
            if f"{self.folder}" in place and process.pid != self.guard.pid:
                found.append(process)
        return found

    def watch_over(self) -> None:
        """Have the stack removed even if this process is killed."""
        self.guard = subprocess.Popen(
            ["sh", "-c", GUARD, str(os.getpid()), str(COMMAND)],
            env=self.environment,
            start_new_session=True,
        )


def eventually(holds: Callable[[], object], what: str, timeout_s: float = 90) -> None:
    deadline = monotonic() + timeout_s
    while not holds():
        assert monotonic() < deadline, f"not within {timeout_s} s: {what}"
        sleep(0.2)


@pytest.fixture(scope="module")
def stack(server_home: Path) -> Iterator[NativeStack]:
    stack = NativeStack(server_home / "e2e" / ".stack")
    stack.watch_over()
    stack.make("up")
    yield stack
    stack.make("clean")
    stack.guard.kill()
    stack.guard.wait()


def test_readings_of_fifty_pumps_arrive_in_the_store(stack):
    eventually(
        lambda: stack.query("SELECT count(DISTINCT pump_no) FROM ingest.telemetry") == 50,
        "50 pumps in the store",
    )


def test_endpoints_name_every_part_for_the_owner_only(stack):
    assert set(stack.endpoints) == KEYS
    assert (stack.folder / "endpoints.json").stat().st_mode & 0o777 == 0o600


def test_the_http_api_answers_through_the_door_to_a_key_only(stack):
    key = {"Authorization": f"Bearer {stack.endpoints['api_key']}"}
    with stack.http() as client:
        assert client.get("/api/v1/pumps", headers=key).status_code == 200
        assert client.get("/api/v1/users", headers=key).status_code == 200
        assert client.get("/api/v1/pumps").status_code == 401
        assert client.get("/api/v1/users").status_code == 401
        hidden = ["/metrics", "/broker/x/user"]
        assert [client.get(path, headers=key).status_code for path in hidden] == [404, 404]


def test_the_door_speaks_tls_1_3_only(stack):
    with stack.http() as client:
        answer = client.get("/health/live")
    assert (answer.status_code, "max-age" in answer.headers["Strict-Transport-Security"]) == (200, True)
    old = stack.trust
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    for refused in (old, True):
        with pytest.raises(httpx.ConnectError):
            httpx.get(stack.endpoints["http"], verify=refused)
    assert httpx.get(stack.endpoints["http"].replace("https", "http")).status_code == 400


def test_the_first_administrator_has_to_change_the_password(stack):
    admin = stack.endpoints["admin"]
    with stack.http() as client:
        login = client.post("/api/v1/auth/login", json=admin).raise_for_status().json()
        assert login["must"] == ["password"]
        token = {"Authorization": f"Bearer {login['access_token']}"}
        assert client.get("/api/v1/users", headers=token).status_code == 403
        change = {"current": admin["password"], "new": "correct-Horse-4711-battery"}
        client.post("/api/v1/auth/password", json=change, headers=token).raise_for_status()
        again = client.post("/api/v1/auth/login", json={**admin, "password": change["new"]}).json()
        token = {"Authorization": f"Bearer {again['access_token']}"}
        assert client.get("/api/v1/users", headers=token).status_code == 200
        assert client.get("/api/v1/pumps", headers=token).status_code == 200


async def test_a_gateway_publishes_over_amqps_with_its_key_under_its_own_id_only(stack):
    gateway = stack.endpoints["gateway"]
    assert stack.endpoints["amqp"].startswith("amqps://")
    async with Publisher(stack.gateway_url(gateway["key"])) as publisher:
        await publisher.publish(topology.INGEST, topology.telemetry_key(gateway["id"]), b"[]")
    async with Publisher(stack.gateway_url(gateway["key"])) as publisher:
        with pytest.raises(EspError):
            await publisher.publish(topology.INGEST, topology.telemetry_key("gw-01"), b"[]")
        assert isinstance(publisher.failure, ChannelAccessRefused)


async def test_a_gateway_with_a_wrong_key_is_refused(stack):
    async with Publisher(stack.gateway_url(new_api_key("gw-demo"))) as publisher:
        assert isinstance(publisher.failure, ProbableAuthenticationError)


def test_a_gateway_publishes_by_mqtt_with_its_key_only(stack):
    gateway = stack.endpoints["gateway"]
    assert mqtt_publish(stack, gateway["id"], gateway["key"]) == "Success"
    assert mqtt_publish(stack, gateway["id"], new_api_key("gw-demo")) != "Success"


def mqtt_publish(stack: NativeStack, gateway_id: str, key: str) -> str:
    """Publish readings as a gateway; return how the broker answered the connection."""
    answers: list[str] = []
    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id=f"{gateway_id}:test")
    client.username_pw_set(gateway_id, key)
    client.tls_set_context(stack.trust)
    client.on_connect = lambda *arguments: answers.append(str(arguments[3]))
    address = httpx.URL(stack.endpoints["mqtt"])
    assert address.scheme == "mqtts"
    client.connect(address.host, address.port)
    client.loop_start()
    try:
        eventually(lambda: answers, "an answer to MQTT's connect")
        if answers[0] == "Success":
            client.publish(f"telemetry/{gateway_id}", b"[]", qos=1).wait_for_publish(30)
    finally:
        client.disconnect()
        client.loop_stop()
    return answers[0]


def test_the_broker_has_no_gateways_of_its_own(stack):
    ports = json.loads((stack.folder / "ports.json").read_text())
    amqp = httpx.URL(stack.endpoints["amqp"])
    url = f"http://127.0.0.1:{ports['management']}/api/users"
    users = httpx.get(url, auth=(amqp.username, amqp.password)).json()
    assert {user["name"] for user in users} == {"admin", "session-keeper", *topology.SERVICES}


def test_services_work_with_logins_that_the_vault_made(stack):
    applications = ("esp-auth api", "esp-auth worker", "esp-ingest api", "esp-ingest worker")
    listed = ",".join(f"'{name}'" for name in (*applications, "esp-ingest maintenance"))
    assert (
        stack.query(
            "SELECT count(DISTINCT application_name) FROM pg_stat_activity"
            f" WHERE usename LIKE 'v-approle-%' AND application_name IN ({listed})"
        )
        == 5
    )
    assert (
        stack.query(
            "SELECT count(*) FROM pg_stat_activity"
            f" WHERE usename NOT LIKE 'v-approle-%' AND application_name IN ({listed})"
        )
        == 0
    )
    assert (
        stack.query(
            "SELECT count(*) FROM pg_stat_activity JOIN pg_stat_ssl USING (pid)"
            " WHERE client_addr IS NOT NULL AND NOT ssl"
        )
        == 0
    )
    with stack.http() as client:
        assert client.get("/health/ready").json()["vault"] == "ok"


def test_status_shows_every_process_ready_and_what_flows(stack):
    output = stack.make("status").stdout
    assert all(name in output for name in stack.endpoints["processes"])
    assert (
        f"storage engine: {'TimescaleDB' if stack.endpoints['engine'] == 'timescale' else 'plain'}" in output
    )
    assert "readings stored in the last minute: 0" not in output


def test_a_second_up_changes_nothing(stack):
    before = stack.endpoints
    stack.make("up")
    assert stack.endpoints == before


def test_whatever_holds_a_secret_is_for_its_owner_only(stack):
    secrets = [
        value.encode() for value in json.loads((stack.folder / "credentials.json").read_text()).values()
    ]
    secrets.append(b"PRIVATE KEY")
    servers = ("data", "mnesia", "generated")  # what servers write themselves, in folders only they enter
    files = [path for path in stack.folder.rglob("*") if path.is_file() and not {*path.parts} & {*servers}]
    holders = {path for path in files if any(secret in path.read_bytes() for secret in secrets)}
    assert len(holders) > 20
    assert [path for path in holders if path.stat().st_mode & 0o077] == []


def test_no_process_can_read_a_file_or_the_environment_of_another_account(stack):
    users = {name: psutil.Process(pid).username() for name, pid in stack.endpoints["processes"].items()}
    del users["endpoints"]
    status = stack.make("status").stdout
    if os.geteuid() != 0:
        assert len(set(users.values())) == 1
        assert "all processes of this checkout run as one account" in status
        return
    assert "run as one account" not in status
    services = [users[f"{service}-api"] for service in topology.SERVICES]
    assert len({*services, users["gateway-sim"], users["openbao"]}) == len(topology.SERVICES) + 2
    for user in set(users.values()):
        foreign = {path.name for path in files_readable_by(user, stack.folder) if path.owner() != user}
        assert foreign <= PUBLIC
        others = [pid for name, pid in stack.endpoints["processes"].items() if users.get(name) != user]
        assert readable_by(user, [Path(f"/proc/{pid}/environ") for pid in others]) == set()


def test_no_secret_is_in_a_command_line_an_environment_or_a_log(stack):
    credentials = json.loads((stack.folder / "credentials.json").read_text())
    secrets = {*credentials.values(), stack.endpoints["vault"]["token"], stack.endpoints["api_key"]}
    seen = {log.name: log.read_text(errors="replace") for log in (stack.folder / "logs").iterdir()}
    for process in stack.processes():
        seen[f"command line of {process.name()}"] = " ".join(process.cmdline())
        seen[f"environment of {process.name()}"] = " ".join(process.environ().values())
    assert len(seen) > 20
    assert [place for place, text in seen.items() if any(secret in text for secret in secrets)] == []


def test_every_process_comes_back_after_a_kill(stack):
    for name, pid in stack.endpoints["processes"].items():
        os.kill(pid, signal.SIGKILL)
        eventually(lambda name=name, pid=pid: stack.endpoints["processes"].get(name, pid) != pid, name)
    eventually(lambda: stack.make("status", check=False).returncode == 0, "all ready again", 180)


def test_a_killed_supervisor_leaves_nothing_running_and_up_recovers(stack):
    os.kill(int((stack.folder / "supervisord.pid").read_text()), signal.SIGKILL)
    eventually(lambda: not stack.processes(), "no process of the stack")
    stack.make("up")
    assert stack.make("status").returncode == 0


def test_down_leaves_the_data_and_no_process(stack):
    stored = stack.query("SELECT count(*) FROM ingest.telemetry")
    stack.make("down")
    assert stack.processes() == []
    assert stack.make("status", check=False).returncode != 0
    stack.make("up")
    assert stack.query("SELECT count(*) FROM ingest.telemetry") >= stored > 0


def test_clean_removes_everything(stack):
    stack.make("clean")
    assert stack.processes() == []
    assert not stack.folder.exists()
