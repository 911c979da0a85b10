"""Watching how far the archive of the log has come: what a loss of everything now would cost."""

from datetime import UTC, datetime
from typing import Final

import structlog
from esp_common.database import Pool
from prometheus_client import Gauge

from esp_backup.domain.wal import Beat, Coverage, position, segment_end
from esp_backup.jobs import SUCCEEDED, note_drill, tell_archiving
from esp_backup.settings import BackupSettings
from esp_backup.store import catalogue, jobs
from esp_backup.store.cluster import Cluster

log = structlog.get_logger()

_RPO: Final = Gauge(
    "esp_backup_rpo_seconds", "Seconds of committed changes that a loss of the cluster would cost now."
)
_WAITING: Final = Gauge("esp_backup_wal_waiting_segments", "Segments of the log that wait for the archive.")
_COVERED: Final = Gauge(
    "esp_backup_wal_covered_timestamp_seconds", "Newest moment that the archive covers, epoch seconds."
)


class Watch:
    """Writes a heartbeat and looks which of those before are in the archive.

    The archive's age would say nothing: a cluster at rest has nothing to archive. Each heartbeat is a change,
    so that the newest one that is archived is a moment the database can be put back to.
    """

    def __init__(self, settings: BackupSettings, pool: Pool) -> None:
        self._settings = settings
        self._pool = pool
        self._cluster = Cluster(settings.cluster_url)
        self._coverage = Coverage()
        self._since = datetime.now(UTC)
        self._behind: bool | None = None

    async def look(self) -> None:
        """Write a heartbeat, note and show how far the archive is, and tell when it falls behind."""
        at = await catalogue.beat(self._pool)
        archiver = await self._cluster.archiver()
        end = segment_end(archiver.newest_segment or "", archiver.segment_bytes)
        known = await catalogue.archiving(self._pool)
        if self._behind is None:
            self._behind = known.behind if known else False
        # Before anything is covered, the time since this began to look is all that can be said.
        covered = self._coverage.archived(end or 0) or (known.covered_until if known else None)
        self._coverage.beat(Beat(position(archiver.position), at))
        rpo_s = (at - (covered or self._since)).total_seconds()
        behind = rpo_s > self._settings.rpo_limit_s
        async with self._pool.acquire() as connection, connection.transaction():
            await catalogue.note_archiving(
                connection, covered, archiver.newest_segment, archiver.waiting_segments, behind=behind
            )
            if behind != self._behind:
                data = {"rpo_s": rpo_s, "waiting_segments": archiver.waiting_segments}
                await tell_archiving(connection, behind=behind, data=data)
        if behind != self._behind:
            (log.error if behind else log.info)("backup.archive", behind=behind, rpo_s=rpo_s)
        self._behind = behind
        self._show(rpo_s, covered, archiver.waiting_segments)

    async def recall(self) -> None:
        """Show what the catalogue knows from before this process began."""
        for kind, history in (await jobs.history(self._pool)).items():
            if history.last_good:
                SUCCEEDED.labels(kind).set(history.last_good.timestamp())
        for drill in await jobs.page(self._pool, "drill", "completed", None, 1):
            note_drill(drill["result"])

    def _show(self, rpo_s: float, covered: datetime | None, waiting: int) -> None:
        _RPO.set(rpo_s)
        _WAITING.set(waiting)
        if covered:
            _COVERED.set(covered.timestamp())
