"""Every setting of the archiver, with the default that the native stack runs on."""

from pathlib import Path
from typing import Final, Literal

from esp_common.blob_storage import BlobStorageSettings
from pydantic import Field
from pydantic_settings import SettingsConfigDict

SERVICE: Final = "archiver"
MIB: Final = 1024 * 1024


class ArchiverSettings(BlobStorageSettings):
    """Settings of `esp-archiver`, from `ESP_ARCHIVER_<NAME>` or the file named by `…_FILE`."""

    model_config = SettingsConfigDict(env_prefix="ESP_ARCHIVER_", hide_input_in_errors=True)

    database_url: str = Field(
        "postgresql://esp_archiver@127.0.0.1:5432/esp",
        repr=False,
        description="PostgreSQL URL; role esp_archiver, or esp_archiver_owner for migrate.",
    )
    http_port: int = Field(8004, ge=0, le=65535, description="TCP port of the role's HTTP server.")
    engine: Literal["auto", "timescale", "postgres"] = Field(
        "auto", description="Storage engine; the archiver's own tables are alike on both."
    )
    database_pool_size: int = Field(8, ge=4, le=100, description="Most database connections of one process.")

    blob_container: str = Field(
        "archive", pattern="^[a-z0-9](-?[a-z0-9]){2,62}$", description="Container of the archive."
    )
    blob_timeout_s: float = Field(30, gt=0, description="Longest wait for the store's next byte, seconds.")
    blob_retries: int = Field(4, ge=0, le=20, description="Tries of a request after its first, requests.")
    blob_api_version: str | None = Field(
        None, description="Version of the store's protocol (2025-11-05); none: the newest."
    )
    access_tier: Literal["Hot", "Cool", "Cold"] | None = Field(
        None, description="Tier of parts that are nowhere else; none: the account's."
    )
    immutable_days: int = Field(
        0, ge=0, le=36_500, description="Days for which such parts cannot be changed or deleted; 0: they can."
    )
    legal_hold: bool = Field(False, description="Whether such parts are put under a legal hold.")

    # worker
    schedule: str = Field("0 2 * * *", description="When to archive: minute hour day month weekday, UTC.")
    retry_s: float = Field(900, gt=0, description="Pause after a run that failed, seconds.")
    poll_s: float = Field(2, gt=0, description="Period of looking for what was asked for, seconds.")
    telemetry_after_days: int = Field(30, ge=1, description="Age at which days of readings go, days.")
    audit_after_days: int = Field(30, ge=1, description="Age at which days of the audit log go, days.")
    findings_after_days: int = Field(90, ge=1, description="Age at which findings that are over go, days.")
    uploads_at_once: int = Field(2, ge=1, le=16, description="Parts uploaded and verified at once, parts.")
    verify_share: float = Field(
        0.02, ge=0, le=1, description="Share of the archive that each run reads again, 0 to 1."
    )
    work_folder: Path | None = Field(
        None, description="Folder for parts on their way, unnamed files; none: the system's."
    )

    # api
    max_span_days: int = Field(400, ge=1, description="Longest span of one answer or restore, days.")
    max_pumps: int = Field(100, ge=1, description="Most pumps of one restore, pumps.")
    restored_days: int = Field(30, ge=1, description="Longest that restored readings are kept, days.")
