"""The configuration of pgBackRest."""

from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from esp_common.errors import InvalidInput
from psycopg.conninfo import conninfo_to_dict

from esp_backup.domain.sealing import passphrase
from esp_backup.settings import BackupSettings

KEEP_ALL: Final = 9_999_999
"""The most full backups that pgBackRest can be told to keep."""


def configuration_text(settings: BackupSettings, folder: Path | None = None) -> str:
    """Return pgbackrest.conf, with spool, locks and logs in `folder` (None: the state folder).

    Raises InvalidInput when the storage account is not named or not over https.
    """
    state = folder or settings.state_folder
    timeout_s = settings.io_timeout_s
    lines = {
        **_azure(settings),
        # Which backups go is decided by domain/retention.py: pgBackRest by itself deletes none.
        "repo1-retention-full": str(KEEP_ALL),
        **_local(settings),
        "process-max": str(settings.processes),
        "job-retry-interval": f"{settings.part_retry_s:g}",
        "compress-type": "lz4",
        "start-fast": "y",
        # Only a backup that was checked makes older ones go.
        "expire-auto": "n",
        "archive-async": "y",
        "archive-get-queue-max": f"{settings.wal_prefetch_mib}MiB",
        "spool-path": f"{state}/spool",
        "lock-path": f"{state}/lock",
        "log-path": f"{state}/log",
        "log-level-console": "warn",
        "log-level-stderr": "warn",
        "io-timeout": f"{timeout_s:g}",
    }
    cluster = conninfo_to_dict(settings.cluster_url)
    stanza = {
        "pg1-path": str(settings.cluster_data),
        "pg1-socket-path": str(cluster.get("host") or "/var/run/postgresql"),
        "pg1-port": str(cluster.get("port") or 5432),
        "pg1-user": str(cluster.get("user") or "postgres"),
        "pg1-database": str(cluster.get("dbname") or "postgres"),
    }
    sections = {"global": lines, settings.stanza: stanza}
    return "\n".join(
        f"[{name}]\n" + "".join(f"{option}={value}\n" for option, value in options.items())
        for name, options in sections.items()
    )


class Account(NamedTuple):
    """A storage account as pgBackRest addresses it. `key_type`: shared or sas."""

    name: str
    endpoint: str
    key: str
    key_type: str = "shared"


def _azure(settings: BackupSettings) -> dict[str, str]:
    account = _account(settings)
    lines = {
        "repo1-type": "azure",
        "repo1-path": f"/{settings.stanza}",
        "repo1-azure-account": account.name,
        "repo1-azure-key": account.key,
        "repo1-azure-key-type": account.key_type,
        "repo1-azure-container": settings.blob_container,
        "repo1-bundle": "y",
        **_cipher(1, settings),
    }
    endpoint = urlsplit(account.endpoint)
    if account.name in endpoint.path:
        # The account is in the path of an emulator's address, in the host name of Azure's.
        lines["repo1-azure-uri-style"] = "path"
        lines["repo1-storage-host"] = endpoint.hostname or ""
        lines["repo1-storage-port"] = str(endpoint.port or 443)
    else:
        lines["repo1-azure-endpoint"] = (endpoint.hostname or "").removeprefix(f"{account.name}.")
    if settings.blob_ca_file:
        lines["repo1-storage-ca-file"] = str(settings.blob_ca_file)
    return lines


def _account(settings: BackupSettings) -> Account:
    if not settings.blob_account_url:
        return _account_of_string(settings.blob_connection_string)
    if not settings.repository_sas_token:
        raise InvalidInput(
            f"pgBackRest, needed in mode {settings.mode}, cannot use the identity of blob_account_url",
            fix="set ESP_BACKUP_REPOSITORY_SAS_TOKEN_FILE, or a connection string instead of the URL",
        )
    endpoint = urlsplit(settings.blob_account_url)
    name = endpoint.path.strip("/") or (endpoint.hostname or "").partition(".")[0]
    return Account(name, settings.blob_account_url, settings.repository_sas_token.removeprefix("?"), "sas")


def _local(settings: BackupSettings) -> dict[str, str]:
    if not settings.local_repository:
        return {}
    return {
        "repo2-path": str(settings.local_repository),
        "repo2-retention-full": str(KEEP_ALL),
        "repo2-bundle": "y",
        **_cipher(2, settings),
    }


def _cipher(number: int, settings: BackupSettings) -> dict[str, str]:
    if settings.key is None:
        return {}
    return {
        f"repo{number}-cipher-type": "aes-256-cbc",
        f"repo{number}-cipher-pass": passphrase(settings.key),
    }


def _account_of_string(text: str) -> Account:
    """Return the account of a connection string; raise InvalidInput when it cannot be used."""
    parts = dict(part.split("=", 1) for part in text.split(";") if "=" in part)
    missing = [name for name in ("AccountName", "AccountKey") if name not in parts]
    if missing:
        raise InvalidInput(
            f"the storage account's connection string has no {' and no '.join(missing)}",
            fix="set ESP_BACKUP_BLOB_CONNECTION_STRING_FILE",
        )
    name = parts["AccountName"]
    suffix = parts.get("EndpointSuffix", "core.windows.net")
    endpoint = parts.get("BlobEndpoint") or f"https://{name}.blob.{suffix}"
    if urlsplit(endpoint).scheme != "https":
        raise InvalidInput("pgBackRest speaks to blob storage over https only", fix="give an https endpoint")
    return Account(name, endpoint, parts["AccountKey"])


def differing_options(existing: str, wanted: str) -> list[str]:
    """Return the options by which two configurations name another cluster or other repositories."""
    first, second = _identity(existing), _identity(wanted)
    return sorted(name for name in first.keys() | second.keys() if first.get(name) != second.get(name))


def _identity(text: str) -> dict[str, str]:
    options = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
    return {
        name: value
        for name, value in options.items()
        if name.startswith(("repo", "pg1-path")) and "retention" not in name and "bundle" not in name
    }
