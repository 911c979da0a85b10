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
        description="PostgreSQL URL; role esp_ingest for api and worker, esp_ingest_owner for maintenance and migrate",
    )
    http_port: int = Field(8001, ge=0, le=65535, description="TCP port of the role's HTTP server")
    engine: Literal["auto", "timescale", "postgres"] = Field(
        "auto", description="storage engine; auto takes TimescaleDB where the server has its community edition"
    )
    database_pool_size: int = Field(8, ge=2, le=100, description="most database connections of one process")

    # Shared by api and worker: what a reading and a message may be.
    max_body_mib: float = Field(4, gt=0, le=16, description="largest message or HTTP body, MiB")
    max_ahead_s: float = Field(300, ge=0, description="how far ahead of the clock a reading's time may be, seconds")
    registry_reload_s: float = Field(30, gt=0, description="longest age of the loaded asset registry, seconds")

    # api
    coalesce_readings: int = Field(256, ge=1, description="most single readings coalesced into one message, readings")
    coalesce_ms: float = Field(4, ge=0, description="longest a single reading waits for company, milliseconds")
    coalesce_body_kib: float = Field(16, gt=0, description="bodies above this go as their own message, KiB")
    max_pending_requests: int = Field(4096, ge=1, description="posts awaiting a confirm before 503, requests")
    max_pending_mib: float = Field(64, gt=0, description="bodies awaiting a confirm before 503, MiB")
    confirm_timeout_s: float = Field(5, gt=0, description="longest wait for the broker's confirm before 503, seconds")

    # worker
    prefetch: int = Field(1000, ge=1, le=65535, description="unacknowledged messages the broker hands out, messages")
    flush_readings: int = Field(5000, ge=1, description="readings that make a flush due, readings")
    flush_ms: float = Field(100, ge=0, description="longest a reading waits for its flush, milliseconds")
    flushes_in_flight: int = Field(2, ge=1, le=8, description="flushes between decode and commit at once, flushes")
    max_buffered_mib: float = Field(64, gt=0, description="bodies held before consuming pauses, MiB")
    outage_pause_s: float = Field(
        60, gt=0, description="database outage after which unacknowledged messages go back to the queue, seconds"
    )
    seen_ttl_s: int = Field(86_400, ge=1, description="how long Redis remembers a stored message, seconds")

    # maintenance
    partitions_ahead_days: int = Field(7, ge=1, le=60, description="daily partitions kept ready, days")
    rollup_1min_s: float = Field(30, gt=0, description="period of the minute aggregates' refresh, seconds")
    rollup_1hour_s: float = Field(600, gt=0, description="period of the hour aggregates' refresh, seconds")
    rollup_1day_s: float = Field(86_400, gt=0, description="period of the day aggregates' refresh, seconds")
    quality_period_s: float = Field(300, gt=0, description="period of quality scoring, seconds")
    quality_degraded_below: float = Field(
        80, ge=0, le=100, description="score under which quality.degraded is published, 0 to 100"
    )
    expected_interval_s: float = Field(
        60, gt=0, description="reporting interval of a pump whose nameplate states none, seconds"
    )
    retention_days: int = Field(30, ge=1, description="age from which archived raw days may be dropped, days")

    @property
    def max_body_bytes(self) -> int:
        """Largest message or HTTP body, bytes."""
        return int(self.max_body_mib * MIB)
