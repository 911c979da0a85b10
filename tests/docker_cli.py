"""The Docker client of the tests: DOCKER names it, as for `make images`."""

import os
import subprocess

DOCKER = os.environ.get("DOCKER", "docker")


def docker(*arguments: str) -> str:
    """Return what `docker` printed; its error output is the failure's message."""
    done = subprocess.run([DOCKER, *arguments], capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, f"docker {' '.join(arguments)}: {done.stdout}{done.stderr}"
    return done.stdout
