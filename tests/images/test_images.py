"""What each image is, and that its service runs with no rights, no network and a read-only root."""

import json
import os
import re
from pathlib import Path

import pytest
from docker_cli import docker
from esp_common import __version__
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
MB = 1_000_000
MAX_OVER_BASE_MB = {"archiver": 700, "diagnostics": 700, "gateway": 450}
PYTHON = "/opt/esp/bin/python3"
IMPORT_ALL = """
import importlib, pkgutil, sys
for package in sys.argv[1:]:
    for module in pkgutil.walk_packages(importlib.import_module(package).__path__, package + "."):
        if ".migrations." not in module.name and not module.name.endswith("__main__"):
            importlib.import_module(module.name)
print("imported", sys.version_info[:2])
"""
FIND = """
import glob, shutil, sys
programs = ("cc", "gcc", "g++", "clang", "ld", "as", "make", "pip", "pip3", "uv")
patterns = ("/var/cache/pip/*", "/opt/esp/lib/*/site-packages/pip*", "/var/lib/apt/lists/*Packages", "/build")
print(*filter(shutil.which, programs), *(path for pattern in patterns for path in glob.glob(pattern)))
"""
SCRATCH = """
cd "$ESP_BACKUP_POSTGRES_BIN" && ./initdb --pgdata /tmp/data --auth=trust --no-sync >/tmp/log
echo 'SELECT 1 + 1' | ./postgres --single -D /tmp/data postgres
"""
ABSENT = """
import importlib.util, sys
print(*(name for name in sys.argv[1:] if importlib.util.find_spec(name)))
"""


def pinned(lock: str, environment: dict[str, str]) -> dict[str, str]:
    """Return name and version of each package that a lock installs in `environment`."""
    lines = [line.removesuffix("\\").strip() for line in lock.splitlines() if re.match("[a-z0-9]", line)]
    requirements = [Requirement(line) for line in lines]
    chosen = [r for r in requirements if r.marker is None or r.marker.evaluate(environment)]
    return {r.name: str(r.specifier).removeprefix("==") for r in chosen}


@pytest.mark.parametrize("user", ["10001:10001", "54321:54321"])
def test_command_starts_for_any_uid_without_rights_or_network(service, run, user):
    assert f"Usage: esp-{service}" in run(f"esp-{service}", "--help", user=user)


def test_every_module_imports_with_the_packages_of_the_image(service, run):
    assert "imported" in run(PYTHON, "-W", "ignore", "-c", IMPORT_ALL, f"esp_{service}")


def test_image_has_no_compiler_no_installer_and_no_cache(run):
    assert run(PYTHON, "-c", FIND).strip() == ""


@pytest.mark.parametrize("service", ["auth", "backup", "platform"], indirect=True)
def test_service_without_readings_has_no_numerical_packages(run):
    assert run(PYTHON, "-c", ABSENT, "scipy", "sklearn", "numpy", "pyarrow", "pint").strip() == ""


@pytest.mark.parametrize("service", ["backup"], indirect=True)
def test_backup_has_the_programs_it_runs(run):
    assert "pgBackRest" in run("pgbackrest", "version")
    folder = run(PYTHON, "-c", "import os; print(os.environ['ESP_BACKUP_POSTGRES_BIN'])").strip()
    for program in ("pg_dump", "pg_restore", "psql", "pg_amcheck", "pg_checksums"):
        assert "PostgreSQL" in run(f"{folder}/{program}", "--version")


@pytest.mark.parametrize("service", ["backup"], indirect=True)
def test_backup_creates_and_runs_the_scratch_instance_of_a_drill(run):
    assert '1: ?column? = "2"' in run("sh", "-c", SCRATCH)


def test_configuration_names_user_entrypoint_and_origin(service, configuration):
    assert configuration["User"] == "10001:10001"
    assert configuration["Entrypoint"] == [f"esp-{service}"]
    labels = configuration["Labels"]
    prefix = "org.opencontainers.image."
    assert labels[f"{prefix}title"] == f"esp-{service}"
    assert re.fullmatch(r"[0-9a-f]{40}|unknown", labels[f"{prefix}revision"])
    assert all(labels[prefix + name] for name in ("description", "version", "created", "base.name"))


def test_no_build_secret_is_in_the_configuration_or_the_files(configuration, run):
    assert "pip" not in " ".join(configuration["Env"]).lower()
    look = "import os; print(*(p for p in ('/etc/pip.conf', '/run/secrets/pip_ca') if os.path.exists(p)))"
    assert run(PYTHON, "-c", look).strip() == ""


def test_bill_of_materials_lists_exactly_what_the_lock_installs(service, run):
    bill = json.loads(run("cat", "/opt/esp/sbom.cdx.json"))
    full = run(PYTHON, "-c", "import platform; print(platform.python_version())").strip()
    python = {"python_full_version": full, "python_version": full.rpartition(".")[0]}
    assert bill["bomFormat"] == "CycloneDX"
    listed = {re.sub(r"[-_.]+", "-", c["name"]).lower(): c["version"] for c in bill["components"]}
    own = {"esp-common": __version__, f"esp-{service}": __version__}
    assert listed == pinned((ROOT / f"requirements/images/{service}.txt").read_text(), python) | own


def test_size_over_the_base_is_within_its_budget(service, image):
    base = os.environ.get("BASE", "debian:13-slim")
    size, base_size = (int(docker("image", "inspect", "--format", "{{.Size}}", n)) for n in (image, base))
    assert (size - base_size) / MB <= MAX_OVER_BASE_MB.get(service, 350)


def test_variables_of_the_image_are_settings_of_the_service(service, configuration, run):
    ours = {pair.split("=")[0] for pair in configuration["Env"] if pair.startswith("ESP_")}
    assert ours <= set(run(f"esp-{service}", "settings").split() if ours else [])
