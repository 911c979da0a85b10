"""What is chosen or generated at the first start and stays the same ever after: ports and credentials."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from esp_platform.credentials import GENERATORS, new_password

from esp_stack.programs import StackError, first_free_port, is_free, private_file


class Credentials:
    """Generated secrets by name, in one file only the owner of the stack can read."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: dict[str, str] = _remembered(path)

    def knows(self, name: str) -> bool:
        """Return whether there is such a secret already."""
        return name in self._known

    def get(self, name: str, generated: str | None = None) -> str:
        """Return the secret; the first time remember `generated`, or what is generated for this name."""
        if name not in self._known:
            self._known[name] = generated or GENERATORS.get(name, new_password)()
            private_file(self._path, json.dumps(self._known, indent=1), None)
        return self._known[name]

    def passwords(self, *names: str, prefix: str) -> dict[str, str]:
        """Return name → secret for the secrets called `prefix.name`."""
        return {name: self.get(f"{prefix}.{name}") for name in names}

    def values(self) -> list[str]:
        """Return every secret there is."""
        return list(self._known.values())


def _remembered(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text()) if path.exists() else {}
    except ValueError as error:
        raise StackError(f"{path} cannot be read: {error} — put back a copy of it") from None
    if not isinstance(found, dict):
        raise StackError(f"{path} cannot be read: no names with values — put back a copy of it")
    return found


def remembered_ports(path: Path, preferred: Mapping[str, int], *, running: bool) -> dict[str, int]:
    """Return a port for each name of `preferred`: the one used before, or one that is free.

    Unless the stack is `running`, a remembered port that somebody else has taken is replaced.
    """
    before: dict[str, int] = _remembered(path)
    ports: dict[str, int] = {}
    for name, wanted in preferred.items():
        port = before.get(name)
        if port is None or not (running or is_free(port)):
            port = first_free_port(wanted, {*before.values(), *ports.values()})
        ports[name] = port
    path.write_text(json.dumps(ports, indent=1) + "\n")
    return ports
