"""Settings: one typed class per service, read from Vault, `<PREFIX><NAME>_FILE` or `<PREFIX><NAME>`.

A service subclasses `ServiceSettings`, sets its `env_prefix` and adds its own fields, each with a default
that works natively and a description with its unit.
"""

import os
import re
from collections.abc import Iterable
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Any, Final, Self
from urllib.parse import urlsplit

from pydantic import Field, ValidationError, ValidationInfo, field_validator, model_validator
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from esp_common import vault
from esp_common.client_address import LOOPBACK, Network
from esp_common.errors import InvalidInput
from esp_common.secrets import read_secret
from esp_common.urls import (
    check_amqp_url,
    check_database_url,
    check_redis_url,
    with_authority,
    with_writable_server,
)

FILE_SUFFIX: Final = "_FILE"
_ORIGIN: Final = re.compile(r"https?://[A-Za-z0-9.-]+(:\d{1,5})?")
_CHECKS: Final = {
    "amqp_url": check_amqp_url,
    "redis_url": check_redis_url,
    "database_url": check_database_url,
}


class _Vault(PydanticBaseSettingsSource):
    """Read the service's values from Vault; they take precedence over secret files and variables."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        return self().get(field_name), field_name, False

    def __call__(self) -> dict[str, Any]:
        service = service_of(self.settings_cls)
        keeper = vault.keeper_of(service)
        found = keeper.settings() if keeper else {}
        # It may be written for a newer version of the service.
        if unknown := found.keys() - self.settings_cls.model_fields:
            vault.say("warning", "vault.unknown-settings", service=service, names=sorted(unknown))
        return {name: value for name, value in found.items() if name not in unknown}


class _SecretFiles(PydanticBaseSettingsSource):
    """Read `<PREFIX><NAME>_FILE`; it takes precedence over the plain variable."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        path = os.environ.get(env_name(self.settings_cls, field_name) + FILE_SUFFIX)
        return (read_secret(path) if path else None), field_name, False

    def __call__(self) -> dict[str, Any]:
        found = {
            name: self.get_field_value(field, name)[0]
            for name, field in self.settings_cls.model_fields.items()
        }
        return {name: value for name, value in found.items() if value is not None}


class FileSettings(BaseSettings):
    """Settings from a file `<PREFIX><NAME>_FILE` or the variable `<PREFIX><NAME>`."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Order the sources: arguments, secret files, environment."""
        return init_settings, _SecretFiles(settings_cls), env_settings

    @classmethod
    def load(cls, **overrides: Any) -> Self:
        """Return the settings of this process; raise InvalidInput naming the variable that is wrong."""
        try:
            return cls(**overrides)
        except ValidationError as error:
            # Only the variable and the reason: the value may be a secret.
            wrong = "; ".join(_problem(cls, e["loc"], e["msg"]) for e in error.errors())
            raise InvalidInput(wrong, fix="see the `settings` command") from None


class ServiceSettings(FileSettings):
    """Settings of every service; subclasses add their own and set `env_prefix`."""

    model_config = SettingsConfigDict(env_prefix="ESP_", extra="forbid", frozen=True)

    amqp_url: str = Field(
        "amqp://guest:guest@127.0.0.1:5672/",
        repr=False,
        description="RabbitMQ: amqp(s)://user:password@host:port/vhost; several nodes: host:port,host:port.",
    )
    database_url: str = Field(
        "postgresql://127.0.0.1:5432/esp",
        repr=False,
        description="PostgreSQL: postgresql://role:password@host:port/database; several hosts: as for nodes.",
    )
    redis_url: str = Field(
        "redis://127.0.0.1:6379/0", repr=False, description="Redis: redis(s)://:password@host:port/db."
    )
    http_host: str = Field("127.0.0.1", description="Address an API's HTTP server listens on.")
    http_port: int = Field(8080, ge=0, le=65535, description="Port of an API's HTTP server.")
    metrics_host: str = Field(
        "127.0.0.1",
        description="Address of /metrics and /health/*, which ask for no credential: never a public one.",
    )
    metrics_port: int = Field(
        0, ge=0, le=65535, description="Port of /metrics and /health/* of the role; 0: any free one."
    )
    shutdown_delay_s: float = Field(
        0,
        ge=0,
        description="Seconds an API told to stop serves on, not ready, for load balancers to notice.",
    )
    liveness_port: int | None = Field(
        None,
        ge=1,
        le=65535,
        description="Port where a thread answers /health/live while the event loop is blocked; none: not.",
    )
    loop_blocked_limit_s: float = Field(
        30,
        ge=1,
        description="Seconds the event loop may be blocked, once started, before the process exits with 1.",
    )
    log_level: str = Field(
        "INFO", pattern="^(DEBUG|INFO|WARNING|ERROR)$", description="Least severe log line written."
    )
    statement_timeout_s: float = Field(
        30, gt=0, description="Seconds after which the database gives up on a statement."
    )
    otel_endpoint: str | None = Field(
        None, description="OpenTelemetry collector (OTLP over HTTP base URL); none: no traces."
    )
    tls_ca_file: Path | None = Field(
        None,
        description="Authority (PEM) of amqps, rediss and sslmode=verify-full URLs; none: the system's.",
    )
    rate_limit_per_minute: int = Field(
        600, ge=0, description="Most requests of one caller in a minute, but posts of readings; 0: no limit."
    )
    request_timeout_s: float = Field(
        60, gt=0, description="Seconds after which a request without an answer gets 503."
    )
    cors_origins: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="Origins, with commas between, whose pages may use the API; none: only its own.",
    )
    trusted_proxies: Annotated[tuple[Network, ...], NoDecode] = Field(
        LOOPBACK,
        description="Networks (CIDRs, with commas between) of proxies that may name the client's address.",
    )
    audit_folder: Path | None = Field(
        None, description="Folder for audit records while the broker is away; none: a few thousand in memory."
    )
    audit_spool_mib: float = Field(64, gt=0, description="Most that folder may hold, MiB.")

    @field_validator("cors_origins", mode="before")
    @classmethod
    def _split_origins(cls, given: Any) -> Any:
        origins = tuple(filter(None, map(str.strip, given.split(",")))) if isinstance(given, str) else given
        for origin in origins:
            if not _ORIGIN.fullmatch(str(origin)):
                raise ValueError("not an origin like https://console.example")
        return origins

    @field_validator("trusted_proxies", mode="before")
    @classmethod
    def _parse_networks(cls, given: Any) -> Any:
        if not isinstance(given, str):
            return given
        return tuple(ip_network(cidr) for cidr in filter(None, map(str.strip, given.split(","))))

    @field_validator("amqp_url", "redis_url", "database_url")
    @classmethod
    def _check_url(cls, given: str, info: ValidationInfo) -> str:
        _CHECKS[str(info.field_name)](given)
        return given

    @model_validator(mode="before")
    @classmethod
    def _complete_urls(cls, given: Any) -> Any:
        """Add to each URL the options its client needs: the certificate authority, and a writable server."""
        if not isinstance(given, dict):
            return given
        urls = {name: str(given[name]) for name in _CHECKS if given.get(name)}
        if ca_file := given.get("tls_ca_file"):
            urls = {name: with_authority(url, str(ca_file)) for name, url in urls.items()}
        if "database_url" in urls:
            urls["database_url"] = with_writable_server(urls["database_url"])
        return {**given, **urls}

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Order the sources: arguments, Vault, secret files, environment."""
        return init_settings, _Vault(settings_cls), _SecretFiles(settings_cls), env_settings

    def changed(self) -> list[str]:
        """Return the names of settings that would differ if loaded now, except database logins."""
        fresh = type(self).load()
        return [
            name
            for name in type(self).model_fields
            if _comparable(name, getattr(fresh, name)) != _comparable(name, getattr(self, name))
        ]


def _problem(cls: type[BaseSettings], place: tuple[int | str, ...], message: str) -> str:
    """Return one problem with its variable; one of several settings together has no place."""
    message = message.removeprefix("Value error, ")
    return f"{env_name(cls, str(place[0]))}: {message}" if place else message


def _comparable(name: str, value: Any) -> Any:
    """Return the comparable form of a setting: a database URL without the login issued by Vault."""
    if name != "database_url":
        return value
    parts = urlsplit(value)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2])


def service_of(cls: type[BaseSettings]) -> str:
    """Return the name of the service of these settings: `ingest` for the prefix `ESP_INGEST_`."""
    return str(cls.model_config.get("env_prefix", "")).lower().removeprefix("esp_").strip("_")


def env_name(cls: type[BaseSettings], field_name: str) -> str:
    """Return the environment variable that sets `field_name`."""
    return f"{cls.model_config.get('env_prefix', '')}{field_name}".upper()


def settings_table(cls: type[FileSettings]) -> str:
    """Return a table of all settings: variable, default and meaning."""
    rows = [
        (
            env_name(cls, name),
            _shown(field.default),
            field.description or "",
        )
        for name, field in cls.model_fields.items()
    ]
    if issubclass(cls, ServiceSettings):
        rows += [(name, "-", meaning) for name, meaning in vault.VARIABLES.items()]
    return "\n".join(_aligned([("setting (or …_FILE)", "default", "meaning"), *rows]))


def _shown(default: Any) -> str:
    if isinstance(default, tuple):
        default = ",".join(map(str, default)) or None
    return "-" if default is None else str(default)


def _aligned(rows: list[tuple[str, str, str]]) -> Iterable[str]:
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    return (f"{name:<{widths[0]}}  {default:<{widths[1]}}  {meaning}" for name, default, meaning in rows)
