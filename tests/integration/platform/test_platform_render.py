"""`esp-platform render`: files that the servers accept, the same at every run."""

import json
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from backup_site import localhost_certificate
from esp_common import topology
from esp_platform.credentials import GENERATORS
from esp_platform.render import TARGETS, render
from esp_platform.settings import PlatformSettings
from esp_stack.programs import executable, free_port

CHART = Path(__file__).parents[3] / "deploy" / "helm" / "esp"


def contents(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", TARGETS)
def test_a_second_run_writes_nothing(name, tmp_path):
    settings = PlatformSettings.load()
    assert render(TARGETS[name], settings, tmp_path)
    before = contents(tmp_path)
    assert render(TARGETS[name], settings, tmp_path) == []
    assert contents(tmp_path) == before


def test_compose_gets_generated_secrets_that_only_their_owner_reads(tmp_path):
    render(TARGETS["compose"], PlatformSettings.load(), tmp_path)
    secrets = tmp_path / "secrets"
    assert {path.name for path in secrets.iterdir()} == set(GENERATORS)
    assert {path.stat().st_mode & 0o777 for path in tmp_path.rglob("*") if path.is_file()} == {0o600}
    users = json.loads((tmp_path / "rabbitmq/definitions.json").read_text())["users"]
    assert {user["name"] for user in users} == {"admin", "session-keeper", "monitoring", *topology.SERVICES}


def test_files_for_helm_have_no_secret_and_no_user(tmp_path):
    render(TARGETS["helm"], PlatformSettings.load(), tmp_path)
    text = "".join(contents(tmp_path).values())
    assert "password" not in text
    assert not (tmp_path / "secrets").exists()
    assert set(json.loads((tmp_path / "rabbitmq/topology.json").read_text())["queues"][0]) == {
        *("name", "vhost", "durable", "auto_delete", "arguments"),
    }


def test_the_chart_has_the_configuration_that_is_rendered_for_helm(tmp_path):
    render(TARGETS["helm"], PlatformSettings.load(), tmp_path)
    assert (CHART / "files/nginx.conf").read_text() == (tmp_path / "nginx/nginx.conf").read_text()


@pytest.mark.parametrize("name", TARGETS)
def test_nginx_accepts_its_configuration(name, tmp_path):
    tls = localhost_certificate(tmp_path, None)
    settings = PlatformSettings.load(
        nginx_tls_certificate=str(tls.server),
        nginx_tls_key=str(tls.server),
        nginx_trusted_proxies=("10.0.0.0/8",),
        # No DNS server knows the names of containers here.
        nginx_upstream=f"127.0.0.1:{free_port()}",
    )
    target = TARGETS[name]
    target = replace(
        target, site=replace(target.site, folder=str(tmp_path), access_log=str(tmp_path / "log"))
    )
    render(target, settings, tmp_path)
    command = [executable("nginx"), "-t", "-e", "stderr", "-c", str(tmp_path / "nginx/nginx.conf")]
    tested = subprocess.run(command, capture_output=True, text=True, check=False)
    assert tested.returncode == 0, tested.stderr


def test_redis_gets_a_user_for_each_service(tmp_path):
    render(TARGETS["compose"], PlatformSettings.load(), tmp_path)
    lines = (tmp_path / "redis/users.acl").read_text().splitlines()
    assert [line.split()[1] for line in lines] == ["default", *topology.SERVICES]
