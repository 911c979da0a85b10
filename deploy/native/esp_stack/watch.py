"""Keeps the process ids in `endpoints.json` true while supervisord restarts what ended; rotates nginx's log.

A listener of supervisord's events: it is told over stdin and answers over stdout.
"""

import json
import sys
from pathlib import Path

from supervisor import childutils

from esp_stack.programs import private_file
from esp_stack.servers.nginx import access_log_is_large, rotate_access_log
from esp_stack.supervision import Supervisor


def main() -> None:
    """Refresh the file at every event, for ever."""
    folder, homes = Path(sys.argv[1]), Path(sys.argv[2])
    supervisor = Supervisor(folder)
    while True:
        childutils.listener.wait(sys.stdin, sys.stdout)
        refresh(folder / "endpoints.json", supervisor)
        rotate(homes / "nginx", supervisor)
        childutils.listener.ok(sys.stdout)


def rotate(home: Path, supervisor: Supervisor) -> None:
    """Begin a new access log of nginx if it has grown large."""
    if access_log_is_large(home) and (process_id := supervisor.process_ids().get("nginx")):
        rotate_access_log(home, process_id)


def refresh(path: Path, supervisor: Supervisor) -> None:
    """Write the process ids that are true now; only if the stack has come up, which writes all the rest."""
    if path.exists():
        endpoints = json.loads(path.read_text())
        endpoints["processes"] = supervisor.process_ids()
        private_file(path, json.dumps(endpoints, indent=2) + "\n", None)


if __name__ == "__main__":
    main()
