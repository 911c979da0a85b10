"""The daily set: what the database does not hold and a new platform needs, in one sealed file in Azure."""

import asyncio
import hashlib
import io
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import httpx
from esp_common.errors import Conflict, EspError, InvalidInput, Unavailable

from esp_backup.blobs import Blob, Blobs
from esp_backup.domain.retention import Kept, beyond_age
from esp_backup.domain.sealing import seal, unseal
from esp_backup.repository import Damaged
from esp_backup.settings import BackupSettings

PREFIX: Final = "sets/"
NAME: Final = "%Y%m%dT%H%M%SZ"
SEALED: Final = ".tar.gz.sealed"
PLAIN: Final = ".tar.gz"
DEFINITIONS: Final = "rabbitmq/definitions.json"
VAULT_SNAPSHOT: Final = "vault/raft.snap"
CONFIGURATION: Final = "configuration"
_DIGEST: Final = "sha256"


class PartRefused(EspError):
    """Someone whose state is kept does not give it out."""

    code, title = "part-refused", "Part of the daily set refused"


@dataclass(frozen=True, slots=True)
class DailySet:
    """A set in storage."""

    name: str
    taken_at: datetime
    bytes: int
    stored_at: datetime


class Sets:
    """The daily sets in blob storage."""

    def __init__(self, settings: BackupSettings, blobs: Blobs) -> None:
        self._settings = settings
        self._blobs = blobs

    async def take(self, now: datetime) -> tuple[DailySet, list[str]]:
        """Put a set together, store it and read it back; return it and the names of its files.

        Raises Unavailable when a part or the storage is away, Damaged when what comes back is not what went.
        """
        parts = await self._collect()
        packed = await asyncio.to_thread(_pack, parts, now)
        key = self._settings.key
        name = f"{PREFIX}{now.strftime(NAME)}{SEALED if key else PLAIN}"
        content = seal(key, packed, name) if key else packed
        await self._blobs.ensure()
        stored = await self._put(name, content)
        await self.verify(stored)
        return _described(stored), sorted(parts)

    async def _put(self, name: str, content: bytes) -> Blob:
        """Store a set; raise Conflict when there is another of this name."""
        digest = hashlib.sha256(content).hexdigest()
        try:
            await self._blobs.put(name, content, {_DIGEST: digest})
        except Conflict:
            # A try whose answer was lost has stored it: the next is told that it is there.
            stored = await self._stored(name)
            if stored.metadata.get(_DIGEST) != digest:
                raise
            return stored
        return await self._stored(name)

    async def _stored(self, name: str) -> Blob:
        found = await self._blobs.all(name)
        if not found:
            raise Unavailable(f"blob storage does not show {name}, which it has taken")
        return found[0]

    async def all(self) -> list[DailySet]:
        """Return the sets there are, oldest first."""
        return [_described(blob) for blob in await self._found()]

    async def problems(self) -> dict[str, str | None]:
        """Read every set again; return what is wrong with each, by name."""
        found: dict[str, str | None] = {}
        for blob in await self._found():
            try:
                await self.verify(blob)
                found[blob.name] = None
            except Damaged as damage:
                found[blob.name] = damage.detail
        return found

    async def verify(self, blob: Blob) -> None:
        """Read a set again; raise Damaged unless it is as it was written."""
        content = await self._blobs.get(blob.name)
        if hashlib.sha256(content).hexdigest() != blob.metadata.get(_DIGEST):
            raise Damaged(f"{blob.name} has changed", fix="use another set")

    async def fetch(self, name: str, folder: Path) -> list[str]:
        """Unpack a set into the new `folder`, readable by its owner alone; return the names of its files.

        Raises NotFound, Unreadable when it was sealed under another key or was changed.
        """
        content = await self._blobs.get(name)
        if name.endswith(SEALED):
            if self._settings.key is None:
                raise InvalidInput(f"{name} is encrypted", fix="set ESP_BACKUP_ENCRYPTION_KEY_FILE")
            content = unseal(self._settings.key, content, name)
        try:
            return await asyncio.to_thread(_unpack, content, folder)
        except tarfile.TarError as error:
            raise Damaged(f"{name} cannot be unpacked: {error}", fix="use another set") from error

    async def expire(self, problems: Iterable[str], now: datetime) -> list[str]:
        """Delete sets older than the days kept, never the last good one."""
        bad = set(problems)
        kept = [Kept(each.name, each.taken_at, each.name not in bad) for each in await self.all()]
        gone = beyond_age(kept, timedelta(days=self._settings.full_days), now)
        for name in gone:
            await self._blobs.delete(name)
        return gone

    async def _found(self) -> list[Blob]:
        return [blob for blob in await self._blobs.all(PREFIX) if blob.name.endswith((SEALED, PLAIN))]

    async def _collect(self) -> dict[str, bytes]:
        settings, parts = self._settings, {}
        if url := settings.broker_management_url:
            parts[DEFINITIONS] = await self._ask(f"{url.rstrip('/')}/definitions", "the broker", {})
        if url := settings.vault_snapshot_url:
            headers = {"X-Vault-Token": settings.vault_snapshot_token}
            address = f"{url.rstrip('/')}/v1/sys/storage/raft/snapshot"
            parts[VAULT_SNAPSHOT] = await self._ask(address, "the vault", headers)
        parts |= await asyncio.to_thread(_read_files, settings.configuration_files)
        if not parts:
            raise InvalidInput(
                "no part of a daily set is named",
                fix="set ESP_BACKUP_BROKER_MANAGEMENT_URL, …VAULT_SNAPSHOT_URL or …CONFIGURATION_FILES",
            )
        return parts

    async def _ask(self, address: str, whom: str, headers: dict[str, str]) -> bytes:
        parts = urlsplit(address)
        login = httpx.BasicAuth(parts.username, parts.password or "") if parts.username else None
        authority = str(self._settings.tls_ca_file) if self._settings.tls_ca_file else True
        bare = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
        try:
            async with httpx.AsyncClient(verify=authority, timeout=self._settings.io_timeout_s) as client:
                answer = await client.get(bare, auth=login, headers=headers)
        except httpx.HTTPError as error:
            raise Unavailable(f"{whom} does not answer at {bare}: {error}") from error
        if answer.status_code != httpx.codes.OK:
            raise PartRefused(
                f"{whom} answers {answer.status_code} at {bare}", fix="check the login in the setting"
            )
        return answer.content


def _described(blob: Blob) -> DailySet:
    stamp = blob.name.removeprefix(PREFIX).split(".")[0]
    taken_at = datetime.strptime(stamp, NAME).replace(tzinfo=UTC)
    return DailySet(blob.name, taken_at, blob.bytes, blob.stored_at)


def _read_files(paths: Iterable[Path]) -> dict[str, bytes]:
    found = {}
    for path in paths:
        files = sorted(path.rglob("*")) if path.is_dir() else [path]
        for file in files:
            if file.is_dir():
                continue
            try:
                found[f"{CONFIGURATION}/{str(file.absolute()).lstrip('/')}"] = file.read_bytes()
            except OSError as error:
                raise InvalidInput(
                    f"configuration file {file}: {error.strerror}", fix="check ESP_BACKUP_CONFIGURATION_FILES"
                ) from error
    return found


def _pack(parts: dict[str, bytes], now: datetime) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name, content in sorted(parts.items()):
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode, entry.mtime = len(content), 0o600, int(now.timestamp())
            archive.addfile(entry, io.BytesIO(content))
    return packed.getvalue()


def _unpack(packed: bytes, folder: Path) -> list[str]:
    with tarfile.open(fileobj=io.BytesIO(packed), mode="r:gz") as archive:
        # Not `extractall`: what makes that safe is missing in the first releases of Python 3.11.
        files = {entry.name: archive.extractfile(entry) for entry in archive if entry.isreg()}
        outside = [name for name in archive.getnames() if name not in files or not _is_inside(folder, name)]
        if outside:
            raise tarfile.ExtractError(f"{', '.join(outside)} is no file inside of it")
        folder.mkdir(mode=0o700, parents=True)
        for name, content in files.items():
            path = folder / name
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            path.touch(0o600)
            path.write_bytes(content.read() if content else b"")
    return list(files)


def _is_inside(folder: Path, name: str) -> bool:
    return (folder / name).resolve().is_relative_to(folder.resolve())
