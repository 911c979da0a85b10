"""The spool: readings that the platform has not confirmed yet, in one SQLite file.

Appended readings are on disk before `append` returns: WAL with `synchronous=FULL`, since with NORMAL a power
failure may lose the last commits, whose readings were already accepted. Confirmed batches are deleted under
the same setting; losing such a delete only sends them again.
"""

import fcntl
import os
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import StrEnum
from importlib.resources import files
from pathlib import Path
from typing import IO, Final, NamedTuple

import structlog

from esp_gateway.encoding import Batch
from esp_gateway.errors import SpoolBusy, SpoolFull, SpoolUnusable

DEFAULT_MAX_BYTES: Final = 1 << 30

_APPLICATION_ID: Final = 0x45535053  # "ESPS": tells a spool from any other SQLite file
_BATCH_OVERHEAD: Final = 256  # ids, times, B-tree cells and page slack of one row
_WAL_LIMIT: Final = 64 << 20
_CORRUPT: Final = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)

_log = structlog.get_logger(__name__)


class WhenFull(StrEnum):
    """Behaviour of a full spool."""

    REFUSE = "refuse"
    DROP_OLDEST = "drop-oldest"


class Spooled(NamedTuple):
    """A batch in the spool; `message_id` is the same at every attempt."""

    id: int
    message_id: str
    content_type: str
    readings: int
    body: bytes


class Bookmark(NamedTuple):
    """`position` records of `source` are in the spool or beyond it."""

    source: str
    position: int


@dataclass(frozen=True, slots=True)
class SpoolState:
    """State of a spool; times are seconds since 1970 UTC, `size` is in bytes."""

    gateway_id: str
    batches: int
    readings: int
    size: int
    oldest: float | None
    spooled: int
    confirmed: int
    dropped: int
    last_confirm: float | None
    link: str
    link_since: float | None
    in_use: bool


class Spool:
    """The spool file at `path` of gateway `gateway_id`; for one process, one thread at a time.

    `max_bytes` bounds the content (the file itself grows to little more than that, and is reused).
    `when_full`: REFUSE raises SpoolFull, so that the source waits; DROP_OLDEST deletes the oldest batches
    that are not in flight, and counts and logs them. Raises SpoolBusy if another process has it open,
    SpoolUnusable if it is damaged or another gateway's.
    """

    def __init__(
        self,
        path: Path,
        gateway_id: str,
        *,
        max_bytes: int = DEFAULT_MAX_BYTES,
        when_full: WhenFull = WhenFull.REFUSE,
    ) -> None:
        self.path = path
        self.gateway_id = gateway_id
        self._max_bytes = max_bytes
        self._when_full = when_full
        self._taken = 0
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._lock = _lock(path)
        try:
            with self._reporting_damage():
                self._db = _open(path, gateway_id)
                self._size = _column(self._db, "SELECT coalesce(sum(size), 0) FROM batches")
        except BaseException:
            self._lock.close()
            raise

    def append(self, batches: Sequence[Batch], bookmarks: Sequence[Bookmark] = ()) -> None:
        """Store `batches` durably, all or none; raise SpoolFull if they do not fit."""
        size = sum(len(batch.body) + _BATCH_OVERHEAD for batch in batches)
        freed = 0
        with self._transaction():
            if self._size + size > self._max_bytes:
                freed = self._make_room(self._size + size - self._max_bytes)
            now = time.time()
            self._db.executemany(
                "INSERT INTO batches (message_id, content_type, readings, size, spooled_at, body)"
                " VALUES (?, ?, ?, ?, ?, ?)",
                [
                    (b.message_id, b.content_type, b.readings, len(b.body) + _BATCH_OVERHEAD, now, b.body)
                    for b in batches
                ],
            )
            self._db.execute("UPDATE ledger SET spooled = spooled + ?", (sum(b.readings for b in batches),))
            self._db.executemany("INSERT OR REPLACE INTO bookmarks VALUES (?, ?)", bookmarks)
        self._size += size - freed

    def take(self, limit: int, max_bytes: int) -> list[Spooled]:
        """Return the next batches not taken since the last `rewind`, oldest first.

        At most `limit` of them, and no more than the first to reach `max_bytes` in sum.
        """
        taken, size = [], 0
        with self._reporting_damage():
            rows = self._db.execute(
                "SELECT id, message_id, content_type, readings, body FROM batches"
                " WHERE id > ? ORDER BY id LIMIT ?",
                (self._taken, limit),
            )
            for row in rows:
                taken.append(Spooled(*row))
                size += len(taken[-1].body)
                if size >= max_bytes:
                    break
            rows.close()
        if taken:
            self._taken = taken[-1].id
        return taken

    def rewind(self) -> None:
        """Return unconfirmed batches to the queue."""
        self._taken = 0

    def confirm(self, batches: Sequence[Spooled]) -> None:
        """Delete confirmed `batches`."""
        with self._transaction():
            self._db.executemany("DELETE FROM batches WHERE id = ?", [(batch.id,) for batch in batches])
            self._db.execute(
                "UPDATE ledger SET confirmed = confirmed + ?, last_confirm = ?",
                (sum(batch.readings for batch in batches), time.time()),
            )
        self._size -= sum(len(batch.body) + _BATCH_OVERHEAD for batch in batches)

    def position(self, source: str) -> int:
        """Return how many records of `source` an unfinished replay has stored."""
        return _column(self._db, "SELECT coalesce(max(position), 0) FROM bookmarks WHERE source = ?", source)

    def forget_bookmarks(self) -> None:
        """Delete every bookmark: their replay is complete, and the same files may be sent again."""
        with self._transaction():
            self._db.execute("DELETE FROM bookmarks")

    def note_link(self, link: str) -> None:
        """Store the state of the link for `esp-gateway status`."""
        with self._transaction():
            self._db.execute("UPDATE ledger SET link = ?, link_since = ?", (link, time.time()))

    def is_empty(self) -> bool:
        """Return whether everything has been confirmed."""
        return not _column(self._db, "SELECT EXISTS (SELECT 1 FROM batches)")

    def close(self) -> None:
        """Close the file and release its lock."""
        self._db.close()
        self._lock.close()

    def _make_room(self, wanted: int) -> int:
        """Delete the oldest untaken batches until `wanted` bytes are free; return the bytes freed."""
        freed = last = batches = readings = 0
        if self._when_full is WhenFull.DROP_OLDEST:
            untaken = self._db.execute(
                "SELECT id, size, readings FROM batches WHERE id > ? ORDER BY id", (self._taken,)
            )
            for last, size, count in untaken:  # noqa: B007 - the last id is what is deleted up to
                freed, batches, readings = freed + size, batches + 1, readings + count
                if freed >= wanted:
                    break
            untaken.close()
        if freed < wanted:
            raise SpoolFull(
                f"{self.path} holds {self._size} of {self._max_bytes} bytes",
                fix="restore the link, raise --spool-limit, or let it lose the oldest (--when-full)",
            )
        self._db.execute("DELETE FROM batches WHERE id > ? AND id <= ?", (self._taken, last))
        self._db.execute("UPDATE ledger SET dropped = dropped + ?", (readings,))
        _log.warning("spool.dropped-oldest", spool=str(self.path), batches=batches, readings=readings)
        return freed

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._reporting_damage():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                with suppress(sqlite3.Error):  # SQLite may have rolled back by itself
                    self._db.execute("ROLLBACK")
                raise

    @contextmanager
    def _reporting_damage(self) -> Iterator[None]:
        with _reporting_damage(self.path):
            yield


def read_state(path: Path) -> SpoolState:
    """Return the state of the spool at `path`, also while a process is using it."""
    if not path.is_file():
        raise SpoolUnusable(f"no spool at {path}", fix="give the spool's path with --spool")
    with _reporting_damage(path):
        db = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
        try:
            _check_is_spool(db, path)
            db.row_factory = sqlite3.Row
            waiting = db.execute(
                "SELECT count(*) AS batches, coalesce(sum(readings), 0) AS readings,"
                " coalesce(sum(size), 0) AS size, min(spooled_at) AS oldest FROM batches"
            ).fetchone()
            ledger = db.execute(
                "SELECT gateway_id, spooled, confirmed, dropped, last_confirm, link, link_since FROM ledger"
            ).fetchone()
        finally:
            db.close()
    if ledger is None:
        raise SpoolUnusable(f"{path} is being created", fix="try again in a moment")
    return SpoolState(**dict(waiting), **dict(ledger), in_use=_is_locked(path))


def _open(path: Path, gateway_id: str) -> sqlite3.Connection:
    path.touch(mode=0o600)
    # Commits are explicit (isolation_level None); the client's worker thread may differ from the opener.
    db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    try:
        if path.stat().st_size == 0:
            db.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
        _check_is_spool(db, path)
        _check_intact(db, path)
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        db.execute(f"PRAGMA journal_size_limit = {_WAL_LIMIT}")
        db.executescript(files("esp_gateway").joinpath("spool.sql").read_text(encoding="utf-8"))
        _claim(db, path, gateway_id)
    except BaseException:
        db.close()
        raise
    return db


def _claim(db: sqlite3.Connection, path: Path, gateway_id: str) -> None:
    db.execute("INSERT OR IGNORE INTO ledger (one, gateway_id) VALUES (1, ?)", (gateway_id,))
    (owner,) = db.execute("SELECT gateway_id FROM ledger").fetchone()
    if owner != gateway_id:
        raise SpoolUnusable(
            f"{path} holds readings of gateway {owner}, not {gateway_id}", fix="use a spool per gateway"
        )


def _check_is_spool(db: sqlite3.Connection, path: Path) -> None:
    if _column(db, "PRAGMA application_id") != _APPLICATION_ID:
        raise SpoolUnusable(f"{path} is a database, but no spool", fix="give another path with --spool")


def _check_intact(db: sqlite3.Connection, path: Path) -> None:
    (verdict,) = db.execute("PRAGMA quick_check(1)").fetchone()
    if verdict != "ok":
        raise _damaged(path, verdict.replace("\n", " "))


def _damaged(path: Path, what: str) -> SpoolUnusable:
    return SpoolUnusable(
        f"{path} is damaged ({what})",
        fix=f"move it away, rescue its readings with `sqlite3 {path} .recover`, and start again",
    )


@contextmanager
def _reporting_damage(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.DatabaseError as error:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code in _CORRUPT:
            raise _damaged(path, str(error)) from error
        if code == sqlite3.SQLITE_FULL:
            raise SpoolFull(f"no room left on the disk of {path}", fix="free some space") from error
        raise SpoolUnusable(
            f"{path}: {error}", fix="check the file, its folder and their permissions"
        ) from error


def _column(db: sqlite3.Connection, sql: str, *parameters: object) -> int:
    (value,) = db.execute(sql, parameters).fetchone()
    return int(value)


def _lock_path(path: Path) -> Path:
    return path.with_name(path.name + ".lock")


def _lock(path: Path) -> IO[str]:
    """Take the spool's lock, which the kernel releases when this process ends."""
    lock = os.fdopen(os.open(_lock_path(path), os.O_RDWR | os.O_CREAT, 0o600), "r+", encoding="ascii")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        owner = lock.read().strip() or "unknown"
        lock.close()
        raise SpoolBusy(
            f"{path} is used by process {owner}", fix="wait for it to end, or use another spool"
        ) from None
    lock.truncate(0)
    lock.write(str(os.getpid()))
    lock.flush()
    return lock


def _is_locked(path: Path) -> bool:
    try:
        with _lock_path(path).open("r") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        return False
    return False
