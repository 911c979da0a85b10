"""External programs, run as the account that owns the cluster's files."""

import asyncio
import os
import pwd
import signal
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

from esp_common.errors import EspError
from psycopg.conninfo import conninfo_to_dict

PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
MOST_SAID: Final = 600
MESSAGES_KEPT: Final = 20
_VARIABLES: Final = {
    "host": "PGHOST",
    "port": "PGPORT",
    "user": "PGUSER",
    "password": "PGPASSWORD",
    "dbname": "PGDATABASE",
    "sslmode": "PGSSLMODE",
    "sslrootcert": "PGSSLROOTCERT",
    "target_session_attrs": "PGTARGETSESSIONATTRS",
}


class ProgramFailed(EspError):
    """A program ended with an error: its exit `status` and, in the message, the end of what it said."""

    code, title = "program-failed", "Program failed"

    def __init__(self, program: str, exit_status: int, said: str) -> None:
        super().__init__(f"{program} ended with {exit_status}: {said}")
        self.exit_status = exit_status


_BEGIN: Final = '[ "$PPID" = "$0" ] || exit 1; umask 077; exec "$@"'
"""What a program makes is for its account alone. (uvloop has no `umask` of its own.) It does not begin when
the process that wanted it was killed before the signal of that was asked for: it would stay for ever."""


@dataclass(frozen=True, slots=True)
class Account:
    """Who runs programs: `uid` is None for whoever runs this process."""

    uid: int | None
    gid: int | None

    @classmethod
    def owner_of(cls, folder: Path) -> "Account":
        """Return the owner of `folder` if this process may become that account, else this process's own."""
        status = folder.stat()
        if os.geteuid() != 0 or status.st_uid == 0:
            return cls(None, None)
        return cls(status.st_uid, status.st_gid)

    def command(self, argv: Sequence[str], death_signal: str = "KILL") -> list[str]:
        """Return what runs `argv` as this account, and ends it when this process ends."""
        drop = []
        if self.uid is not None:
            drop = ["--reuid", str(self.uid), "--regid", str(self.gid), "--clear-groups"]
        begin = ["setpriv", "--pdeathsig", "KILL", "--", "sh", "-c", _BEGIN, str(os.getpid())]
        # Becoming another account ends the first signal; the program itself may want a gentler one.
        return [*begin, "setpriv", "--pdeathsig", death_signal, *drop, "--", *argv]

    def folder(self, path: Path) -> Path:
        """Make `path`, and what lacks above it, folders that only this account can enter."""
        if not path.exists():
            self.folder(path.parent)
            path.mkdir(mode=0o700)
            self.own(path)
        return path

    def write(self, path: Path, text: str) -> None:
        """Write a file that only this account can read, whole or not at all."""
        new = path.with_name(f".{path.name}.new")
        new.unlink(missing_ok=True)
        new.touch(0o600)
        new.write_text(text, encoding="utf-8")
        self.own(new)
        new.replace(path)

    def own(self, path: Path) -> None:
        """Give `path` to this account."""
        if self.uid is not None and self.gid is not None:
            os.chown(path, self.uid, self.gid)

    @property
    def home(self) -> str:
        """The account's home folder; of an account without a passwd entry, that of this process."""
        try:
            return pwd.getpwuid(os.geteuid() if self.uid is None else self.uid).pw_dir
        except KeyError:
            return os.environ.get("HOME", "/")


async def run(
    argv: Sequence[str],
    account: Account,
    *,
    environment: Mapping[str, str] | None = None,
    output: IO[bytes] | None = None,
    on_message: Callable[[str], None] | None = None,
) -> str:
    """Run a program to its end and return what it printed (nothing when that goes to the file `output`).

    `on_message` gets each line of its standard error as it comes.
    Raises ProgramFailed unless it ends with status 0. Cancelled, it ends the program first.
    """
    process = await start(argv, account, environment=environment, output=output or asyncio.subprocess.PIPE)
    try:
        if on_message:
            said, complained = await _follow(process, on_message)
        else:
            said, complained = await process.communicate()
    except asyncio.CancelledError:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
        raise
    text = (said or b"").decode(errors="replace")
    if process.returncode:
        reason = (complained.decode(errors="replace").strip() or text.strip())[-MOST_SAID:]
        raise ProgramFailed(Path(argv[0]).name, process.returncode, reason)
    return text


async def _follow(
    process: asyncio.subprocess.Process, on_message: Callable[[str], None]
) -> tuple[bytes, bytes]:
    """Hand on each line of standard error; return standard output and the last of those lines."""

    async def read_messages(stream: asyncio.StreamReader) -> bytes:
        last: deque[bytes] = deque(maxlen=MESSAGES_KEPT)
        async for line in stream:
            on_message(line.decode(errors="replace").rstrip())
            last.append(line)
        return b"".join(last)

    async def read_output(stream: asyncio.StreamReader | None) -> bytes:
        return await stream.read() if stream else b""

    assert process.stderr is not None  # noqa: S101 - a pipe by `start`
    said, complained = await asyncio.gather(read_output(process.stdout), read_messages(process.stderr))
    await process.wait()
    return said, complained


async def start(
    argv: Sequence[str],
    account: Account,
    *,
    environment: Mapping[str, str] | None = None,
    output: Any = asyncio.subprocess.DEVNULL,
    errors: Any = asyncio.subprocess.PIPE,
    death_signal: str = "KILL",
) -> asyncio.subprocess.Process:
    """Start a program in a session of its own, with nothing of this process's environment."""
    return await asyncio.create_subprocess_exec(
        *account.command(argv, death_signal),
        cwd="/",
        env={"PATH": PATH, "LANG": "C.UTF-8", "HOME": account.home, **(environment or {})},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=output,
        stderr=errors,
        start_new_session=True,
    )


def libpq_environment(url: str, database: str | None = None) -> dict[str, str]:
    """Return `url` as variables of PostgreSQL's programs: no password stands in a process list."""
    given = conninfo_to_dict(url)
    if database:
        given["dbname"] = database
    return {_VARIABLES[name]: str(value) for name, value in given.items() if name in _VARIABLES}
