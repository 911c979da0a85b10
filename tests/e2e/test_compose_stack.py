"""What Docker shows of the stack in containers: rights, secrets, networks, replicas."""

import json
from collections.abc import Iterator
from itertools import chain

import pytest
from docker_cli import docker
from esp_common import topology
from stacks import KIND, ComposeStack, eventually

pytestmark = [
    pytest.mark.skipif(KIND != "compose", reason="needs containers: STACK_KIND=compose"),
    pytest.mark.timeout(900),
]
READY = "import urllib.request as r; print(r.urlopen('http://127.0.0.1:9000/health/ready').status)"


@pytest.fixture
def inspected(stack: ComposeStack) -> list[dict]:
    """Return what `docker inspect` shows of every container."""
    return json.loads(docker("inspect", *stack.containers(stopped=True)))


def secrets_of(stack: ComposeStack) -> set[str]:
    """Return the text of every generated secret."""
    state = stack.folder / "compose"
    files = [*(state / "platform" / "secrets").iterdir(), *(state / "platform" / "gateways").iterdir()]
    files += [state / "postgres" / "password", state / "azurite" / "key"]
    return {file.read_text() for file in files}


def test_container_is_confined_and_limited(inspected):
    for container in inspected:
        host, name = container["HostConfig"], container["Name"]
        assert host["ReadonlyRootfs"], name
        assert host["CapDrop"] == ["ALL"], name
        assert "no-new-privileges:true" in host["SecurityOpt"], name
        if host["RestartPolicy"]["Name"] == "unless-stopped":
            assert host["Memory"] > 0, name
            assert host["NanoCpus"] > 0, name


def test_no_secret_is_in_what_docker_shows_or_logs(stack, inspected):
    secrets = secrets_of(stack)
    assert len(secrets) > 30
    shown = {container["Name"]: json.dumps(container) for container in inspected}
    shown |= {f"log of {name}": docker("logs", name) for name in stack.containers(stopped=True)}
    assert [place for place, text in shown.items() if any(secret in text for secret in secrets)] == []


def test_secret_is_a_file_of_its_containers_user_only(stack):
    state = stack.folder / "compose"
    files = [path for path in state.rglob("*") if path.is_file() and "sim" not in path.parts]
    assert {oct(path.stat().st_mode & 0o777) for path in files} == {"0o600"}
    assert {path.stat().st_uid for path in (state / "auth").iterdir()} == {10001}
    assert {path.stat().st_uid for path in (state / "postgres").iterdir()} == {70}


def test_only_https_amqps_and_mqtts_are_published(inspected):
    ports = chain.from_iterable(container["HostConfig"]["PortBindings"].items() for container in inspected)
    assert sorted(port for port, bindings in ports if bindings) == ["5671/tcp", "8443/tcp", "8883/tcp"]


def test_broker_has_users_of_services_only(stack):
    users = stack.run("rabbitmq", "sh", "/servers/rabbitmq.sh", "users").split()
    assert set(users) == {"admin", "session-keeper", "monitoring", *topology.SERVICES}


def test_every_api_sees_the_clients_address_behind_nginx(stack):
    wrong = {"username": "admin", "password": "wrong-Horse-4711"}
    with stack.http() as client:
        assert client.post("/api/v1/auth/login", json=wrong).status_code == 401
    latest = (
        "SELECT source_address FROM auth.audit_log WHERE action LIKE '%login%' ORDER BY time DESC LIMIT 1"
    )
    nginx = json.loads(docker("inspect", *stack.containers("nginx")))[0]["NetworkSettings"]["Networks"]
    own = {network["IPAddress"] for network in nginx.values()}
    eventually(lambda: stack.query(latest), "the audit record of a login")
    assert stack.query(latest) not in own


@pytest.fixture
def three_workers(stack: ComposeStack) -> Iterator[list[str]]:
    """Return three containers of the ingest worker; one stays afterwards."""
    scale(stack, 3)
    yield stack.containers("ingest-worker")
    scale(stack, 1)


def scale(stack: ComposeStack, replicas: int) -> None:
    stack.make("up", f"SCALE=ingest-worker={replicas}")


def test_worker_scales_to_three_and_loses_nothing(stack, three_workers):
    assert len(three_workers) == 3
    for worker in three_workers:
        assert docker("exec", worker, "/opt/esp/bin/python3", "-c", READY).strip() == "200"
    docker("kill", three_workers[0])
    before = stack.query("SELECT count(*) FROM ingest.telemetry")
    eventually(lambda: stack.query("SELECT count(*) FROM ingest.telemetry") >= before + 100, "more readings")
    doubled = "SELECT count(*) - count(DISTINCT (pump_no, time)) FROM ingest.telemetry"
    assert stack.query(doubled) == 0


def test_killed_container_is_started_again(stack):
    container = stack.containers("diagnostics-worker")[0]
    docker("exec", container, "/opt/esp/bin/python3", "-c", "import os, signal; os.kill(1, signal.SIGTERM)")
    restarts = "{{.RestartCount}} {{.State.Health.Status}}"
    eventually(
        lambda: docker("inspect", "--format", restarts, container).split() == ["1", "healthy"],
        "the worker restarted and healthy",
        180,
    )
