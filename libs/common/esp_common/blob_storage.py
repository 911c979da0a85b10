"""The Azure storage account of a service: a connection string, or a URL and the identity of the process."""

import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

from pydantic import Field, model_validator

from esp_common.errors import InvalidInput
from esp_common.settings import ServiceSettings, env_name

if TYPE_CHECKING:
    from azure.storage.blob.aio import BlobServiceClient

ACCOUNT_URL: Final = re.compile(r"https://[^/?#@\s]+(/[^?#@\s]*)?")
IDENTITY_VARIABLES: Final = "AZURE_CLIENT_ID, AZURE_TENANT_ID and AZURE_FEDERATED_TOKEN_FILE"


class BlobStorageSettings(ServiceSettings):
    """Settings of a service that keeps data in Azure Blob Storage: one of string and URL is set."""

    blob_connection_string: str = Field(
        "",
        repr=False,
        description="Azure storage account by its connection string; give it as a file.",
    )
    blob_account_url: str = Field(
        "",
        description="Azure storage account by its blob endpoint (https://account.blob.core.windows.net), with"
        " the identity of the process (workload or managed identity) instead of a connection string.",
    )
    blob_ca_file: Path | None = Field(
        None, description="Authority (PEM) of the blob endpoint; none: the system's."
    )

    @model_validator(mode="after")
    def _check_account(self) -> Self:
        if self.blob_account_url and self.blob_connection_string:
            raise ValueError("blob_account_url and blob_connection_string are both set; remove one")
        if self.blob_account_url and not ACCOUNT_URL.fullmatch(self.blob_account_url):
            raise ValueError("blob_account_url is not like https://account.blob.core.windows.net")
        return self

    @property
    def credential_kind(self) -> str:
        """How this process authenticates to the storage account."""
        return "identity of the process" if self.blob_account_url else "connection string"

    def refusal_remedy(self) -> str:
        """Return what to do when the storage account refuses this process."""
        if self.blob_account_url:
            return (
                f"check {IDENTITY_VARIABLES} (on Kubernetes: the service account's client id) and that the"
                " identity has the role Storage Blob Data Contributor"
            )
        return f"check {env_name(type(self), 'blob_connection_string')}_FILE"


def first_line(error: Exception) -> str:
    """Return the first line of an error's message; the others are headers, or credentials that were tried."""
    message = str(getattr(error, "message", None) or error)
    return message.splitlines()[0] if message else type(error).__name__


@asynccontextmanager
async def open_blob_service(
    settings: BlobStorageSettings, **options: Any
) -> AsyncIterator["BlobServiceClient"]:
    """Yield a client of the storage account; nothing is requested yet.

    `options`: arguments of BlobServiceClient. Raises InvalidInput when no account is set.
    """
    # Few processes use blob storage, and the libraries take long to load.
    from azure.storage.blob.aio import BlobServiceClient

    if settings.blob_ca_file:
        options["connection_verify"] = str(settings.blob_ca_file)
    async with AsyncExitStack() as stack:
        if settings.blob_account_url:
            from azure.identity.aio import DefaultAzureCredential

            credential = await stack.enter_async_context(DefaultAzureCredential())
            client = BlobServiceClient(settings.blob_account_url, credential=credential, **options)
        else:
            client = _from_connection_string(settings, options)
        yield await stack.enter_async_context(client)


def _from_connection_string(settings: BlobStorageSettings, options: dict[str, Any]) -> "BlobServiceClient":
    from azure.storage.blob.aio import BlobServiceClient

    variable = env_name(type(settings), "blob_connection_string")
    if not settings.blob_connection_string:
        url_variable = env_name(type(settings), "blob_account_url")
        raise InvalidInput("no blob storage is set", fix=f"set {variable}_FILE or {url_variable}")
    try:
        return BlobServiceClient.from_connection_string(settings.blob_connection_string, **options)
    except ValueError as error:
        raise InvalidInput(f"{variable} is invalid: {error}", fix=f"check {variable}_FILE") from None
