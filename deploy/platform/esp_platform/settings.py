"""Settings of `esp-platform`: where the servers are, and how its own processes reach them."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from esp_common.errors import InvalidInput
from esp_common.settings import FILE_SUFFIX, FileSettings, env_name
from pydantic import Field, field_validator
from pydantic_settings import NoDecode, SettingsConfigDict

Words = Annotated[tuple[str, ...], NoDecode]


class PlatformSettings(FileSettings):
    """Settings of `esp-platform`, from `ESP_PLATFORM_<NAME>` or the file `ESP_PLATFORM_<NAME>_FILE`.

    An `…_admin_url` is for this command and has a login; the other URLs are what services are given, and
    have none.
    """

    model_config = SettingsConfigDict(env_prefix="ESP_PLATFORM_", extra="forbid", frozen=True)

    secrets_folder: Path | None = Field(None, description="Folder with one file for each secret.")
    ca_file: Path | None = Field(None, description="Authority (PEM) of the servers; none: the system's.")

    database_admin_url: str | None = Field(
        None, repr=False, description="PostgreSQL as administrator: postgresql://user:password@host/postgres."
    )
    database_url: str = Field("postgresql://127.0.0.1:5432/esp", description="PostgreSQL for services.")
    database_engine: Literal["auto", "timescale", "postgres"] = Field(
        "auto", description="Storage engine; auto takes TimescaleDB where the server has its TSL edition."
    )

    broker_admin_url: str | None = Field(
        None,
        repr=False,
        description="Management API as administrator: http(s)://user:password@host:port/api.",
    )
    broker_management_url: str = Field(
        "http://127.0.0.1:15672/api", description="Management API of RabbitMQ for services."
    )
    amqp_url: str = Field("amqp://127.0.0.1:5672/", description="RabbitMQ for services.")

    redis_admin_url: str | None = Field(
        None, repr=False, description="Redis as administrator: redis(s)://user:password@host:port/0."
    )
    redis_url: str = Field("redis://127.0.0.1:6379/0", description="Redis for services.")

    vault_url: str | None = Field(None, description="Base URL of Vault or OpenBao.")
    vault_token: str | None = Field(None, repr=False, description="Token that may change Vault; as a file.")
    vault_database_url: str | None = Field(
        None, description="Maintenance database as Vault reaches it, without login; none: as services do."
    )
    vault_bound_cidrs: Words = Field((), description="Networks AppRoles log in from, by comma; none: any.")
    vault_jwt_url: str | None = Field(
        None, description="OIDC discovery URL of the cluster that signs service-account tokens; none: no JWT."
    )
    vault_jwt_keys_file: Path | None = Field(
        None, description="Public keys (PEM) of that cluster, where Vault cannot reach its discovery URL."
    )
    vault_jwt_issuer: str | None = Field(None, description="Issuer that the tokens name; none: the URL.")
    vault_jwt_audience: str = Field("vault", description="Audience of the service-account tokens.")
    vault_jwt_subject: str = Field(
        "system:serviceaccount:esp:esp-{name}", description="Subject of an identity; {name}: such as ingest."
    )
    certificate_names: Words = Field(
        ("localhost",), description="Host names that Vault may certify for servers, by comma."
    )
    app_role_folder: Path | None = Field(
        None, description="Folder for role ids and secret ids of the AppRoles; none: none are given out."
    )

    blob_connection_string: str | None = Field(
        None, repr=False, description="Azure Storage connection string of archiver and backup; as a file."
    )
    cluster_url: str | None = Field(
        None, repr=False, description="Superuser's URL for backup in mode local; as a file."
    )
    admin_username: str = Field("admin", description="Name of the first administrator.")

    nginx_upstream: str | None = Field(
        None, description="host:port of a service's API, with {service}; none: the default of the target."
    )
    nginx_listen: str | None = Field(None, description="Address and port nginx listens on; none: default.")
    nginx_tls_certificate: str | None = Field(None, description="Certificate of nginx; none: default.")
    nginx_tls_key: str | None = Field(None, description="Key of nginx's certificate; none: default.")
    nginx_resolver: str | None = Field(
        None, description="DNS server nginx asks while it runs; none: default of the target."
    )
    nginx_trusted_proxies: Words = Field(
        (), description="Networks of proxies in front of nginx whose X-Forwarded-For counts, by comma."
    )

    @field_validator("vault_bound_cidrs", "certificate_names", "nginx_trusted_proxies", mode="before")
    @classmethod
    def _split(cls, given: Any) -> Any:
        return tuple(filter(None, map(str.strip, given.split(",")))) if isinstance(given, str) else given

    @classmethod
    def load(cls, **overrides: Any) -> Self:
        """Return the settings of this process; raise InvalidInput for a variable that is wrong or unknown."""
        known = {env_name(cls, name) for name in cls.model_fields}
        prefix = env_name(cls, "")
        unknown = sorted(
            name
            for name in os.environ
            if name.startswith(prefix) and name.removesuffix(FILE_SUFFIX) not in known and name not in known
        )
        if unknown:
            raise InvalidInput(f"unknown settings: {', '.join(unknown)}", fix="see `esp-platform settings`")
        return super().load(**overrides)

    def need(self, *names: str) -> None:
        """Raise InvalidInput naming the variables of `names` that are not set."""
        if missing := self.missing(names):
            raise InvalidInput(f"not set: {', '.join(missing)}", fix="see `esp-platform settings`")

    def missing(self, names: Sequence[str]) -> list[str]:
        """Return the variables of `names` that are not set."""
        return self.variables([name for name in names if getattr(self, name) is None])

    @classmethod
    def variables(cls, names: Sequence[str]) -> list[str]:
        """Return the environment variables of `names`."""
        return [env_name(cls, name) for name in names]
