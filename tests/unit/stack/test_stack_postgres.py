"""Which of the installed PostgreSQL versions a cluster of the native stack runs on."""

from pathlib import Path

import pytest
from esp_backup.settings import BackupSettings
from esp_stack.programs import StackError
from esp_stack.servers import Postgres, postgres


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folder with the servers of PostgreSQL 9, 15 and 17, and the client of 18, as Debian installs them."""
    folder = tmp_path / "postgresql"
    for version in ("9", "15", "17"):
        (folder / version / "bin").mkdir(parents=True)
        (folder / version / "bin" / "postgres").touch()
    (folder / "18" / "bin").mkdir(parents=True)
    monkeypatch.setattr(postgres, "INSTALLATIONS", folder)
    return folder


def created_by(version: str, home: Path) -> Postgres:
    """Return a cluster whose data were created by `version`."""
    cluster = Postgres(home)
    cluster.data.mkdir(parents=True)
    (cluster.data / "PG_VERSION").write_text(f"{version}\n")
    return cluster


def test_a_new_cluster_takes_the_newest_server(installed, tmp_path):
    assert Postgres(tmp_path / "home").binaries == installed / "17" / "bin"


def test_a_cluster_keeps_the_version_that_created_it(installed, tmp_path):
    assert created_by("15", tmp_path / "home").binaries == installed / "15" / "bin"


def test_a_cluster_of_a_version_that_is_gone_says_what_to_install(installed, tmp_path):
    with pytest.raises(StackError, match=r"created by PostgreSQL 16, .* install postgresql-16"):
        _ = created_by("16", tmp_path / "home").binaries


def test_without_a_server_the_error_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(postgres, "INSTALLATIONS", tmp_path / "nothing")
    with pytest.raises(StackError, match="make up"):
        postgres.newest_installation()


def test_the_backup_service_finds_the_programs_of_this_machine():
    settings = BackupSettings()
    assert (settings.postgres_bin / "pg_dump").exists()
