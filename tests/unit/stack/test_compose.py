"""The Compose files: valid, and true to what they promise about ports, secrets, rights and limits."""

import ssl
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
import yaml
from esp_common.errors import InvalidInput
from esp_platform.compose import Host, hand_over, prepare

COMPOSE = Path(__file__).resolve().parents[3] / "deploy" / "compose"
FILES = ("compose.yaml", "sim.yaml", "observability.yaml")
SECRETS = "/run/secrets/esp"


def services(name: str) -> dict[str, dict]:
    return yaml.safe_load((COMPOSE / name).read_text())["services"]


ALL = [
    pytest.param(service, id=f"{file}-{name}") for file in FILES for name, service in services(file).items()
]
LASTING = [case for case in ALL if case.values[0].get("restart") == "unless-stopped"]


@pytest.fixture(scope="module")
def state(tmp_path_factory) -> Path:
    """Return what the first start generates; a second changes nothing."""
    folder = tmp_path_factory.mktemp("state")
    prepare(folder, Host(("localhost", "esp.example")))
    first = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    prepare(folder, Host(("localhost", "esp.example")))
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == first
    return folder


@pytest.mark.parametrize("overlay", [None, "sim.yaml", "observability.yaml"])
def test_compose_accepts_the_files(overlay):
    command = [Path(sys.executable).with_name("docker-compose"), "--file", "compose.yaml"]
    command += ["--file", overlay] if overlay else []
    done = subprocess.run(
        [*command, "config", "--quiet"], cwd=COMPOSE, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_only_https_amqps_and_mqtts_are_published():
    published = {name: s["ports"] for file in FILES for name, s in services(file).items() if "ports" in s}
    assert published == {
        "nginx": ["${HTTPS_PORT:-8443}:8443"],
        "rabbitmq": ["${AMQPS_PORT:-5671}:5671", "${MQTTS_PORT:-8883}:8883"],
    }


def test_networks_of_services_and_data_have_no_way_out():
    networks = yaml.safe_load((COMPOSE / "compose.yaml").read_text())["networks"]
    assert networks["app"]["internal"]
    assert networks["data"]["internal"]


@pytest.mark.parametrize("service", ALL)
def test_container_has_no_rights_it_does_not_need(service):
    assert service["read_only"]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]


@pytest.mark.parametrize("service", LASTING)
def test_container_has_limits(service):
    assert set(service["deploy"]["resources"]["limits"]) == {"cpus", "memory"}


@pytest.mark.parametrize("service", ALL)
def test_secrets_reach_a_container_as_files_that_are_generated_for_it(service, state):
    mounted = [v.split(":-./state}/")[1] for v in service.get("volumes", []) if f":{SECRETS}:ro" in v]
    for name, value in service.get("environment", {}).items():
        assert not any(word in name for word in ("KEY", "PASSWORD", "SECRET", "TOKEN")) or name.endswith(
            ("_FILE", "_FOLDER")
        )
        if str(value).startswith(SECRETS):
            path = state / mounted[0].split(":")[0] / str(value).removeprefix(f"{SECRETS}/")
            assert path.exists(), f"{name}: {path} is not generated"


def test_every_generated_file_is_its_owners_alone(state):
    assert {oct(path.stat().st_mode & 0o777) for path in state.rglob("*") if path.is_file()} == {"0o600"}


def test_new_host_name_is_certified_by_the_same_authority(tmp_path):
    prepare(tmp_path, Host())
    authority, certificate = ((tmp_path / "nginx" / name).read_text() for name in ("ca.crt", "tls.crt"))
    prepare(tmp_path, Host(("esp.example",)))
    assert (tmp_path / "nginx" / "ca.crt").read_text() == authority
    assert (tmp_path / "nginx" / "tls.crt").read_text() != certificate


def test_certificate_passes_the_strict_checks_of_new_clients(state):
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(state / "redis" / "tls.crt", state / "redis" / "tls.key")
    client = ssl.create_default_context(cafile=state / "redis" / "ca.crt")
    client.verify_flags |= ssl.VERIFY_X509_STRICT
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        client.wrap_bio(to_client, to_server, server_hostname="redis"),
        server.wrap_bio(to_server, to_client, server_side=True),
    ]
    for _ in range(2):
        for end in ends:
            with suppress(ssl.SSLWantReadError):
                end.do_handshake()
    assert ends[0].getpeercert()["subject"] == ((("commonName", "redis"),),)


def test_host_of_environment_refuses_a_port_that_is_none():
    assert Host.of({"HTTPS_PORT": "", "ESP_HOST_NAMES": "a, b"}) == Host(("a", "b"))
    with pytest.raises(InvalidInput, match="HTTPS_PORT=no is not a port"):
        Host.of({"HTTPS_PORT": "no"})


def test_owner_that_is_not_two_numbers_is_refused(tmp_path):
    (tmp_path / "redis").mkdir()
    with pytest.raises(InvalidInput, match="REDIS_USER_ID=redis is not uid:gid"):
        hand_over(tmp_path, {"REDIS_USER_ID": "redis"})
