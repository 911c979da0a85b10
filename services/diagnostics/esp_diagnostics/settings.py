"""Every setting of the diagnostics service, with the default that the native stack runs on."""

from typing import Annotated, Any, Final, Literal

from esp_common.errors import InvalidInput
from esp_common.sealing import decode_master_key
from esp_common.settings import ServiceSettings
from pydantic import Field, field_validator
from pydantic_settings import NoDecode, SettingsConfigDict

SERVICE: Final = "diagnostics"


class DiagnosticsSettings(ServiceSettings):
    """Settings of `esp-diagnostics`, from `ESP_DIAGNOSTICS_<NAME>` or the file named by `…_FILE`."""

    model_config = SettingsConfigDict(env_prefix="ESP_DIAGNOSTICS_", hide_input_in_errors=True)

    database_url: str = Field(
        "postgresql://esp_diagnostics@127.0.0.1:5432/esp",
        repr=False,
        description="PostgreSQL URL; role esp_diagnostics, or esp_diagnostics_owner for migrate.",
    )
    http_port: int = Field(8003, ge=0, le=65535, description="TCP port of the role's HTTP server.")
    engine: Literal["auto", "timescale", "postgres"] = Field(
        "auto", description="Storage engine; auto takes TimescaleDB where it is complete."
    )
    database_pool_size: int = Field(8, ge=2, le=100, description="Most database connections of one process.")
    nameplates_s: float = Field(
        3600, gt=0, description="Longest until a changed nameplate is noticed without its event, seconds."
    )

    # api: trends
    max_points: int = Field(20_000, ge=1, description="Most points of one channel in one answer, points.")
    max_values: int = Field(
        1_000_000, ge=1, description="Most values of one answer, points times channels, values."
    )
    max_span_days: int = Field(3700, ge=1, description="Longest span that one answer may be about, days.")
    raw_days: int = Field(
        29, ge=0, description="Age up to which trends are made of readings: ingest may drop older ones, days."
    )
    cache_closed_s: int = Field(
        300, ge=0, description="How long answers about a span that is over are kept, seconds; 0: not at all."
    )
    cache_open_s: int = Field(
        10, ge=0, description="How long answers that touch the present are kept, seconds; 0: not at all."
    )
    cache_max_kib: int = Field(2048, ge=1, description="Largest answer that is kept, KiB.")

    # api: console
    login_notice: str = Field(
        "For authorised persons only. What is done here is recorded with who did it.",
        max_length=2000,
        description="What the console shows before anybody logs in.",
    )

    # api: live stream
    live_sockets: int = Field(300, ge=1, description="Most live streams of one process.")
    live_sockets_per_caller: int = Field(10, ge=1, description="Most live streams of one caller and process.")
    live_sockets_per_address: int = Field(
        60, ge=1, description="Most authenticated live streams of one client address and process."
    )
    live_logins_per_address: int = Field(
        10, ge=1, description="Most live streams of one address that have not authenticated yet."
    )
    live_login_s: float = Field(
        5,
        gt=0,
        le=60,
        description="Longest that opening a live stream may take until it is authenticated, seconds.",
    )
    live_subscriptions: int = Field(2000, ge=1, description="Most pumps and fields of one live stream.")
    live_buffer_kib: int = Field(
        2048, ge=1, description="Most that waits for a slow client of the live stream, KiB."
    )
    live_heartbeat_s: float = Field(
        10, gt=0, le=30, description="How often a live stream says that it is there, seconds."
    )

    # worker
    worker_heartbeat_s: float = Field(5, gt=0, description="How often a worker says that it lives, seconds.")
    worker_missing_s: float = Field(
        15, gt=0, description="Silence after which the others read a worker's queues, seconds."
    )
    lane_prefetch: int = Field(
        50, ge=1, le=1000, description="Most unacknowledged messages of one queue of readings, messages."
    )
    snapshot_s: float = Field(60, gt=0, description="How often the state of each pump is saved, seconds.")
    replay_longest_s: float = Field(
        21_600, gt=0, description="Most of the past that is judged again after an outage, seconds."
    )
    replay_new_s: float = Field(
        3600, ge=0, description="Past that is judged of a pump without a saved state, seconds."
    )
    earlier_history_s: float = Field(
        86_400,
        ge=0,
        description="How old a pump's first judged reading may be for readings before it to be judged, "
        "seconds.",
    )
    backlog_settle_s: float = Field(
        10,
        ge=0,
        description="Wait for more readings of the past before a pump's backlog counts as judged, seconds.",
    )
    rulebook_s: float = Field(
        10, gt=0, description="Longest until changed pumps and rules are noticed without an event, seconds."
    )
    outage_pause_s: float = Field(
        60, gt=0, description="Database outage after which messages go back to the queue, seconds."
    )
    training_check_s: float = Field(60, gt=0, description="How often due models are looked for, seconds.")
    training_days: float = Field(1, gt=0, description="Age at which a pump's model is trained anew, days.")
    training_retry_s: float = Field(
        3600, gt=0, description="Pause before a pump whose history was too short is tried again, seconds."
    )
    training_history_days: float = Field(14, gt=0, description="Past that models are trained from, days.")

    # silence
    no_data_intervals: float = Field(
        5, gt=0, description="Intervals of a pump without a reading after which it is silent, intervals."
    )
    no_data_least_s: float = Field(
        300, gt=0, description="Shortest time without a reading after which a pump is silent, seconds."
    )
    no_data_interval_s: float = Field(
        720, gt=0, description="Interval of a pump that reports by exception, for its silence, seconds."
    )
    no_data_check_s: float = Field(5, gt=0, description="How often silence is looked for, seconds.")

    # alerts and notifier
    co2e_kg_per_kwh: float = Field(
        0.4, ge=0, description="Carbon dioxide equivalent of the energy that pumps use, kg/kWh."
    )
    alerts_tick_s: float = Field(
        2, gt=0, description="Period of ending shelvings, delays and alerts at rest, seconds."
    )
    master_key: str = Field(
        "",
        repr=False,
        description="32 bytes in base64 that destinations of messages are sealed with; give it as a file.",
    )
    notify_schemes: Annotated[tuple[str, ...], NoDecode] = Field(
        ("mailtos", "jsons", "workflows", "msteams", "slack", "pagerduty", "opsgenie", "wxteams"),
        description="Kinds of destinations (apprise's URL schemes) that are allowed, with commas between.",
    )
    notify_hosts: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="Hosts that messages may go to though their address is not public, with commas between.",
    )
    notify_attempts: int = Field(
        5, ge=1, description="Attempts to send a message before it is a dead letter."
    )
    notify_retry_s: float = Field(
        2, gt=0, description="First wait between attempts to send, seconds; doubles with each, up to 60."
    )
    notify_timeout_s: float = Field(20, gt=0, description="Longest a destination may take, seconds.")
    notify_repeat_s: float = Field(
        600, ge=0, description="How long nobody is told the same of an alert again, seconds."
    )

    @field_validator("notify_schemes", "notify_hosts", mode="before")
    @classmethod
    def _split_words(cls, given: Any) -> Any:
        return tuple(filter(None, map(str.strip, given.split(",")))) if isinstance(given, str) else given

    @field_validator("master_key")
    @classmethod
    def _check_master_key(cls, text: str) -> str:
        if text:
            try:
                decode_master_key(text)
            except InvalidInput as error:
                raise ValueError(error.detail) from None
        return text
