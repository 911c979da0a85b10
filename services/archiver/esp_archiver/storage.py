"""The store of objects: Azure Blob Storage, through as much of its client as the archive needs."""

from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import IO, Any, Final

from azure.core import MatchConditions
from azure.core.exceptions import (
    AzureError,
    ClientAuthenticationError,
    HttpResponseError,
    ResourceExistsError,
    ResourceModifiedError,
    ResourceNotFoundError,
)
from azure.storage.blob import BlobImmutabilityPolicyMode, ContentSettings, ImmutabilityPolicy
from azure.storage.blob.aio import ContainerClient, ExponentialRetry
from esp_common.blob_storage import first_line, open_blob_service
from esp_common.errors import Conflict, NotFound, Unavailable

from esp_archiver.settings import MIB, ArchiverSettings

BLOCK_BYTES: Final = 4 * MIB
AT_ONCE: Final = 2
"""Blocks on their way at once: with the block's size this bounds what an upload holds in memory."""

_BACKOFF_S: Final = 1
PARQUET: Final = "application/vnd.apache.parquet"
_GONE: Final = (412, 409)
_REFUSED: Final = (401, 403)


class Taken(Conflict):
    """There is an object of this name already, or another than the one that was to be replaced."""

    code, title = "object-taken", "Object is there already"


class Damaged(Conflict):
    """An object is not what the manifest says it is."""

    code, title = "object-damaged", "Object of the archive is damaged"


class Changed(Damaged):
    """An object has another tag than the manifest knows: uploaded again, copied, or merged meanwhile."""


@dataclass(frozen=True, slots=True)
class Found:
    """An object that is there: its size, its tag, and what was noted on it."""

    name: str
    bytes: int
    etag: str
    notes: Mapping[str, str]


class Store:
    """Objects of one container. Every call raises Unavailable when the store is away, NotFound, or Taken."""

    def __init__(self, container: ContainerClient, settings: ArchiverSettings) -> None:
        self._container = container
        self._settings = settings

    @contextmanager
    def _errors(self, name: str) -> Iterator[None]:
        """Turn what the client raises into errors that name the object and say whether to try again."""
        try:
            yield
        except ResourceNotFoundError as error:
            raise NotFound(f"{name} is not in the archive") from error
        except HttpResponseError as error:
            if error.status_code in _GONE:
                raise Conflict(f"the store refuses {name}: {error.reason}", fix="see its policies") from error
            if isinstance(error, ClientAuthenticationError) or error.status_code in _REFUSED:
                raise Unavailable(
                    f"blob storage refuses access to {name}: {first_line(error)}",
                    fix=self._settings.refusal_remedy(),
                ) from error
            raise _unavailable(name, error) from error
        except (AzureError, OSError) as error:
            raise _unavailable(name, error) from error

    async def ensure(self) -> None:
        """Create the container unless it is there."""
        with self._errors("the container"):
            try:
                await self._container.create_container()
            except ResourceExistsError:
                return

    async def check(self) -> None:
        """Raise unless the store answers for the container."""
        with self._errors("the container"):
            await self._container.get_container_properties()

    async def upload(
        self,
        name: str,
        file: IO[bytes],
        size: int,
        notes: Mapping[str, str],
        *,
        replaces: str | None = None,
        over: bool = False,
    ) -> str:
        """Store `file` under `name` and return its tag, only if nothing is there, or what `replaces` names.

        With `over` whatever is there. The object appears whole or not at all. Raises Taken when something
        else is there.
        """
        condition: dict[str, Any] = {"overwrite": over}
        if replaces is not None:
            condition = {
                "overwrite": True,
                "etag": replaces,
                "match_condition": MatchConditions.IfNotModified,
            }
        blob = self._container.get_blob_client(name)
        file.seek(0)
        with self._errors(name):
            try:
                answer = await blob.upload_blob(
                    file,
                    length=size,
                    metadata=dict(notes),
                    max_concurrency=AT_ONCE,
                    validate_content=True,
                    content_settings=ContentSettings(content_type=PARQUET),
                    **condition,
                )
            except (ResourceExistsError, ResourceModifiedError) as error:
                raise Taken(f"{name} is not what was to be replaced: {error.reason}") from None
        return str(answer["etag"]).strip('"')

    async def find(self, name: str) -> Found | None:
        """Return what is there under a name."""
        with self._errors(name):
            try:
                properties = await self._container.get_blob_client(name).get_blob_properties()
            except ResourceNotFoundError:
                return None
        return Found(name, properties.size, properties.etag.strip('"'), dict(properties.metadata or {}))

    async def delete(self, name: str) -> None:
        """Delete an object; one that is not there is deleted already."""
        with self._errors(name):
            try:
                await self._container.delete_blob(name)
            except ResourceNotFoundError:
                return

    async def names(self, prefix: str) -> AsyncIterator[str]:
        """Yield the names of objects that begin with `prefix`, in order."""
        with self._errors(prefix):
            async for name in self._container.list_blob_names(name_starts_with=prefix):
                yield name

    async def download(self, name: str, file: IO[bytes], etag: str) -> None:
        """Write that version of an object into `file`. Raises NotFound, or Unavailable when it is another."""
        with self._errors(name):
            try:
                stream = await self._container.download_blob(
                    name,
                    max_concurrency=AT_ONCE,
                    etag=etag,
                    match_condition=MatchConditions.IfNotModified,
                )
                async for chunk in stream.chunks():
                    file.write(chunk)
            except ResourceModifiedError:
                raise Unavailable(f"{name} was replaced meanwhile", fix="run it again") from None

    async def read(self, name: str, start: int, end: int, etag: str) -> bytes:
        """Return the bytes [start, end) of that version of an object. Raises NotFound or Damaged."""
        with self._errors(name):
            try:
                stream = await self._container.download_blob(
                    name,
                    offset=start,
                    length=end - start,
                    etag=etag,
                    match_condition=MatchConditions.IfNotModified,
                )
                return bytes(await stream.readall())
            except ResourceModifiedError:
                raise Changed(
                    f"{name} is not the object that was verified", fix="esp-archiver verify"
                ) from None

    async def protect(self, name: str) -> None:
        """Put an object into the tier and under the policies that the settings name."""
        blob = self._container.get_blob_client(name)
        with self._errors(name):
            if self._settings.access_tier:
                await blob.set_standard_blob_tier(self._settings.access_tier)
            if self._settings.immutable_days:
                until = datetime.now(UTC) + timedelta(days=self._settings.immutable_days)
                policy = ImmutabilityPolicy(
                    expiry_time=until, policy_mode=BlobImmutabilityPolicyMode.UNLOCKED
                )
                await blob.set_immutability_policy(policy)
            if self._settings.legal_hold:
                await blob.set_legal_hold(True)


@asynccontextmanager
async def open_store(settings: ArchiverSettings) -> AsyncIterator[Store]:
    """Yield the store that the settings name; nothing is requested yet."""
    options: dict[str, Any] = {
        "retry_policy": ExponentialRetry(
            initial_backoff=_BACKOFF_S, increment_base=2, retry_total=settings.blob_retries
        ),
        "connection_timeout": settings.blob_timeout_s,
        "read_timeout": settings.blob_timeout_s,
        "max_block_size": BLOCK_BYTES,
        "max_single_put_size": BLOCK_BYTES,
        "max_single_get_size": BLOCK_BYTES,
        "max_chunk_get_size": BLOCK_BYTES,
    }
    if settings.blob_api_version:
        options["api_version"] = settings.blob_api_version
    async with open_blob_service(settings, **options) as service:
        yield Store(service.get_container_client(settings.blob_container), settings)


def _unavailable(name: str, error: Exception) -> Unavailable:
    return Unavailable(f"blob storage does not answer for {name}: {first_line(error)}")
