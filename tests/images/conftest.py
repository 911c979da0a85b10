"""The images that `make images` built. Without an engine or an image, tests are skipped with that reason."""

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from docker_cli import DOCKER, docker

ROOT = Path(__file__).resolve().parents[2]
SERVICES = ("archiver", "auth", "backup", "diagnostics", "gateway", "ingest", "platform")
CONFINED = (
    *("--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL", "--network", "none"),
    *("--security-opt", "no-new-privileges"),
)
Run = Callable[..., str]


@pytest.fixture(scope="session")
def tag() -> str:
    """Return the images' tag: TAG, or the commit, as `make images` does."""
    try:
        subprocess.run([DOCKER, "version"], capture_output=True, check=True, timeout=60)
    except (OSError, subprocess.SubprocessError):
        pytest.skip("no Docker engine answers")
    if named := os.environ.get("TAG"):
        return named
    command = ["git", "-c", f"safe.directory={ROOT}", "rev-parse", "--short=12", "HEAD"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture(params=SERVICES)
def service(request: pytest.FixtureRequest) -> str:
    """Return the service whose image is tested."""
    return str(request.param)


@pytest.fixture
def image(service: str, tag: str) -> str:
    """Return the name of the service's image."""
    name = f"esp-{service}:{tag}"
    found = subprocess.run([DOCKER, "image", "inspect", name], capture_output=True, check=False, timeout=60)
    if found.returncode:
        pytest.skip(f"no image {name}: `make images` builds it")
    return name


@pytest.fixture
def configuration(image: str) -> dict[str, object]:
    """Return the image's configuration."""
    return dict(json.loads(docker("image", "inspect", image))[0]["Config"])


@pytest.fixture
def run(image: str) -> Run:
    """Return what runs a program in the confined image: `run("esp-auth", "--help", user="10001")`."""

    def _run(program: str, *arguments: str, user: str = "10001:10001") -> str:
        return docker("run", "--rm", *CONFINED, "--user", user, "--entrypoint", program, image, *arguments)

    return _run
