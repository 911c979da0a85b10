"""A restored cluster, started beside everything else: no network, no jobs, nobody but its own account."""

import asyncio
import os
import shutil
import signal
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final

import asyncpg
from esp_common.database import OUTAGES
from esp_common.errors import EspError

from esp_backup.programs import Account, run, start
from esp_backup.settings import BackupSettings
from esp_backup.store.cluster import Cluster

PORT: Final = 5432
"""Of the socket in the instance's own folder: nothing listens on the network."""

STOP_S: Final = 60.0
_POLL_S: Final = 0.1
_LOG_LINES: Final = 5
_CONFIGURATION: Final = """\
data_directory = '{data}'
hba_file = '{home}/pg_hba.conf'
ident_file = '{home}/pg_ident.conf'
external_pid_file = '{home}/pid'
listen_addresses = ''
unix_socket_directories = '{home}'
port = {port}
timezone = 'UTC'
shared_buffers = '128MB'
max_connections = 50
max_worker_processes = 16
max_locks_per_transaction = 1024
hot_standby = off
shared_preload_libraries = '{libraries}'
timescaledb.max_background_workers = 0
timescaledb.telemetry_level = 'off'
"""
# Without a command WAL waits in the folder for the archive command of the configuration it is started with
# later. A command that fails would be tried again three times at shutdown.
_ARCHIVES_LATER: Final = "archive_mode = on\narchive_command = ''\n"
_NEVER_ARCHIVES: Final = "archive_mode = off\n"


class RecoveryFailed(EspError):
    """A restored instance did not come up; the message has the end of its log."""

    code, title = "recovery-failed", "Recovery failed"


class Instance:
    """A cluster in `data`, run from the folder `home` as `account`.

    `to_keep`: it is to become the platform's database; else it is looked at and thrown away.
    """

    def __init__(
        self, settings: BackupSettings, account: Account, home: Path, data: Path, *, to_keep: bool
    ) -> None:
        self._settings = settings
        self._account = account
        self._home = home
        self._to_keep = to_keep
        self.data = data

    @property
    def log(self) -> Path:
        """The instance's log."""
        return self._home / "postgres.log"

    def cluster(self, database: str) -> Cluster:
        """Return one of its databases, as its superuser sees it."""
        return Cluster(f"postgresql://postgres@/{database}?host={self._home}&port={PORT}")

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Recover and run while inside, then shut down in order.

        Raises RecoveryFailed when it ends or takes longer than the settings allow.
        """
        self._configure()
        log = self.log
        with log.open("ab") as output:
            argv = [str(self._settings.postgres_bin / "postgres"), "-D", str(self.data)]
            argv += ["-c", f"config_file={self._home}/postgresql.conf"]
            process = await start(
                argv, self._account, output=output, errors=subprocess.STDOUT, death_signal="INT"
            )
        try:
            await self._recovered(process, log)
            yield
        finally:
            await _stop(process)

    async def checksums(self) -> None:
        """Read every page of the instance, which must not run; raise ProgramFailed when one is damaged."""
        argv = [str(self._settings.postgres_bin / "pg_checksums"), "--check", "-D", str(self.data)]
        await run(argv, self._account)

    def _configure(self) -> None:
        self._account.folder(self._home)
        # Some of the instance's functions are in this library: a database of it does not open without.
        directory = subprocess.run(
            [str(self._settings.postgres_bin / "pg_config"), "--pkglibdir"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        has_timescale = (Path(directory) / "timescaledb.so").exists()
        text = _CONFIGURATION.format(
            data=self.data, home=self._home, port=PORT, libraries="timescaledb" if has_timescale else ""
        )
        self._account.write(
            self._home / "postgresql.conf", text + (_ARCHIVES_LATER if self._to_keep else _NEVER_ARCHIVES)
        )
        # The folder of the socket is closed to everybody else.
        self._account.write(self._home / "pg_hba.conf", "local all all trust\n")
        self._account.write(self._home / "pg_ident.conf", "")

    async def _recovered(self, process: asyncio.subprocess.Process, log: Path) -> None:
        postgres = self.cluster("postgres")
        try:
            async with asyncio.timeout(self._settings.recovery_timeout_s):
                while process.returncode is None:
                    with suppress(*OUTAGES, asyncpg.PostgresError):
                        if await postgres.ready():
                            return
                    await asyncio.sleep(_POLL_S)
        except TimeoutError:
            raise RecoveryFailed(
                f"the instance in {self.data} has not recovered: {_tail(log)}",
                fix="raise ESP_BACKUP_RECOVERY_TIMEOUT_S if it only needs longer",
            ) from None
        raise RecoveryFailed(f"the instance in {self.data} ended: {_tail(log)}")


async def clear(home: Path) -> None:
    """Remove a scratch folder; an instance in it that a killed process left running is ended first."""
    await asyncio.to_thread(_clear, home)


def _clear(home: Path) -> None:
    with suppress(OSError, ValueError):
        pid = int((home / "pid").read_text().split()[0])
        process = Path(f"/proc/{pid}")
        if str(home) in (process / "cmdline").read_text():
            os.kill(pid, signal.SIGQUIT)
            deadline = time.monotonic() + STOP_S
            while process.exists() and time.monotonic() < deadline:
                time.sleep(_POLL_S)
    shutil.rmtree(home, ignore_errors=True)


async def _stop(process: asyncio.subprocess.Process) -> None:
    if process.returncode is not None:
        return
    process.send_signal(signal.SIGINT)
    try:
        async with asyncio.timeout(STOP_S):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()


def _tail(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    said = [line for line in lines if "FATAL" in line or "ERROR" in line or "PANIC" in line]
    return "; ".join((said or lines)[-_LOG_LINES:])
