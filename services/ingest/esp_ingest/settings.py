"""Every setting of the ingest service, with the default that the native stack runs on."""

from typing import Literal

from esp_common.settings import ServiceSettings
from pydantic import Field
from pydantic_settings import SettingsConfigDict

MIB = 1024 * 1024


class IngestSettings(ServiceSettings):
    """Settings of `esp-ingest`, from `ESP_INGEST_<NAME>` or the file named by `ESP_INGEST_<NAME>_FILE`."""

    model_config = SettingsConfigDict(env_prefix="ESP_INGEST_")

    database_url: str = Field(
        "postgresql://esp_ingest@127.0.0.1:5432/esp",
        repr=False,
        description="PostgreSQL URL; role esp_ingest, or esp_ingest_owner for maintenance and migrate.",
    )
    http_port: int = Field(8001, ge=0, le=65535, description="TCP port of the role's HTTP server.")
    engine: Literal["auto", "timescale", "postgres"] = Field(
        "auto", description="Storage engine; auto takes TimescaleDB where it is complete."
    )
    database_pool_size: int = Field(8, ge=2, le=100, description="Most database connections of one process.")

    # Shared by api and worker: what a reading and a message may be.
    max_body_mib: float = Field(4, gt=0, le=16, description="Largest message or HTTP body, MiB.")
    registry_reload_s: float = Field(30, gt=0, description="Longest age of the asset registry, seconds.")

    # api
    coalesce_requests: int = Field(256, ge=1, description="Most requests that share one message, requests.")
    coalesce_ms: float = Field(4, ge=0, description="Longest a request waits for company, milliseconds.")
    coalesce_body_kib: float = Field(16, gt=0, description="Bodies above this are not coalesced, KiB.")
    max_pending_requests: int = Field(4096, ge=1, description="Most posts awaiting a confirm, requests.")
    max_pending_mib: float = Field(64, gt=0, description="Most bodies awaiting a confirm, MiB.")
    confirm_timeout_s: float = Field(5, gt=0, description="Longest wait for a confirm before 503, seconds.")

    # worker
    prefetch: int = Field(1000, ge=1, le=65535, description="Most unacknowledged messages, messages.")
    flush_readings: int = Field(5000, ge=1, description="Readings that make a flush due, readings.")
    flush_ms: float = Field(100, ge=0, description="Longest a reading waits for its flush, milliseconds.")
    flushes_in_flight: int = Field(2, ge=1, le=8, description="Most flushes at once, flushes.")
    max_buffered_mib: float = Field(64, gt=0, description="Bodies held before consuming pauses, MiB.")
    outage_pause_s: float = Field(
        60, gt=0, description="Database outage after which messages go back to the queue, seconds."
    )
    seen_ttl_s: int = Field(86_400, ge=1, description="How long Redis remembers a stored message, seconds.")
    quarantine_rows_per_day: int = Field(
        100_000, ge=1, description="Most new quarantine rows of one gateway and UTC day, rows."
    )

    # maintenance
    partitions_ahead_days: int = Field(7, ge=1, le=60, description="Daily partitions kept ready, days.")
    rollup_s: float = Field(30, gt=0, description="Period of bringing aggregates up to date, seconds.")
    aggregate_lag_alert_s: float = Field(
        300, gt=0, description="Lag of the aggregates from which there is an alert, seconds."
    )
    quality_period_s: float = Field(300, gt=0, description="Period of quality scoring, seconds.")
    quality_degraded_below: float = Field(
        80, ge=0, le=100, description="Score under which quality.degraded is published, 0 to 100."
    )
    quarantine_days: int = Field(90, ge=1, description="Age at which quarantine rows go, days.")
    quarantine_max_rows: int = Field(
        1_000_000, ge=1, description="Quarantine rows beyond which the oldest go, rows."
    )
    quarantine_pending_days: int = Field(
        7, ge=0, description="Age up to which pending quarantine rows stay though there are too many, days."
    )
    # Never inside the week in which aggregates are refreshed regularly from raw rows.
    retention_days: int = Field(30, ge=9, description="Age at which archived raw days may go, days.")

    @property
    def max_body_bytes(self) -> int:
        """Largest message or HTTP body, bytes."""
        return int(self.max_body_mib * MIB)
