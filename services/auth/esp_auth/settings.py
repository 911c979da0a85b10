"""Settings of the auth service."""

from typing import Literal

from esp_common.settings import ServiceSettings
from pydantic import Field
from pydantic_settings import SettingsConfigDict


class AuthSettings(ServiceSettings):
    """Read from `ESP_AUTH_<NAME>` or the file named by `ESP_AUTH_<NAME>_FILE`."""

    model_config = SettingsConfigDict(env_prefix="ESP_AUTH_")

    http_port: int = Field(8002, ge=0, le=65535, description="TCP port of the role's HTTP server.")
    engine: Literal["auto", "timescale", "postgres"] = Field(
        "auto", description="Storage engine; auto takes TimescaleDB where it is complete."
    )
    bootstrap_key: str | None = Field(
        None,
        repr=False,
        min_length=16,
        description="API key with every permission; give it as a file. None: no key is valid.",
    )
