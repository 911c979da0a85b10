"""`install.sh` on a machine that lacks something."""

import subprocess
from pathlib import Path

import pytest

INSTALL = Path(__file__).resolve().parents[3] / "deploy" / "native" / "install.sh"
UBUNTU = 'ID=ubuntu\nVERSION_ID="24.04"\n'
DEBIAN_SID = "ID=debian\n"
DEBIAN = 'ID=debian\nVERSION_ID="{}"\n'


@pytest.fixture
def lacking(tmp_path: Path) -> dict[str, str]:
    """Environment of a machine without redis-server, nginx, node, npm and apt-get."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("dirname", "id"):
        (programs / name).symlink_to(f"/usr/bin/{name}")
    return {"PATH": str(programs), "OS_RELEASE": str(tmp_path / "os-release")}


def install(environment: dict[str, str], os_release: str | None) -> str:
    """Run the script and return what it wrote to stderr; it must fail."""
    if os_release is not None:
        Path(environment["OS_RELEASE"]).write_text(os_release)
    done = subprocess.run(
        ["/bin/sh", INSTALL, "run"], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stdout == ""
    return done.stderr


@pytest.mark.parametrize(
    ("os_release", "name"),
    [
        (UBUNTU, "ubuntu 24.04"),
        (DEBIAN_SID, "debian "),
        (DEBIAN.format(11), "debian 11"),
        (None, "no /etc/os-release"),
    ],
    ids=["ubuntu", "sid", "bullseye", "unknown"],
)
def test_an_unsupported_system_gets_one_line_that_names_the_supported_ones(lacking, os_release, name):
    errors = install(lacking, os_release)
    assert errors.count("\n") == 1
    assert "redis-server" in errors
    assert f"Debian 12 and 13 are supported, this is {name}: install them by hand" in errors


@pytest.mark.parametrize("version", [12, 13])
def test_a_supported_system_without_root_or_apt_gets_the_command_to_run(lacking, version):
    errors = install(lacking, DEBIAN.format(version))
    assert errors.count("\n") == 1
    assert "as root run: apt-get install" in errors
    assert "redis-server" in errors
