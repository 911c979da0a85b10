"""A platform's database that is backed up: cluster with archiving, blob storage over https, catalogue."""

import asyncio
import base64
import ipaddress
import os
import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import orjson
import pytest
from certificate_extensions import rfc_5280_extensions
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from engines import engines
from esp_auth.domain.records import record_of
from esp_auth.domain.secrets import AUDIT_CHAIN, decode_master_key, derive
from esp_auth.store.audit import AuditStore
from esp_auth.store.migrations import migrate as migrate_auth
from esp_backup.app import WORKER_CONNECTIONS
from esp_backup.blobs import Blobs
from esp_backup.programs import Account
from esp_backup.repository import Repository
from esp_backup.settings import BackupSettings
from esp_backup.store.migrations import migrate as migrate_backup
from esp_backup.work import Work
from esp_common.database import Pool, create_pool
from esp_ingest.store.migrations import migrate as migrate_ingest
from esp_stack.certificates import Tls
from esp_stack.programs import private_file, private_folder
from esp_stack.servers import Azurite, Postgres
from esp_stack.servers.postgres import ENGINE_VARIABLE

DATABASE = "esp"
PUMPS = 4
DAYS = 3
STEP_S = 60
ONE_ENGINE = pytest.mark.parametrize("engine", engines()[-1:], indirect=True, scope="module")
"""For tests whose site is made for an `engine`, but which do not depend on it."""
_PEM = serialization.Encoding.PEM


def localhost_certificate(folder: Path, account: str | None) -> Tls:
    """Make a certificate of `localhost` that is its own authority."""
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    builder = (
        x509.CertificateBuilder(
            name,
            name,
            key.public_key(),
            x509.random_serial_number(),
            now - timedelta(hours=1),
            now + timedelta(days=1),
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
    )
    for extension, critical in rfc_5280_extensions(key.public_key(), key.public_key(), is_authority=True):
        builder = builder.add_extension(extension, critical=critical)
    certificate = builder.sign(key, hashes.SHA256())
    public = certificate.public_bytes(_PEM)
    secret = key.private_bytes(_PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    authority = folder / "blob-authority.pem"
    authority.write_bytes(public)
    authority.chmod(0o644)
    return Tls(private_file(folder / "blob.pem", (public + secret).decode(), account), authority)


@dataclass
class Site:
    """One cluster and its backups; `pool` is the catalogue's, `work` what the service does."""

    postgres: Postgres
    azurite: Azurite
    settings: BackupSettings
    pool: Pool
    work: Work
    master_key: str
    engine: str

    @property
    def admin_url(self) -> str:
        """Superuser's URL of the database."""
        return self.postgres.url("postgres", DATABASE)

    @property
    def repository(self) -> Repository:
        """The cluster's repositories."""
        return self.work.repository

    async def rows(self, query: str, *arguments: Any, url: str | None = None) -> list[asyncpg.Record]:
        """Ask the database as its administrator."""
        connection = await asyncpg.connect(url or self.admin_url)
        try:
            return await connection.fetch(query, *arguments)
        finally:
            await connection.close()

    async def events(self) -> list[tuple[str, dict[str, Any]]]:
        """Return the types and data of the events that wait to be published, in their order."""
        rows = await self.rows(
            "SELECT routing_key, convert_from(body, 'UTF8')::jsonb AS data FROM backup.outbox"
            " WHERE exchange = 'esp.events' ORDER BY id"
        )
        return [(row["routing_key"], orjson.loads(row["data"])) for row in rows]

    async def failures(self) -> list[str]:
        """Return the kinds of the events of failure that wait to be published, and forget all events."""
        kinds = [data["kind"] for type_, data in await self.events() if type_.endswith("failed")]
        await self.rows("DELETE FROM backup.outbox")
        return kinds

    async def fill(self) -> None:
        """Store a small field's readings and some audit records."""
        series = "FROM generate_series(1, $1) AS n"
        await self.rows("INSERT INTO ingest.fields VALUES ('north', 'North')")
        await self.rows(f"INSERT INTO ingest.wells SELECT 'W-' || n, 'north', 'Well' {series}", PUMPS)
        await self.rows(
            f"INSERT INTO ingest.pumps (pump_id, well_id) SELECT 'P-' || n, 'W-' || n {series}", PUMPS
        )
        await self._make_partitions()
        await self.rows(
            "INSERT INTO ingest.telemetry (pump_no, time, intake_pressure_psi, running)"
            " SELECT p.pump_no, t, 20000 + p.pump_no, true FROM ingest.pumps p, generate_series("
            "date_trunc('day', now(), 'UTC') - $1 * interval '1 day', now(), $2 * interval '1 second') t",
            DAYS,
            STEP_S,
        )
        await self._make_rollups()
        await self.audit(50)

    async def _make_partitions(self) -> None:
        """Make the daily partitions of the filled span, which plain PostgreSQL needs before the rows."""
        if self.engine == "postgres":
            await self.rows(
                "SELECT ingest.ensure_partitions(array_agg((now() AT TIME ZONE 'UTC')::date - n))"
                " FROM generate_series(0, $1) AS n",
                DAYS,
            )

    async def _make_rollups(self) -> None:
        """Fill the rollup tables, which plain PostgreSQL has no background jobs for."""
        if self.engine == "postgres":
            for grain in ("1min", "1hour", "1day"):
                await self.rows(
                    f"SELECT ingest.refresh_{grain}("
                    "(SELECT array_agg(pump_no) FROM ingest.pumps), date_trunc('day', now(), 'UTC')"
                    " - $1 * interval '1 day', now())",
                    DAYS,
                )

    async def audit(self, count: int) -> None:
        """Append audit records, sealed as auth seals them."""
        async with asyncpg.create_pool(self.postgres.url("esp_auth", DATABASE), min_size=1) as pool:
            key = derive(decode_master_key(self.master_key), AUDIT_CHAIN)
            await AuditStore(pool, key).append([_record(number) for number in range(count)])

    def environment(self, **settings: object) -> dict[str, str]:
        """Return the variables with which `esp-backup` runs on this site."""
        values = self.settings.model_dump(exclude_defaults=True) | settings
        return {"PATH": os.environ["PATH"], "HOME": "/tmp"} | {
            f"ESP_BACKUP_{name}".upper(): _text(value) for name, value in values.items()
        }

    @staticmethod
    def argv(*arguments: str) -> list[str]:
        """Return an `esp-backup` command."""
        return [str(Path(sys.executable).with_name("esp-backup")), *arguments]

    async def command(self, *arguments: str, **settings: object) -> asyncio.subprocess.Process:
        """Start an `esp-backup` command."""
        return await asyncio.create_subprocess_exec(
            *self.argv(*arguments),
            env=self.environment(**settings),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )

    async def run(self, *arguments: str, **settings: object) -> tuple[int, str, str]:
        """Run an `esp-backup` command; return its status, output and errors."""
        process = await self.command(*arguments, **settings)
        output, errors = await process.communicate()
        return process.returncode or 0, output.decode(), errors.decode()

    def changed(self, **settings: object) -> Work:
        """Return the work under other settings."""
        return Work.of(self.settings.model_copy(update=settings), self.pool)


def _text(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _record(number: int) -> Any:
    return record_of(
        {
            "id": str(uuid4()),
            "time": datetime.now(UTC).isoformat(),
            "service": "ingest",
            "actor_id": "gw-01",
            "actor_kind": "key",
            "action": "GET /api/v1/pumps/{id}",
            "object": f"/api/v1/pumps/P-{number}",
            "outcome": "success",
            "status": 200,
            "source_address": "10.0.0.1",
            "trace_id": None,
            "count": 1,
            "detail": {},
        }
    )


def settings_of(postgres: Postgres, azurite: Azurite, home: Path, **others: Any) -> BackupSettings:
    """Return the settings of a site in `home`."""
    return BackupSettings(
        database_url=postgres.url("esp_backup", DATABASE),
        cluster_url=f"postgresql://postgres@/{DATABASE}?host={postgres.socket}&port={postgres.port}",
        cluster_data=postgres.data,
        postgres_bin=postgres.binaries,
        state_folder=home / "state",
        snapshot_folder=home / "snapshots",
        snapshot_free_mib=1,
        local_repository=home / "repository",
        blob_connection_string=azurite.connection_string,
        blob_ca_file=azurite.tls.authority if azurite.tls else None,
        encryption_key=base64.b64encode(os.urandom(32)).decode(),
        io_timeout_s=2,
        part_retry_s=0,
        statement_timeout_s=60,
        **others,
    )


@asynccontextmanager
async def open_site(home: Path, engine: str | None = None, **others: Any) -> AsyncIterator[Site]:
    """Start a site in `home`: the cluster archives, and there is no backup yet.

    `engine`: the storage engine; None: TimescaleDB where it is installed. `others`: settings.
    """
    await asyncio.to_thread(home.mkdir, mode=0o755)
    state = home / "state"
    azurite = Azurite(home / "azurite")
    azurite.tls = localhost_certificate(home, azurite.user)
    command = f"pgbackrest --config={state}/pgbackrest.conf --stanza=esp archive-push %p"
    postgres = Postgres(
        home / "postgres", archiving=command, throwaway=True, settings={"archive_timeout": "5s"}
    )
    home_of_work = private_folder(home / "backup", postgres.user)
    azurite.start()
    with pytest.MonkeyPatch.context() as environment:
        # A cluster keeps the engine that it was created with.
        if engine == "postgres":
            environment.setenv(ENGINE_VARIABLE, "postgres")
        postgres.start()
    try:
        settings = settings_of(postgres, azurite, home_of_work, **others)
        settings = settings.model_copy(update={"state_folder": private_folder(state, postgres.user)})
        engine = "timescale" if postgres.has_timescale else "postgres"
        postgres.ensure_database(DATABASE, timescale=postgres.has_timescale)
        migrate_ingest(postgres.url("esp_ingest_owner", DATABASE), engine)
        migrate_auth(postgres.url("esp_auth_owner", DATABASE), engine)
        migrate_backup(postgres.url("esp_backup_owner", DATABASE))
        async with await create_pool(
            settings, role="esp-backup test", min_size=0, max_size=WORKER_CONNECTIONS
        ) as pool:
            work = Work(settings, pool, Account.owner_of(postgres.data))
            master_key = base64.b64encode(os.urandom(32)).decode()
            site = Site(postgres, azurite, settings, pool, work, master_key, engine)
            await site.fill()
            work.repository.configure()
            await ensure_storage(settings)
            await work.repository.ensure()
            yield site
    finally:
        postgres.kill()
        azurite.kill()
        shutil.rmtree(home, ignore_errors=True)


async def ensure_storage(settings: BackupSettings) -> None:
    """Make the container that the repository is in."""
    async with Blobs(settings) as blobs:
        await blobs.ensure()
