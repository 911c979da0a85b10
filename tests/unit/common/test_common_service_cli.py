"""The commands that every service has."""

import pytest
from esp_archiver.cli import app as archiver
from esp_auth.cli import app as auth
from esp_backup.cli import app as backup
from esp_common.errors import Unavailable
from esp_diagnostics.cli import app as diagnostics
from esp_ingest.cli import app as ingest
from typer import Typer
from typer.testing import CliRunner

SERVICES = {
    "archiver": (archiver, ["api", "worker"]),
    "auth": (auth, ["api", "worker"]),
    "backup": (backup, ["api", "worker"]),
    "diagnostics": (diagnostics, ["api", "worker", "notifier"]),
    "ingest": (ingest, ["api", "worker", "maintenance"]),
}


@pytest.mark.parametrize("service", SERVICES)
def test_migrate_reports_an_unreachable_database_in_one_line(
    service: str, unused_tcp_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"postgresql://owner@127.0.0.1:{unused_tcp_port}/esp"
    monkeypatch.setenv(f"ESP_{service.upper()}_DATABASE_URL", url)
    done = CliRunner().invoke(SERVICES[service][0], ["migrate"])
    assert isinstance(done.exception, Unavailable)
    assert "\n" not in done.exception.detail
    assert "Connection refused" in done.exception.detail
    assert done.exception.fix == f"check ESP_{service.upper()}_DATABASE_URL"


@pytest.mark.parametrize(("app", "roles"), SERVICES.values(), ids=SERVICES.keys())
def test_every_role_has_a_command(app: Typer, roles: list[str]) -> None:
    for role in roles:
        done = CliRunner().invoke(app, [role, "--help"])
        assert done.exit_code == 0, done.output


@pytest.mark.parametrize("service", SERVICES)
def test_settings_are_listed_with_their_variables(service: str) -> None:
    done = CliRunner().invoke(SERVICES[service][0], ["settings"])
    assert done.exit_code == 0
    assert f"ESP_{service.upper()}_DATABASE_URL" in done.output
