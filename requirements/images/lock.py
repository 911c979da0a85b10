"""Write one lock with hashes per image, each within the versions of requirements/base.txt.

Usage: python requirements/images/lock.py (needs `uv` and a package index).
"""

import subprocess
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LOCKS = Path(__file__).parent
PROJECTS = {
    "archiver": "services/archiver",
    "auth": "services/auth",
    "backup": "services/backup",
    "diagnostics": "services/diagnostics",
    "gateway": "libs/gateway",
    "ingest": "services/ingest",
    "platform": "deploy/platform",
}
WORKSPACE = {"esp-common": "libs/common"}
HEADER = "# Made by `make locks` from {source}. Do not edit.\n"
OLDEST_PYTHON = "3.11"


def dependencies(project: str, extra: str = "") -> set[str]:
    """Return what `project` and the workspace's packages it needs require from outside the workspace."""
    document = tomllib.loads((ROOT / project / "pyproject.toml").read_text())["project"]
    required = document["dependencies"] + (document["optional-dependencies"][extra] if extra else [])
    found: set[str] = set()
    for requirement in required:
        name, _, extras = requirement.partition("[")
        if name in WORKSPACE:
            found |= dependencies(WORKSPACE[name], extras.removesuffix("]"))
        else:
            found.add(requirement)
    return found


def compile_lock(target: Path, requirements: set[str], constraint: str, source: str) -> None:
    """Resolve `requirements` for Linux and every supported Python, and write the lock."""
    command = ["uv", "pip", "compile", "-", "--constraint", constraint, "--universal", "--quiet"]
    command += ["--python-version", OLDEST_PYTHON, "--generate-hashes", "--no-annotate", "--no-header"]
    lines = "\n".join(sorted(requirements))
    resolved = subprocess.run(command, input=lines, capture_output=True, text=True, cwd=ROOT, check=False)
    if resolved.returncode:
        raise SystemExit(
            f"error: {target.name}: uv ended with {resolved.returncode}: {resolved.stderr.strip()}"
        )
    target.write_text(HEADER.format(source=source) + resolved.stdout)


def main() -> None:
    """Write every lock."""
    for name, project in PROJECTS.items():
        source = f"{project}/pyproject.toml and requirements/base.txt"
        compile_lock(LOCKS / f"{name}.txt", dependencies(project), "requirements/base.txt", source)
    build = {line for line in (LOCKS / "build.in").read_text().splitlines() if not line.startswith("#")}
    source = "requirements/images/build.in and requirements/stack.txt"
    compile_lock(LOCKS / "build.txt", build, "requirements/stack.txt", source)


if __name__ == "__main__":
    main()
