"""Every setting of the backup service, with the default that a Debian machine runs on."""

from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Self

from esp_common.blob_storage import BlobStorageSettings
from esp_common.errors import InvalidInput
from pydantic import Field, field_validator, model_validator
from pydantic_settings import NoDecode, SettingsConfigDict

from esp_backup.domain.modes import PROMISES, Mode
from esp_backup.domain.schedule import Schedule
from esp_backup.domain.sealing import decode_key

HOUR_MIN = 60
DAY_MIN = 24 * HOUR_MIN
WEEK_MIN = 7 * DAY_MIN


def _newest(root: str, name: str) -> Path:
    """Return folder `name` of the newest PostgreSQL version under `root`, as Debian lays it out."""
    found = Path(root).glob(f"[0-9]*/{name}")
    return max(found, key=lambda folder: int(folder.parent.name), default=Path(root) / name)


class BackupSettings(BlobStorageSettings):
    """Settings of `esp-backup`, from `ESP_BACKUP_<NAME>` or the file named by `ESP_BACKUP_<NAME>_FILE`."""

    model_config = SettingsConfigDict(env_prefix="ESP_BACKUP_", hide_input_in_errors=True)

    database_url: str = Field(
        "postgresql://esp_backup@127.0.0.1:5432/esp",
        repr=False,
        description="PostgreSQL URL of the catalogue; role esp_backup, or esp_backup_owner for migrate.",
    )
    http_port: int = Field(8005, ge=0, le=65535, description="TCP port of the role's HTTP server.")
    database_pool_size: int = Field(5, ge=2, le=50, description="Most database connections of one process.")

    mode: Mode = Field(
        Mode.LOCAL,
        description="Who takes the physical backups: local (this service, beside the database), operator (a"
        " database operator, with pgBackRest in Azure) or managed (anyone else); see `esp-backup doctor`.",
    )

    # The cluster that is backed up: its files, and its superuser over its own socket.
    cluster_url: str = Field(
        "postgresql://postgres@/esp?host=/var/run/postgresql",
        repr=False,
        description="Superuser's URL of the database over the cluster's socket (host=FOLDER&port=PORT).",
    )
    cluster_data: Path = Field(
        default_factory=lambda: _newest("/var/lib/postgresql", "main"),
        description="The cluster's data folder; its owner runs backups. Default: Debian's newest.",
    )
    postgres_bin: Path = Field(
        default_factory=lambda: _newest("/usr/lib/postgresql", "bin"),
        description="Folder of PostgreSQL's programs. Default: Debian's newest.",
    )
    stanza: str = Field(
        "esp", pattern="^[a-z0-9-]{1,32}$", description="The cluster's name in its repositories."
    )

    # Where backups go.
    state_folder: Path = Field(
        Path("/var/lib/esp-backup"),
        description="Folder of pgbackrest.conf, logs and scratch instances.",
    )
    snapshot_folder: Path = Field(
        Path("/var/lib/esp-backup/snapshots"), description="Folder of the hourly dumps."
    )
    seal_dumps: bool = Field(
        False,
        description="Encrypt dumps under the encryption key too: for snapshots on a disk that others read.",
    )
    snapshot_free_mib: int = Field(
        512, ge=0, description="Space that a dump leaves free where the dumps are, MiB; else it is not begun."
    )
    local_repository: Path | None = Field(
        None, description="Folder of a second physical repository on this machine; none: Azure only."
    )
    blob_container: str = Field("backup", description="Container of repository and daily sets.")
    blob_deleted_days: int = Field(
        14,
        ge=0,
        le=365,
        description="Days that the storage account keeps deleted and overwritten blobs; 0: as it is set.",
    )
    repository_sas_token: str = Field(
        "",
        repr=False,
        description="SAS token of the container (rights racwdl) for pgBackRest, which cannot use workload"
        " identity; needed with blob_account_url in modes local and operator. Give it as a file.",
    )
    encryption_key: str = Field(
        "",
        repr=False,
        description="32 bytes in base64, under which repositories and sets are encrypted; keep a copy where"
        " none of this is. None: not encrypted.",
    )
    io_timeout_s: float = Field(
        30,
        ge=0.1,
        le=3600,
        description="How long the blob storage is waited for, seconds.",
    )
    part_retry_s: float = Field(
        15,
        ge=0,
        le=60,
        description="Pause before a part of a physical backup is tried for the last time, seconds.",
    )
    processes: int = Field(2, ge=1, le=64, description="Processes of a physical backup or restore.")

    # The daily set.
    broker_management_url: str | None = Field(
        None,
        repr=False,
        description="Management API, http(s)://administrator:password@host:port/api, whose definitions are"
        " kept; none: not kept.",
    )
    vault_snapshot_url: str | None = Field(
        None, description="Vault's base URL, whose Raft snapshot is kept; none: not kept."
    )
    vault_snapshot_token: str = Field("", repr=False, description="Token that may take that snapshot.")
    configuration_files: Annotated[tuple[Path, ...], NoDecode] = Field(
        (), description="Files and folders kept in the daily set, with commas between."
    )

    wal_prefetch_mib: int = Field(
        1024, ge=16, le=65_536, description="WAL that a restore fetches ahead of its replay, MiB."
    )

    # When: minutes after the beginning of each period, UTC; weeks begin on Monday.
    dump_minute: int = Field(7, ge=0, lt=HOUR_MIN, description="Minute of each hour of the dump.")
    full_minute: int = Field(75, ge=0, lt=DAY_MIN, description="Minute of each day of the full backup.")
    full_every_days: int = Field(
        1,
        ge=1,
        le=7,
        description="Days between full backups; more than 1: a differential one on the other days.",
    )
    incr_every_h: int = Field(
        6, ge=0, le=24, description="Hours from one incremental backup to the next; 0: none is taken."
    )
    set_minute: int = Field(60, ge=0, lt=DAY_MIN, description="Minute of each day of the daily set.")
    verify_minute: int = Field(
        6 * DAY_MIN + 180, ge=0, lt=WEEK_MIN, description="Minute of each week at which all is read again."
    )
    drill_minute: int = Field(
        6 * DAY_MIN + 300, ge=0, lt=WEEK_MIN, description="Minute of each week of the restore drill."
    )
    retry_s: float = Field(300, gt=0, description="When a failed run is repeated, seconds after it began.")

    # What is kept.
    dumps_kept: int = Field(24, ge=1, description="Dumps kept.")
    full_days: int = Field(30, ge=1, le=3650, description="Days of full backups and daily sets in Azure.")
    local_fulls: int = Field(2, ge=1, description="Full backups kept in the local repository.")

    # worker
    poll_s: float = Field(2, gt=0, description="Period of looking for work, seconds.")
    heartbeat_s: float = Field(
        15, gt=0, description="Period of the rows by which it is known what the archive covers, seconds."
    )
    rpo_limit_s: float = Field(
        300, gt=0, description="Seconds behind which the archive may fall before that is a failure."
    )
    recovery_timeout_s: float = Field(
        14_400, gt=0, description="How long a restored instance may take to recover, seconds."
    )
    verify_timeout_s: float = Field(
        14_400, gt=0, description="How long a repository may take to be read again, seconds."
    )
    audit_verify_command: str = Field(
        "",
        description="Command that verifies the audit log of a restored instance (esp-auth audit verify); it"
        " gets ESP_AUTH_DATABASE_URL and this process's other ESP_AUTH_… variables. None: its links alone.",
    )

    @field_validator("configuration_files", mode="before")
    @classmethod
    def _split_files(cls, given: Any) -> Any:
        return tuple(filter(None, map(str.strip, given.split(",")))) if isinstance(given, str) else given

    @field_validator("encryption_key")
    @classmethod
    def _check_key(cls, text: str) -> str:
        if text:
            try:
                decode_key(text)
            except InvalidInput as error:
                raise ValueError(error.detail) from None
        return text

    @model_validator(mode="after")
    def _check_sealing(self) -> Self:
        if self.seal_dumps and not self.encryption_key:
            raise ValueError("seal_dumps needs encryption_key")
        return self

    @model_validator(mode="after")
    def _check_mode(self) -> Self:
        if self.mode is not Mode.LOCAL and self.local_repository:
            raise ValueError(f"local_repository is for mode local, not {self.mode}")
        return self

    @property
    def key(self) -> bytes | None:
        """The encryption key, if there is one."""
        return decode_key(self.encryption_key) if self.encryption_key else None

    @property
    def schedules(self) -> dict[str, Schedule]:
        """When each kind of work is due; one that is not in it is taken by request only."""
        hour, day, week = timedelta(hours=1), timedelta(days=1), timedelta(weeks=1)
        full_at = timedelta(minutes=self.full_minute)
        schedules = {
            "dump": Schedule(hour, timedelta(minutes=self.dump_minute)),
            "full": Schedule(day * self.full_every_days, full_at),
            "set": Schedule(day, timedelta(minutes=self.set_minute)),
            "verify": Schedule(week, timedelta(minutes=self.verify_minute)),
            "drill": Schedule(week, timedelta(minutes=self.drill_minute)),
        }
        if self.full_every_days > 1:
            schedules["diff"] = Schedule(day, full_at)
        if self.incr_every_h:
            schedules["incr"] = Schedule(hour * self.incr_every_h, full_at)
        kinds = PROMISES[self.mode].kinds
        return {kind: schedule for kind, schedule in schedules.items() if kind in kinds}
