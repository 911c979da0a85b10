"""The locks of the images agree with what each project declares, imports, and with requirements/base.txt."""

import ast
import re
import runpy
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions, requires, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[3]
PROJECTS: dict[str, str] = runpy.run_path(str(ROOT / "requirements/images/lock.py"))["PROJECTS"]
COMMON = "esp-common"


def declared(project: str, extras: frozenset[str] = frozenset()) -> Iterator[Requirement]:
    """Yield what a project requires, esp-common's requirements in place of esp-common."""
    document = tomllib.loads((ROOT / project / "pyproject.toml").read_text())["project"]
    lines = list(document["dependencies"])
    for extra in extras:
        lines += document["optional-dependencies"][extra]
    for requirement in map(Requirement, lines):
        if requirement.name == COMMON:
            yield from declared("libs/common", frozenset(requirement.extras))
        else:
            yield requirement


def closure(requirements: Iterator[Requirement]) -> set[str]:
    """Return the names of `requirements` and of all they need, from what is installed here."""
    found: set[str] = set()
    waiting = [(r.name, extra) for r in requirements for extra in ("", *r.extras)]
    seen: set[tuple[str, str]] = set()
    while waiting:
        name, extra = key = waiting.pop()
        if key in seen:
            continue
        seen.add(key)
        found.add(canonicalize_name(name))
        for needed in map(Requirement, requires(name) or ()):
            if needed.marker is None or needed.marker.evaluate({"extra": extra}):
                waiting += [(needed.name, wanted) for wanted in ("", *needed.extras)]
    return found


def pins(path: Path) -> dict[str, tuple[str, bool, int]]:
    """Return for each package of a lock its version, if it is installed here, and its number of hashes."""
    found = {}
    for block in re.split(r"\n(?=[a-zA-Z0-9])", path.read_text()):
        line = block.splitlines()[0].removesuffix("\\").strip()
        if line.startswith("#"):
            continue
        pin = Requirement(line)
        applies = pin.marker is None or pin.marker.evaluate()
        name, pinned = canonicalize_name(pin.name), str(pin.specifier).removeprefix("==")
        found[name] = (pinned, applies, block.count("--hash=sha256:"))
    return found


def imported(project: str) -> set[str]:
    """Return the distributions whose packages a project's modules import."""
    own = next((ROOT / project).glob("esp_*"))
    names: set[str] = set()
    for node in (n for f in own.rglob("*.py") for n in ast.walk(ast.parse(f.read_text()))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names.add(str(node.module))
    tops = (
        {name.split(".")[0] for name in names}
        - sys.stdlib_module_names
        - {own.name, "azure", "opentelemetry"}
    )
    owners = packages_distributions()
    return {canonicalize_name(owners[top][0]) for top in tops}


@pytest.fixture(params=PROJECTS)
def service(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def lock(service: str) -> dict[str, tuple[str, bool, int]]:
    return pins(ROOT / f"requirements/images/{service}.txt")


def test_lock_holds_exactly_what_the_project_needs(service, lock):
    needed = closure(declared(PROJECTS[service]))
    assert {name for name, (_, applies, _) in lock.items() if applies} == needed, "run `make locks`"


def test_lock_has_the_versions_of_base_txt_each_with_hashes(lock):
    base = pins(ROOT / "requirements/base.txt")
    others = {name: pin[0] for name, pin in lock.items() if pin[1] and pin[0] != base[name][0]}
    assert not others, "run `make locks`"
    assert all(hashes for _, _, hashes in lock.values())


def test_locked_versions_are_those_the_tests_ran_with(lock):
    assert {n: pin[0] for n, pin in lock.items() if pin[1]} == {
        n: version(n) for n, pin in lock.items() if pin[1]
    }


def test_project_declares_what_it_imports(service):
    names = {canonicalize_name(r.name) for r in declared(PROJECTS[service])} | {COMMON}
    assert imported(PROJECTS[service]) <= names


def test_common_declares_what_it_imports():
    names = {canonicalize_name(r.name) for r in declared("libs/common", frozenset({"readings"}))}
    assert imported("libs/common") <= names


@pytest.mark.parametrize("service", ["auth", "backup", "platform"], indirect=True)
def test_service_without_readings_locks_no_numerical_package(lock):
    assert not lock.keys() & {"numpy", "pint", "pyarrow", "scikit-learn", "scipy"}
