"""The worker: does what is due or asked for, each kind of work beside the others, and watches the archive."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Final

import asyncpg
import structlog
from esp_common.database import OUTAGES, Pool
from esp_common.errors import Conflict, EspError

from esp_backup.domain.modes import PROMISES, Mode
from esp_backup.domain.schedule import is_due
from esp_backup.jobs import SCHEDULE, Jobs
from esp_backup.settings import BackupSettings
from esp_backup.store import jobs as store
from esp_backup.store.jobs import History
from esp_backup.watch import Watch
from esp_backup.work import Work

log = structlog.get_logger()

NEED_FULL: Final = ("diff", "incr", "verify", "drill")
COVERED_BY: Final = {"diff": ("full",), "incr": ("full", "diff")}
"""Kinds of backup that serve as another kind as well: no incremental one is due right after a full one."""


class Worker:
    """The parts of the role; each goes on whatever becomes of the others."""

    def __init__(self, settings: BackupSettings, pool: Pool, work: Work) -> None:
        self._settings = settings
        self._pool = pool
        self._work = work
        self._jobs = Jobs(pool, work)
        self._watch = Watch(settings, pool)

    async def run(self) -> None:
        """Work until cancelled; what is under way then counts as failed, and is done again by the next."""
        await self._prepare()
        mode = self._settings.mode
        async with asyncio.TaskGroup() as group:
            if mode is not Mode.MANAGED:
                group.create_task(self._every(self._settings.heartbeat_s, self._watch.look, "archive"))
            for kind in PROMISES[mode].kinds:
                group.create_task(self._every(self._settings.poll_s, partial(self._attend, kind), kind))

    async def _prepare(self) -> None:
        """Write pgBackRest's configuration, which local archiving needs, and look at the storage."""
        steps = [self._watch.recall, self._work.rebuild, self._work.protect]
        self._work.repository.configure()
        if self._settings.mode is Mode.LOCAL:
            steps.insert(1, self._work.repository.ensure)
        for step in steps:
            await self._try(step, "start")

    async def _attend(self, kind: str) -> None:
        """Do work of a kind if it is asked for or due."""
        known = await store.history(self._pool)
        history = known.get(kind, History())
        schedule = self._settings.schedules.get(kind)
        good = [known.get(each, History()).last_good for each in (kind, *COVERED_BY.get(kind, ()))]
        due = schedule is not None and is_due(
            schedule,
            datetime.now(UTC),
            last_good=max((at for at in good if at), default=None),
            last_try=history.last_try,
            retry=timedelta(seconds=self._settings.retry_s),
        )
        # Before this service's first full backup there is nothing to read again or to restore.
        needs_full = kind in NEED_FULL and self._settings.mode is Mode.LOCAL
        possible = not needs_full or known.get("full", History()).last_good is not None
        if (due and possible) or history.requested:
            await self._jobs.run(kind, SCHEDULE)

    async def _every(self, period_s: float, act: Callable[[], Awaitable[object]], name: str) -> None:
        while True:
            await self._try(act, name)
            await asyncio.sleep(period_s)

    async def _try(self, act: Callable[[], Awaitable[object]], name: str) -> None:
        try:
            await act()
        except Conflict:
            # Another worker, or a person, does it.
            return
        except (*OUTAGES, asyncpg.PostgresError, EspError) as error:
            log.warning("backup.delayed", what=name, reason=str(error) or type(error).__name__)
