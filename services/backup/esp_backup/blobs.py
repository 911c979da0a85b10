"""Azure's blob storage, as daily sets need it."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

from azure.core.exceptions import (
    AzureError,
    ClientAuthenticationError,
    ResourceExistsError,
    ResourceNotFoundError,
)
from azure.storage.blob import RetentionPolicy
from azure.storage.blob.aio import ContainerClient, LinearRetry
from esp_common.blob_storage import first_line, open_blob_service
from esp_common.errors import Conflict, InvalidInput, NotFound, Unavailable

from esp_backup.settings import BackupSettings

API_VERSION: Final = "2025-11-05"
TRIES: Final = 3
RETRY_S: Final = 1
"""Pause between tries, seconds: what is away longer is tried again with the whole job."""


class Blob(NamedTuple):
    """What is stored under a name, and when it was."""

    name: str
    bytes: int
    stored_at: datetime
    metadata: dict[str, str]


class Blobs:
    """The container of backups. Raises InvalidInput when refused, Unavailable when there is no answer."""

    def __init__(self, settings: BackupSettings) -> None:
        self._settings = settings
        timeout_s = settings.io_timeout_s
        self._opening = open_blob_service(
            settings,
            api_version=API_VERSION,
            retry_policy=LinearRetry(backoff=RETRY_S, retry_total=TRIES, random_jitter_range=0),
            connection_timeout=timeout_s,
            read_timeout=timeout_s,
        )

    async def __aenter__(self) -> Self:
        self._service: Any = await self._opening.__aenter__()
        self._container: ContainerClient = self._service.get_container_client(self._settings.blob_container)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._opening.__aexit__(kind, error, trace)

    @contextmanager
    def _errors(self, what: str) -> Iterator[None]:
        """Turn what the client raises into errors of the platform."""
        try:
            yield
        except ResourceExistsError as error:
            raise Conflict(f"blob storage refuses {what}: {first_line(error)}") from error
        except ResourceNotFoundError as error:
            raise NotFound(f"blob storage has no {what}") from error
        except ClientAuthenticationError as error:
            raise InvalidInput(
                f"blob storage refuses this process: {first_line(error)}", fix=self._settings.refusal_remedy()
            ) from error
        except (AzureError, OSError) as error:
            raise Unavailable(f"blob storage does not answer about {what}: {first_line(error)}") from error

    async def ensure(self) -> None:
        """Make the container if it is not there."""
        with self._errors(self._container.container_name):
            if await self._container.exists():
                return
            # Somebody else may be quicker.
            with suppress(ResourceExistsError):
                await self._container.create_container()

    async def keep_deleted(self, days: int) -> int:
        """Have the account keep deleted and overwritten blobs for at least `days`; return how many it keeps.

        Raises InvalidInput when the credentials do not allow that.
        """
        with self._errors("the account's properties"):
            policy = (await self._service.get_service_properties())["delete_retention_policy"]
            kept = policy.days if policy.enabled else 0
            if kept >= days:
                return int(kept)
            wanted = RetentionPolicy(enabled=True, days=days)
            await self._service.set_service_properties(delete_retention_policy=wanted)
            return days

    async def put(self, name: str, content: bytes, metadata: dict[str, str]) -> None:
        """Store a blob, checksummed on its way; raise Conflict when there is one of this name."""
        with self._errors(name):
            await self._container.upload_blob(
                name, content, metadata=metadata, overwrite=False, validate_content=True
            )

    async def get(self, name: str) -> bytes:
        """Return a blob; raise NotFound when there is none."""
        with self._errors(name):
            download = await self._container.download_blob(name)
            content: bytes = await download.readall()
            return content

    async def all(self, prefix: str) -> list[Blob]:
        """Return the blobs whose names begin with `prefix`, by name."""
        with self._errors(prefix):
            return [
                Blob(blob.name, blob.size, blob.last_modified, dict(blob.metadata or {}))
                async for blob in self._container.list_blobs(prefix, include=["metadata"])
            ]

    async def delete(self, name: str) -> None:
        """Delete a blob; harmless when it is gone."""
        try:
            with self._errors(name):
                await self._container.delete_blob(name)
        except NotFound:
            return
