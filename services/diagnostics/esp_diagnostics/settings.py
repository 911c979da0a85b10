"""Settings of the diagnostics service, with the defaults of the native stack."""

from typing import Annotated, Any, Final, Literal

from esp_common import topology
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
        "auto", description="Storage engine; auto uses TimescaleDB if it is complete."
    )
    database_pool_size: int = Field(8, ge=2, le=100, description="Maximum database connections per process.")
    nameplates_s: float = Field(
        3600, gt=0, description="Maximum delay until a changed nameplate without event is noticed, seconds."
    )

    # api: trends
    max_points: int = Field(20_000, ge=1, description="Maximum points of one channel per response, points.")
    max_values: int = Field(
        1_000_000, ge=1, description="Maximum values per response, points times channels, values."
    )
    max_span_days: int = Field(3700, ge=1, description="Maximum span of one response, days.")
    raw_days: int = Field(
        29, ge=0, description="Maximum age of readings used for trends; ingest may drop older ones, days."
    )
    cache_closed_s: int = Field(
        300, ge=0, description="Cache lifetime of responses about a past span, seconds; 0 disables."
    )
    cache_open_s: int = Field(
        10, ge=0, description="Cache lifetime of responses that reach to the present, seconds; 0 disables."
    )
    cache_max_kib: int = Field(2048, ge=1, description="Maximum size of a cached response, KiB.")

    # api: console
    login_notice: str = Field(
        "For authorised persons only. Actions are recorded with the user's name.",
        max_length=2000,
        description="Notice that the console shows before login.",
    )

    # api: live stream
    live_sockets: int = Field(300, ge=1, description="Maximum live streams per process.")
    live_sockets_per_caller: int = Field(10, ge=1, description="Maximum live streams per caller and process.")
    live_sockets_per_address: int = Field(
        60, ge=1, description="Maximum authenticated live streams per client address and process."
    )
    live_logins_per_address: int = Field(
        10, ge=1, description="Maximum live streams per address that are not authenticated yet."
    )
    live_login_s: float = Field(
        5,
        gt=0,
        le=60,
        description="Maximum time until a new live stream is authenticated, seconds.",
    )
    live_subscriptions: int = Field(2000, ge=1, description="Maximum pumps and fields per live stream.")
    live_buffer_kib: int = Field(
        2048, ge=1, description="Maximum pending messages of a slow client of the live stream, KiB."
    )
    live_heartbeat_s: float = Field(
        10, gt=0, le=30, description="Interval of heartbeats of a live stream, seconds."
    )

    # worker
    worker_heartbeat_s: float = Field(5, gt=0, description="Interval of a worker's heartbeats, seconds.")
    worker_missing_s: float = Field(
        15, gt=0, description="Time without heartbeat until others take over a worker, seconds."
    )
    lanes: int = Field(
        topology.LANES,
        ge=topology.LANES,
        le=topology.MAX_LANES,
        description="Queues of accepted readings, with one worker each: the maximum number of workers.",
    )
    lane_prefetch: int = Field(
        50, ge=1, le=1000, description="Maximum unacknowledged messages per queue of readings, messages."
    )
    snapshot_s: float = Field(60, gt=0, description="Interval of saving the state of each pump, seconds.")
    replay_longest_s: float = Field(
        21_600, gt=0, description="Maximum past evaluated again after an outage, seconds."
    )
    replay_new_s: float = Field(
        3600, ge=0, description="Past evaluated for a pump without saved state, seconds."
    )
    earlier_history_s: float = Field(
        86_400,
        ge=0,
        description="Maximum age of a pump's first reading for earlier ones to be evaluated, seconds.",
    )
    backlog_settle_s: float = Field(
        10,
        ge=0,
        description="Wait for further past readings before a pump's backlog counts as finished, seconds.",
    )
    rulebook_s: float = Field(
        10, gt=0, description="Maximum delay until changed pumps and rules are noticed, seconds."
    )
    outage_pause_s: float = Field(
        60, gt=0, description="Database outage after which messages are requeued, seconds."
    )
    training_check_s: float = Field(60, gt=0, description="Interval of checks for due models, seconds.")
    training_days: float = Field(1, gt=0, description="Age at which a pump's model is retrained, days.")
    training_retry_s: float = Field(
        3600, gt=0, description="Pause before a pump with too short a history is retried, seconds."
    )
    training_history_days: float = Field(14, gt=0, description="Training history of models, days.")

    # silence
    no_data_intervals: float = Field(
        5, gt=0, description="Reporting intervals without a reading after which a pump is silent, intervals."
    )
    no_data_least_s: float = Field(
        300, gt=0, description="Minimum time without a reading after which a pump is silent, seconds."
    )
    no_data_interval_s: float = Field(
        720, gt=0, description="Assumed interval of pumps that report by exception, seconds."
    )
    no_data_check_s: float = Field(5, gt=0, description="Interval of checks for silence, seconds.")

    # alerts and notifier
    co2e_kg_per_kwh: float = Field(
        0.4, ge=0, description="Carbon dioxide equivalent of the pumps' energy, kg/kWh."
    )
    alerts_tick_s: float = Field(
        2, gt=0, description="Interval of ending shelving, delays and alerts at rest, seconds."
    )
    master_key: str = Field(
        "",
        repr=False,
        description="Key that seals destinations of notifications, 32 bytes in base64; set it as a file.",
    )
    notify_schemes: Annotated[tuple[str, ...], NoDecode] = Field(
        ("mailtos", "jsons", "workflows", "msteams", "slack", "pagerduty", "opsgenie", "wxteams"),
        description="Allowed kinds of destinations (URL schemes of apprise), separated by commas.",
    )
    notify_hosts: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="Hosts allowed for destinations although not public, separated by commas.",
    )
    notify_attempts: int = Field(
        5, ge=1, description="Attempts to send a message before it becomes a dead letter."
    )
    notify_retry_s: float = Field(
        2, gt=0, description="Initial wait between attempts to send, seconds; doubles each time, up to 60."
    )
    notify_timeout_s: float = Field(20, gt=0, description="Timeout of a destination, seconds.")
    notify_repeat_s: float = Field(
        600, ge=0, description="Time for which a repeated message about an alert is suppressed, seconds."
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
