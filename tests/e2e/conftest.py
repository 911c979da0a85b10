"""The stack that is tested: STACK_KIND is its kind, native if not given."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from stacks import KIND, ComposeStack, NativeStack, Stack


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests of the native stack when another is tested."""
    if KIND != "native":
        for item in items:
            if item.get_closest_marker("native"):
                item.add_marker(pytest.mark.skip(reason="needs the processes and files of the native stack"))


@pytest.fixture(scope="session")
def stack(server_home: Path) -> Iterator[Stack]:
    """The platform with a simulated field, started with `make up`."""
    if KIND == "compose":
        # Where the engine sees the same files: a temporary folder may be the tests' own.
        home = Path(tempfile.mkdtemp(prefix="esp-e2e-", dir="/var/tmp"))
        stack: Stack = ComposeStack(home / ".stack")
    else:
        home = server_home / "e2e"
        stack = NativeStack(home / ".stack")
    stack.remove_when_killed()
    stack.make("up")
    yield stack
    stack.make("clean")
    stack.guard.kill()
    stack.guard.wait()
    shutil.rmtree(home, ignore_errors=True)
