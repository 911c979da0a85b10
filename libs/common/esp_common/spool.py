"""Spool outgoing messages to a folder: one private file each, written atomically."""

import asyncio
import os
from pathlib import Path
from typing import Final, NamedTuple

import structlog

from esp_common.errors import InvalidInput

log = structlog.get_logger()

SUFFIX: Final = ".json"


class SpooledMessage(NamedTuple):
    """A message in the folder; `records`: how many it holds, from the file's name."""

    name: str
    body: bytes
    records: int


class SpoolFolder:
    """Keep messages as files `<name>.<records>.json`, in the order of their names, up to `max_bytes`.

    Files of an earlier process are found again. Files are readable by their owner only, and synced. Raises
    InvalidInput if the folder cannot be created.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self._folder = folder
        self._max_bytes = max_bytes
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            files = self._files()
            self._bytes = sum(path.stat().st_size for path in files)
        except OSError as error:
            raise InvalidInput(
                f"folder {folder}: {error.strerror}", fix="name one that can be written"
            ) from error
        self._names = [path.name for path in files]

    @property
    def records(self) -> int:
        """Records in the folder."""
        return sum(map(_records_in, self._names))

    async def write(self, name: str, body: bytes, records: int) -> bool:
        """Write a message; return False if the folder is full or the disk fails."""
        if self._bytes + len(body) > self._max_bytes:
            return False
        file_name = f"{name}.{records}{SUFFIX}"
        self._bytes += len(body)
        try:
            await asyncio.to_thread(self._write, file_name, body)
        except OSError as error:
            self._bytes -= len(body)
            log.warning("spool.failed", folder=str(self._folder), reason=str(error))
            return False
        self._names.append(file_name)
        self._names.sort()
        return True

    async def oldest(self) -> SpooledMessage | None:
        """Return the first message, None if the folder is empty."""
        while self._names:
            name = self._names[0]
            try:
                body = await asyncio.to_thread((self._folder / name).read_bytes)
            except OSError as error:
                log.warning("spool.unreadable", file=name, reason=str(error))
                self._names.remove(name)
                continue
            return SpooledMessage(name.split(".")[0], body, _records_in(name))
        return None

    async def remove(self, message: SpooledMessage) -> None:
        """Delete a message that was sent."""
        name = f"{message.name}.{message.records}{SUFFIX}"
        self._names.remove(name)
        self._bytes -= len(message.body)
        await asyncio.to_thread((self._folder / name).unlink, missing_ok=True)

    def _files(self) -> list[Path]:
        return sorted(self._folder.glob(f"*{SUFFIX}"))

    def _write(self, name: str, body: bytes) -> None:
        partial = self._folder / f".{name}.part"
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(body)
            file.flush()
            os.fsync(file.fileno())
        partial.rename(self._folder / name)


def _records_in(name: str) -> int:
    parts = name.split(".")
    return int(parts[1]) if len(parts) == 3 and parts[1].isdigit() else 0
