"""Whether `make up` takes containers or processes, and what it says when containers cannot be had."""

import os
import subprocess
from pathlib import Path

import pytest

DEPLOY = Path(__file__).resolve().parents[3] / "deploy"
ENGINE = """#!/bin/sh
case "$1 $2" in
  version*) exit {engine} ;;
  'compose version') exit {compose} ;;
  'image inspect') [ "$3" = "{present}" ] ;;
  *) exit 1 ;;
esac
"""


@pytest.fixture
def run(tmp_path):
    """Return what runs a script of `deploy` with a Docker client that answers as told."""

    def _run(
        script: str, *arguments: str, engine: int = 0, compose: int = 0, present: str = "", **extra: str
    ):
        client = tmp_path / "client"
        client.write_text(ENGINE.format(engine=engine, compose=compose, present=present))
        client.chmod(0o755)
        environment = {"PATH": os.environ["PATH"], "DOCKER": str(client), "ESP_STACK_FOLDER": str(tmp_path)}
        return subprocess.run(
            [DEPLOY / script, *arguments],
            env={**environment, **extra},
            capture_output=True,
            text=True,
            check=False,
        )

    return _run


def test_without_an_engine_there_are_no_containers(run):
    done = run("compose/stack.sh", "can-run", engine=1)
    assert (done.returncode, done.stdout) == (1, "no Docker engine answers\n")


def test_engine_without_images_is_not_enough(run):
    done = run("compose/stack.sh", "can-run")
    assert done.returncode == 1
    assert done.stdout == "the images of the servers can neither be pulled nor built\n"


def test_engine_with_the_base_image_runs_servers_from_debian(run):
    done = run("compose/stack.sh", "can-run", present="debian:13-slim")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_image_of_a_registry_that_is_not_there_is_named(run):
    done = run("compose/stack.sh", "can-run", ESP_REGISTRY="registry.example/", ESP_TAG="1.0")
    assert done.stdout == "the image registry.example/esp-ingest:1.0 cannot be had\n"


def test_forced_containers_without_an_engine_are_an_error_of_one_line(run, tmp_path):
    done = run("stack.sh", "up", engine=1, STACK_KIND="compose")
    assert done.returncode == 1
    assert done.stderr == "error: no Docker engine answers; see docs/deploying.md\n"
    assert not (tmp_path / "compose").exists()


def test_stack_of_containers_stays_one(run, tmp_path):
    (tmp_path / "compose").mkdir()
    done = run("stack.sh", "status", engine=1)
    assert (done.returncode, done.stderr) == (1, "error: no Docker engine answers; see docs/deploying.md\n")


def test_unknown_kind_is_refused(run):
    done = run("stack.sh", "status", STACK_KIND="podman")
    assert (done.returncode, done.stderr) == (2, "error: STACK_KIND=podman is neither native nor compose\n")
