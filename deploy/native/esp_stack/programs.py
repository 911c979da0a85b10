"""Programs: processes described well enough for a test or a supervisor to run them as unprivileged users."""

import os
import pwd
import random
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from time import monotonic, sleep

PORTS = range(15000, 32000)
"""Below the kernel's ephemeral range, so no outgoing connection takes the port of a restarting server."""

BASE_ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LANG": "C.UTF-8",
}
"""All that a program inherits: nothing of the environment of whoever starts it leaks into it."""


class StackError(Exception):
    """Something of the native stack cannot be done; the message says what, where and what to do."""


@dataclass(frozen=True)
class Program:
    """One process to keep running.

    `user`: the system account it runs as where that can be chosen (None: the invoking one).
    `death_signal`: what it gets from the kernel when whatever started it dies.
    """

    name: str
    argv: tuple[str, ...]
    folder: Path
    user: str | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    stop_signal: str = "TERM"
    death_signal: str = "KILL"
    stop_timeout_s: int = 30

    def command(self) -> list[str]:
        """Return the command line that drops privileges and dies with its parent."""
        drop = []
        if self.user:
            group = str(pwd.getpwnam(self.user).pw_gid)
            drop = ["--reuid", self.user, "--regid", group, "--init-groups", "--no-new-privs"]
        return ["setpriv", "--pdeathsig", self.death_signal, *drop, "--", *self.argv]

    def full_environment(self) -> dict[str, str]:
        """Return the whole environment of the process."""
        home = pwd.getpwnam(self.user).pw_dir if self.user else str(Path.home())
        return {"HOME": home, **BASE_ENVIRONMENT, **self.environment}


def account(name: str) -> str | None:
    """Return the system account to run as: `name` (or nobody, where it is missing) for root, else None."""
    if os.geteuid() != 0:
        return None
    try:
        return pwd.getpwnam(name).pw_name
    except KeyError:
        return "nobody"


@cache
def separate_accounts() -> bool:
    """Return whether what runs out of this checkout can have accounts of its own.

    It takes root to choose an account, and a checkout that other accounts can read.
    """
    user = account("esp-auth")
    return user is not None and may(user, sys.executable, "-c", "import esp_common")


def own_account(name: str) -> str | None:
    """Return the account `name` for a program of this checkout; None where all of them run as one."""
    return account(name) if separate_accounts() else None


def may(user: str, *argv: str) -> bool:
    """Return whether `argv` succeeds when run by `user`."""
    # Through a shell: setpriv itself would start a program with its own, higher rights to the path.
    command = Program("probe", ("sh", "-c", 'exec "$0" "$@"', *argv), Path("/"), user).command()
    return subprocess.run(command, cwd="/", capture_output=True, check=False).returncode == 0


def give(path: Path, user: str | None, mode: int) -> None:
    """Set mode and owner of `path`; the owner only where it can be chosen."""
    path.chmod(mode)
    if user:
        entry = pwd.getpwnam(user)
        os.chown(path, entry.pw_uid, entry.pw_gid)


def private_folder(path: Path, user: str | None) -> Path:
    """Make `path` a folder only `user` can enter; what is in it follows when it had another owner."""
    path.mkdir(parents=True, exist_ok=True)
    before = path.stat().st_uid
    give(path, user, 0o700)
    if path.stat().st_uid != before:
        _give_contents(path)
    return path


def share_folder(path: Path, user: str | None, reader: str | None) -> None:
    """Let `user` write into `path`, and give what is made there the group of `reader`, who may enter it."""
    give(path, user, 0o2750)
    if reader:
        os.chown(path, -1, pwd.getpwnam(reader).pw_gid)
        path.chmod(0o2750)


def _give_contents(folder: Path) -> None:
    """Give everything in `folder` its owner and group; symbolic links are not followed."""
    owner = folder.stat()
    for parent, folders, files in os.walk(folder):
        for name in (*folders, *files):
            os.chown(Path(parent, name), owner.st_uid, owner.st_gid, follow_symlinks=False)


def private_file(path: Path, text: str, user: str | None) -> Path:
    """Write `text` where only `user` can read it: at no moment half written or readable by another."""
    new = path.with_name(f".{path.name}.new")
    new.unlink(missing_ok=True)
    new.touch(0o600)
    new.write_text(text)
    give(new, user, 0o600)
    return new.replace(path)


def executable(name: str, *folders: str) -> str:
    """Return the path of a program, looked for in `folders` first."""
    path = os.pathsep.join([*folders, BASE_ENVIRONMENT["PATH"], os.environ.get("PATH", "")])
    found = shutil.which(name, path=path)
    if not found:
        raise StackError(f"{name} is not installed — run `make up` as root once to install missing packages")
    return found


def is_free(port: int) -> bool:
    """Return whether a server could listen on `port` of the loopback address."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def free_port() -> int:
    """Return a loopback port nobody listens on; at random, so that parallel runs do not meet."""
    while not is_free(port := random.choice(PORTS)):  # noqa: S311 - no secret
        pass
    return port


def first_free_port(preferred: int, taken: Iterable[int]) -> int:
    """Return `preferred`, or the next port after it that is free and not in `taken`."""
    candidates = range(preferred, PORTS.stop)
    return next(port for port in candidates if port not in set(taken) and is_free(port))


def wait_for(check: Callable[[], object], what: str, timeout_s: float, pause_s: float = 0.05) -> None:
    """Call `check` until it does not raise.

    Raises `StackError` naming `what` and the last failure after `timeout_s` seconds.
    """
    deadline = monotonic() + timeout_s
    while True:
        try:
            check()
        except StackError:
            raise
        except Exception as failure:
            if monotonic() > deadline:
                raise StackError(f"{what} is not ready after {timeout_s:.0f} s: {failure}") from failure
            sleep(pause_s)
        else:
            return
