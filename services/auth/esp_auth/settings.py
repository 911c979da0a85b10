"""Settings of the auth service; the defaults suit the native stack."""

import os
from pathlib import Path
from typing import Literal

from esp_common.errors import InvalidInput
from esp_common.settings import ServiceSettings
from pydantic import Field, ValidationInfo, field_validator
from pydantic_settings import SettingsConfigDict

from esp_auth.domain.secrets import decode_master_key

DAY_S = 86_400


class AuthSettings(ServiceSettings):
    """Settings of `esp-auth`, from `ESP_AUTH_<NAME>` or the file named by `ESP_AUTH_<NAME>_FILE`."""

    model_config = SettingsConfigDict(env_prefix="ESP_AUTH_", hide_input_in_errors=True)

    database_url: str = Field(
        "postgresql://esp_auth@127.0.0.1:5432/esp",
        repr=False,
        description="PostgreSQL URL; role esp_auth, or esp_auth_owner for migrate.",
    )
    http_port: int = Field(8002, ge=0, le=65535, description="TCP port of the role's HTTP server.")
    engine: Literal["auto", "timescale", "postgres"] = Field(
        "auto", description="Storage engine; auto takes TimescaleDB where it is complete."
    )
    database_pool_size: int = Field(8, ge=2, le=100, description="Most database connections of one process.")
    master_key: str = Field(
        "",
        repr=False,
        description="32 bytes in base64 from which every secret key follows; give it as a file.",
    )
    audit_key: str = Field(
        "",
        repr=False,
        description="Key of the audit log's seals alone (`esp-auth audit key`), to verify the log where the"
        " master key must not be.",
    )

    # Passwords: what Argon2id costs, and how much of that at once.
    argon2_memory_kib: int = Field(65_536, ge=8, description="Memory of one password hash, KiB.")
    argon2_passes: int = Field(3, ge=1, description="Passes of one password hash over its memory.")
    argon2_lanes: int = Field(1, ge=1, description="Lanes of one password hash.")
    hashes_at_once: int = Field(
        (os.cpu_count() or 1) + 1, ge=1, description="Most password hashes at once; each takes its memory."
    )
    hashes_waiting: int = Field(200, ge=1, description="Most logins waiting for their hash before 503.")

    # Lockout: free failures, then a wait that doubles.
    lockout_account_failures: int = Field(
        5, ge=1, description="Failed logins of an account from one address before that address is refused."
    )
    lockout_first_s: float = Field(30, gt=0, description="First refusal, seconds; doubles with each failure.")
    lockout_longest_s: float = Field(900, gt=0, description="Longest refusal, seconds.")
    lockout_forget_s: float = Field(3600, gt=0, description="Failures are forgotten after this, seconds.")

    delay_account_failures: int = Field(
        20, ge=1, description="Failed logins of an account from new addresses before such logins are delayed."
    )
    delay_address_failures: int = Field(
        20, ge=1, description="Failed logins of an address before logins of new accounts from it are delayed."
    )
    delay_first_s: float = Field(0.5, gt=0, description="First delay, seconds; doubles with each failure.")
    delay_longest_s: float = Field(4, gt=0, le=30, description="Longest delay, seconds.")
    known_address_days: float = Field(
        90, gt=0, description="Days after its last login that an address of an account is no longer known."
    )

    # Sessions and tokens.
    access_token_s: int = Field(3600, ge=1, le=DAY_S, description="Lifetime of an access token, seconds.")
    refresh_token_s: int = Field(7 * DAY_S, ge=1, description="Lifetime of an unused refresh token, seconds.")
    session_s: int = Field(30 * DAY_S, ge=1, description="Longest a session lives, seconds.")
    session_kept_days: int = Field(30, ge=1, description="How long ended sessions are kept, days.")
    signing_key_publish_s: float = Field(
        60, ge=0, description="How long a new signing key is published before it signs, seconds."
    )
    totp_required_for_admin: bool = Field(
        False, description="Whether administrators have to enrol a second factor."
    )

    # API keys and the broker.
    api_key_overlap_s: float = Field(
        DAY_S, ge=0, description="How long a rotated API key's old secret stays good, seconds."
    )
    broker_secret: str | None = Field(
        None,
        repr=False,
        min_length=16,
        description="Part of the path under which the broker asks; give it as a file. None: not served.",
    )
    edge_log_socket: Path | None = Field(
        None,
        description="Unix socket on which the worker takes what the reverse proxy refuses by itself"
        " (syslog, JSON); none: not taken.",
    )
    broker_vhost: str = Field("/", description="Virtual host that gateways may use.")
    broker_management_url: str | None = Field(
        None,
        repr=False,
        description="Management API, http(s)://administrator:password@host:port/api; give it as a file."
        " None: a connection outlives its key.",
    )

    # worker
    revocations_copy_s: float = Field(
        5, gt=0, le=30, description="Period of writing revocations to Redis, seconds."
    )
    broker_sessions_s: float = Field(
        10, gt=0, description="Period of ending connections whose key is not valid any more, seconds."
    )
    tidy_s: float = Field(300, gt=0, description="Period of forgetting what is over, seconds.")

    @field_validator("master_key", "audit_key")
    @classmethod
    def _check_master_key(cls, text: str) -> str:
        if text:
            try:
                decode_master_key(text)
            except InvalidInput as error:
                raise ValueError(error.detail) from None
        return text

    @field_validator("lockout_forget_s")
    @classmethod
    def _check_forgetting(cls, forget_s: float, known: ValidationInfo) -> float:
        if forget_s < known.data.get("lockout_longest_s", 0):
            raise ValueError("failures must not be forgotten before the longest wait is over")
        return forget_s

    @property
    def master(self) -> bytes:
        """The master key; raises InvalidInput when none is set."""
        if not self.master_key:
            raise InvalidInput("ESP_AUTH_MASTER_KEY is not set", fix="make one: openssl rand -base64 32")
        return decode_master_key(self.master_key)
