"""A cluster as its superuser sees it: the one that is backed up, or one that was restored."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, NamedTuple

import asyncpg
from esp_common.database import load_queries
from esp_common.errors import Unavailable

from esp_backup.domain.counts import Table

_QUERIES: Final = load_queries("esp_backup.store", "cluster.sql")
CONNECT_S: Final = 10
_POLL_S: Final = 0.1


class Identity(NamedTuple):
    """Which database this is; `timescale_version` is None on plain PostgreSQL."""

    database: str
    server_version: str
    timescale_version: str | None


class Archiver(NamedTuple):
    """Where the log stands, the newest segment that is archived, and how many wait for it."""

    position: str
    newest_segment: str | None
    waiting_segments: int
    segment_bytes: int


class AuditHead(NamedTuple):
    """Where the audit log ends."""

    seq: int
    hash: bytes


@dataclass(frozen=True, slots=True)
class Cluster:
    """One database of a cluster. Every question is a connection of its own: they are few and far between."""

    url: str

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[Any]:
        connection = await asyncpg.connect(
            self.url, timeout=CONNECT_S, server_settings={"application_name": "esp-backup"}
        )
        try:
            yield connection
        finally:
            await connection.close(timeout=CONNECT_S)

    async def identity(self) -> Identity:
        """Return which database this is."""
        async with self._connection() as connection:
            return Identity(*await connection.fetchrow(_QUERIES.identity))

    async def archiver(self) -> Archiver:
        """Return how far archiving is."""
        async with self._connection() as connection:
            return Archiver(*await connection.fetchrow(_QUERIES.archiver))

    async def ready(self) -> bool:
        """Return whether it takes connections and has recovered."""
        async with self._connection() as connection:
            return not await connection.fetchval(_QUERIES.in_recovery)

    async def restore_point(self, name: str) -> None:
        """Name this moment."""
        async with self._connection() as connection:
            await connection.fetchval(_QUERIES.restore_point, name)

    async def archive_now(self, timeout_s: float) -> None:
        """End the segment of the log that is being written and return when it is in the archive.

        Raises Unavailable when that takes too long.
        """
        async with self._connection() as connection:
            segment = await connection.fetchval(_QUERIES.switch)
            deadline = time.monotonic() + timeout_s
            while not await connection.fetchval(_QUERIES.is_archived, segment):
                if time.monotonic() > deadline:
                    raise Unavailable(
                        f"segment {segment} of the log is not archived after {timeout_s:g} s",
                        fix="see the cluster's log for what archive_command says",
                    )
                await asyncio.sleep(_POLL_S)

    async def count(self) -> dict[str, Table]:
        """Return the rows of every table and chunk; one that is dropped meanwhile is left out."""
        found = {}
        async with self._connection() as connection:
            for row in await connection.fetch(_QUERIES.tables):
                try:
                    rows = await connection.fetchval(f"SELECT count(*) FROM {row['name']}")  # noqa: S608 - from the catalogue
                except asyncpg.UndefinedTableError:
                    continue
                found[row["name"]] = Table(rows, row["deleted"])
        return found

    async def audit_head(self) -> AuditHead | None:
        """Return where the audit log ends; None where there is none."""
        async with self._connection() as connection:
            if not await connection.fetchval(_QUERIES.has_audit_log):
                return None
            row = await connection.fetchrow(_QUERIES.audit_head)
            return AuditHead(row["seq"], bytes(row["hash"])) if row else None

    async def audit_problem(self, noted: AuditHead) -> str | None:
        """Return what is wrong with the links of the audit log, which once ended with `noted`."""
        async with self._connection() as connection:
            if not await connection.fetchval(_QUERIES.has_audit_log):
                return "there is no audit log"
            links = await connection.fetchrow(_QUERIES.audit_links)
            has_noted = noted.seq == 0 or await connection.fetchval(_QUERIES.audit_has, *noted)
        if links is None:
            return "the audit log has no head"
        expected = links["head"] - (links["first"] or 1) + 1
        whole = (links["records"], links["numbers"], links["last"] or 0) == (
            expected,
            expected,
            links["head"],
        )
        if not whole:
            return f"{links['records']} records to number {links['last']}, not {expected} to {links['head']}"
        if links["head"] and not links["sealed"]:
            return f"record {links['head']} does not have the head's seal"
        return None if has_noted else f"record {noted.seq} is not the one it was"

    async def heartbeat(self) -> datetime | None:
        """Return the time of the newest heartbeat in it."""
        async with self._connection() as connection:
            at: datetime | None = await connection.fetchval(_QUERIES.heartbeat)
            return at

    async def log_segment(self) -> str:
        """Return the name of the log's segment that is being written."""
        async with self._connection() as connection:
            name: str = await connection.fetchval(_QUERIES.log_segment)
            return name

    async def has_mark(self, name: str) -> bool:
        """Return whether a mark is in it."""
        async with self._connection() as connection:
            found: bool = await connection.fetchval(_QUERIES.has_mark, name)
            return found

    async def size(self) -> int:
        """Return the bytes of all its databases."""
        async with self._connection() as connection:
            total: int = await connection.fetchval(_QUERIES.database_bytes)
            return total
