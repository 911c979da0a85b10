"""Keeps the process ids in `endpoints.json` true while supervisord restarts what ended.

A listener of supervisord's events: it is told over stdin and answers over stdout.
"""

import json
import sys
from pathlib import Path

from supervisor import childutils

from esp_stack.programs import private_file
from esp_stack.supervision import Supervisor


def main() -> None:
    """Refresh the file at every event, for ever."""
    folder = Path(sys.argv[1])
    supervisor = Supervisor(folder)
    while True:
        childutils.listener.wait(sys.stdin, sys.stdout)
        refresh(folder / "endpoints.json", supervisor)
        childutils.listener.ok(sys.stdout)


def refresh(path: Path, supervisor: Supervisor) -> None:
    """Write the process ids that are true now; only if the stack has come up, which writes all the rest."""
    if path.exists():
        endpoints = json.loads(path.read_text())
        endpoints["processes"] = supervisor.process_ids()
        private_file(path, json.dumps(endpoints, indent=2) + "\n", None)


if __name__ == "__main__":
    main()
