"""What an account can read, asked as that account."""

import subprocess
from collections.abc import Iterable
from pathlib import Path

from esp_stack.programs import Program

PRINT_READABLE = 'while IFS= read -r path; do cat -- "$path" >/dev/null 2>&1 && echo "$path"; done'


def files_readable_by(user: str, folder: Path) -> set[Path]:
    """Return the files under `folder` that `user` can read, also where it has to know their names."""
    return readable_by(user, [path for path in folder.rglob("*") if path.is_file()])


def readable_by(user: str, files: Iterable[Path]) -> set[Path]:
    """Return those of `files` that `user` can read."""
    paths = "\n".join(map(str, files))
    command = Program("probe", ("sh", "-c", f"{PRINT_READABLE}; true"), Path("/"), user).command()
    done = subprocess.run(command, cwd="/", input=f"{paths}\n", capture_output=True, text=True, check=True)
    return {Path(line) for line in done.stdout.splitlines()}
