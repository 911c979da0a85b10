"""PostgreSQL: a private cluster, with TimescaleDB's community edition where it is installed."""

import os
import subprocess
from collections.abc import Callable, Mapping, Sequence
from getpass import getuser
from pathlib import Path
from secrets import token_urlsafe

import psycopg
from esp_platform.databases import ROLES, ensure_database, ensure_roles

from esp_stack.certificates import Tls
from esp_stack.programs import (
    Program,
    StackError,
    account,
    free_port,
    private_file,
    private_folder,
)
from esp_stack.servers.server import Server

ENGINE_VARIABLE = "ESP_STACK_ENGINE"
INSTALLATIONS = Path("/usr/lib/postgresql")

SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": "200",
    "max_worker_processes": "40",
    "shared_buffers": "256MB",
    "max_wal_size": "4GB",
    "wal_compression": "on",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_min_duration_statement": "5s",
    # A statement may carry a reading or a key: the log names the error, not what was being said.
    "log_min_error_statement": "panic",
    "log_parameter_max_length": "0",
}
TIMESCALE_SETTINGS = {
    "shared_preload_libraries": "timescaledb",
    "timescaledb.license": "timescale",
    "timescaledb.telemetry_level": "off",
    "timescaledb.max_background_workers": "24",
}
TLS_SETTINGS = {
    "ssl": "on",
    "ssl_cert_file": "{tls.server}",
    "ssl_key_file": "{tls.server}",
    "ssl_min_protocol_version": "TLSv1.3",
}
ACCESS = """\
{kind} all all 127.0.0.1/32 scram-sha-256
{kind} replication all 127.0.0.1/32 scram-sha-256
"""
ARCHIVING_SETTINGS = {
    "archive_mode": "on",
    # What a crash of the machine can cost: a segment goes to the archive at least this often.
    "archive_timeout": "60s",
    "unix_socket_directories": "{socket}",
}
LOCAL_ACCESS = "local all postgres peer map=cluster\n"
LOCAL_ACCOUNTS = "cluster {account} postgres\ncluster root postgres\n"
THROWAWAY_SETTINGS = {"fsync": "off", "full_page_writes": "off"}


def newest_installation() -> Path:
    """Return the folder of the newest PostgreSQL that is installed, `/usr/lib/postgresql/17` for instance."""
    found = [program.parent.parent for program in INSTALLATIONS.glob("[0-9]*/bin/postgres")]
    if not found:
        raise StackError(
            "PostgreSQL is not installed — run `make up` as root once to install missing packages"
        )
    return max(found, key=lambda folder: int(folder.name))


def has_timescale() -> bool:
    """Return whether to use TimescaleDB: its TSL (community) part is installed and not switched off.

    `ESP_STACK_ENGINE=postgres` switches it off: everything then runs as on a server that lacks it.
    """
    if os.environ.get(ENGINE_VARIABLE) == "postgres":
        return False
    library = newest_installation() / "lib"
    return any(library.glob("timescaledb-tsl-*.so")) and (library / "timescaledb.so").exists()


class Postgres(Server):
    """One cluster with the platform's roles, reached over TCP with SCRAM passwords.

    `passwords`: of the superuser `postgres` and every role of `databases.ROLES`; random ones if not given.
    `tls`: over TLS only, and its URLs say that the server is to be verified.
    `archiving`: archives its WAL by this command (`%p`: the segment's path), and takes the account it runs
    as for the superuser over a socket in `socket`, as backup tools want it.
    `throwaway`: for tests, survives a killed server but not a killed machine.
    """

    name = "postgres"
    data_remedy = "restore the database: docs/runbooks/restore.md"

    def __init__(
        self,
        home: Path,
        *,
        port: int | None = None,
        passwords: Mapping[str, str] | None = None,
        settings: Mapping[str, str] | None = None,
        tls: Tls | None = None,
        archiving: str | None = None,
        throwaway: bool = False,
    ) -> None:
        super().__init__(home, account("postgres"))
        self.port = port or free_port()
        self.passwords = passwords or {name: token_urlsafe(24) for name in ("postgres", *ROLES)}
        self.data = home / "data"
        self.socket = home / "socket"
        self.tls = tls
        self.archiving = archiving
        self.throwaway = throwaway
        self._settings = dict(settings or {})

    @property
    def has_timescale(self) -> bool:
        """Whether the cluster uses TimescaleDB: decided when it is created, and kept from then on."""
        configuration = self.data / "postgresql.conf"
        if configuration.exists():
            return "timescaledb.license" in configuration.read_text()
        return has_timescale()

    @property
    def binaries(self) -> Path:
        """Folder of PostgreSQL's programs: of the version that created the cluster, else of the newest."""
        created_by = self.data / "PG_VERSION"
        version = created_by.read_text().strip() if created_by.exists() else ""
        if not version.isdecimal():  # no cluster yet, or a damaged one, which PostgreSQL itself reports best
            return newest_installation() / "bin"
        folder = INSTALLATIONS / version / "bin"
        if not (folder / "postgres").exists():
            raise StackError(
                f"{self.data} was created by PostgreSQL {version}, which is not installed"
                f" — install postgresql-{version}, or upgrade the cluster with pg_upgrade"
            )
        return folder

    @property
    def admin_url(self) -> str:
        """Superuser's URL of the maintenance database."""
        return self.url("postgres", "postgres")

    def url(self, role: str, database: str) -> str:
        """Return the URL of `database` for one of the roles."""
        return self.address(database, login=f"{role}:{self.passwords[role]}@")

    def address(self, database: str, *, login: str = "") -> str:
        """Return the URL of `database`, without credentials unless `login` has some."""
        query = f"?sslmode=verify-full&sslrootcert={self.tls.authority}" if self.tls else ""
        return f"postgresql://{login}127.0.0.1:{self.port}/{database}{query}"

    def socket_url(self, database: str) -> str:
        """Return the superuser's URL of `database` over the socket of a cluster that is `archiving`."""
        return f"postgresql://postgres@/{database}?host={self.socket}&port={self.port}"

    def programs(self) -> Sequence[Program]:
        """Return the postmaster: stopped, it shuts down fast; when we die, at once, as after a crash.

        By then what it archives to may be gone, for which a fast shutdown would wait.
        """
        argv = (str(self.binaries / "postgres"), "-D", str(self.data))
        return [Program(self.name, argv, self.home, self.user, stop_signal="INT", death_signal="QUIT")]

    def configure(self) -> None:
        """Create the cluster the first time and write postgresql.conf."""
        timescale = self.has_timescale
        if not (self.data / "PG_VERSION").exists():
            self._initdb()
        settings = {"port": str(self.port), **SETTINGS, **self._archiving_settings(), **self._settings}
        if timescale:
            settings |= TIMESCALE_SETTINGS
        if self.throwaway:
            settings |= THROWAWAY_SETTINGS
        if self.tls:
            settings |= {name: value.format(tls=self.tls) for name, value in TLS_SETTINGS.items()}
        access = ACCESS.format(kind="hostssl" if self.tls else "host")
        if self.archiving:
            private_folder(self.socket, self.user)
            access += LOCAL_ACCESS
            own = LOCAL_ACCOUNTS.format(account=self.user or getuser())
            private_file(self.data / "pg_ident.conf", own, self.user)
        private_file(self.data / "pg_hba.conf", access, self.user)
        text = "".join(f"{name} = '{value}'\n" for name, value in settings.items())
        private_file(self.data / "postgresql.conf", text, self.user)

    def check(self) -> None:
        """Raise unless the server takes a connection."""
        psycopg.connect(self.admin_url, connect_timeout=2).close()

    def wait_ready(self, check_alive: Callable[[], None] | None = None) -> None:
        """Wait for connections, then make sure the roles are there."""
        super().wait_ready(check_alive)
        ensure_roles(self.admin_url, {role: self.passwords[role] for role in ROLES})

    def ensure_database(self, name: str, *, timescale: bool) -> None:
        """Create database `name`, with the extension if `timescale`."""
        ensure_database(self.admin_url, name, timescale=timescale)

    def _archiving_settings(self) -> dict[str, str]:
        if not self.archiving:
            return {}
        settings = {name: value.format(socket=self.socket) for name, value in ARCHIVING_SETTINGS.items()}
        return settings | {"archive_command": self.archiving}

    def _initdb(self) -> None:
        password = private_file(self.home / "initdb-password", self.passwords["postgres"], self.user)
        options = ["--username=postgres", "--auth=scram-sha-256", "--encoding=UTF8", "--locale=C.UTF-8"]
        options += ["--data-checksums", f"--pwfile={password}", *(["--no-sync"] if self.throwaway else [])]
        argv = (str(self.binaries / "initdb"), "-D", str(self.data), *options)
        program = Program("initdb", argv, self.home, self.user)
        done = subprocess.run(
            program.command(),
            cwd=self.home,
            env=program.full_environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        password.unlink()
        if done.returncode:
            raise StackError(f"initdb in {self.data} failed: {done.stderr.strip()}")
