"""The whole platform as `make up` starts it: 50 simulated pumps, through the broker, into the store."""

import json
import os
import signal
import ssl
from pathlib import Path

import httpx
import paho.mqtt.client as mqtt
import psutil
import pytest
from aiormq.exceptions import ChannelAccessRefused, ProbableAuthenticationError
from esp_common import topology
from esp_common.auth import new_api_key
from esp_common.errors import EspError
from esp_common.messaging import Publisher
from readable import files_readable_by, readable_by
from stacks import Stack, eventually

KEYS = {
    *("http", "ca_file", "amqp", "postgres", "mqtt", "redis", "blob", "vault", "prometheus", "admin"),
    *("api_key", "gateway", "engine", "processes", "kind"),
}
PUBLIC = {
    *("ca.pem", "env", "layout", "lock", "ports.json", "simulated-field.yaml", "supervisord.pid"),
}
"""Files of the stack that every account may read: none of them holds a secret."""

pytestmark = pytest.mark.timeout(900)


def test_readings_of_fifty_pumps_arrive_in_the_store(stack):
    eventually(
        lambda: stack.query("SELECT count(DISTINCT pump_no) FROM ingest.telemetry") == 50,
        "50 pumps in the store",
    )


def test_readings_are_judged(stack):
    key = {"Authorization": f"Bearer {stack.endpoints['api_key']}"}
    with stack.http() as client:

        def states() -> list[str]:
            fleet = client.get("/api/v1/fleet", params={"limit": 100}, headers=key).raise_for_status().json()
            return [pump["state"] for pump in fleet["items"]]

        eventually(lambda: len(states()) == 50 and "unknown" not in states(), "a state of every pump")


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


def mqtt_publish(stack: Stack, gateway_id: str, key: str) -> str:
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


@pytest.mark.native
def test_the_broker_has_no_gateways_of_its_own(stack):
    ports = json.loads((stack.folder / "ports.json").read_text())
    amqp = httpx.URL(stack.endpoints["amqp"])
    url = f"http://127.0.0.1:{ports['management']}/api/users"
    users = httpx.get(url, auth=(amqp.username, amqp.password)).json()
    assert {user["name"] for user in users} == {"admin", "session-keeper", *topology.SERVICES}


@pytest.mark.native
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


@pytest.mark.native
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


@pytest.mark.native
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


@pytest.mark.native
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


@pytest.mark.native
def test_no_secret_is_in_a_command_line_an_environment_or_a_log(stack):
    credentials = json.loads((stack.folder / "credentials.json").read_text())
    secrets = {*credentials.values(), stack.endpoints["vault"]["token"], stack.endpoints["api_key"]}
    seen = {log.name: log.read_text(errors="replace") for log in (stack.folder / "logs").iterdir()}
    for process in stack.running():
        seen[f"command line of {process.name()}"] = " ".join(process.cmdline())
        seen[f"environment of {process.name()}"] = " ".join(process.environ().values())
    assert len(seen) > 20
    assert [place for place, text in seen.items() if any(secret in text for secret in secrets)] == []


@pytest.mark.native
def test_every_process_comes_back_after_a_kill(stack):
    for name, pid in stack.endpoints["processes"].items():
        os.kill(pid, signal.SIGKILL)
        eventually(lambda name=name, pid=pid: stack.endpoints["processes"].get(name, pid) != pid, name)
    eventually(lambda: stack.make("status", check=False).returncode == 0, "all ready again", 180)


@pytest.mark.native
def test_a_killed_supervisor_leaves_nothing_running_and_up_recovers(stack):
    os.kill(int((stack.folder / "supervisord.pid").read_text()), signal.SIGKILL)
    eventually(lambda: not stack.running(), "no process of the stack")
    stack.make("up")
    assert stack.make("status").returncode == 0


def test_down_leaves_the_data_and_no_process(stack):
    stored = stack.query("SELECT count(*) FROM ingest.telemetry")
    stack.make("down")
    assert stack.running() == []
    assert stack.make("status", check=False).returncode != 0
    stack.make("up")
    assert stack.query("SELECT count(*) FROM ingest.telemetry") >= stored > 0


def test_clean_removes_everything(stack):
    stack.make("clean")
    assert stack.running() == []
    assert not stack.folder.exists()
