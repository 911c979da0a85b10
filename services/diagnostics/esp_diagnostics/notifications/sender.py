"""Send messages to destination URLs with apprise."""

import asyncio
import ipaddress
import socket
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

import apprise
from esp_common.errors import EspError, InvalidInput
from esp_common.sealing import decode_master_key, derive, seal, unseal
from esp_common.telemetry import mask

from esp_diagnostics.notifications.egress import is_public, only_public
from esp_diagnostics.notifications.routing import Message
from esp_diagnostics.settings import DiagnosticsSettings

SEALED_FOR: Final = "notification destinations"

_REFUSED_PARAMETERS: Final = frozenset(
    {"template", "pgp", "pgpkey", "attach", "config", "import", "keyfile", "cert", "ca", "verify", "redirect"}
)
"""Parameters that make apprise read local files or disable verification."""

_HOSTS_SHOWN: Final = frozenset({"json", "jsons", "form", "forms", "xml", "xmls", "mailto", "mailtos"})
"""Schemes with a real host name; in others it may be a token."""

_VENDORS: Final = frozenset({"msteams", "slack", "pagerduty", "opsgenie", "wxteams", "discord", "tgram"})
"""Schemes that connect to their vendor's host, whatever the URL says."""

_KINDS: Final[Mapping[str, apprise.NotifyType]] = {
    "low": apprise.NotifyType.INFO,
    "medium": apprise.NotifyType.WARNING,
    "high": apprise.NotifyType.FAILURE,
    "critical": apprise.NotifyType.FAILURE,
}


class DestinationRefused(InvalidInput):
    """Destination that is not allowed."""

    code, title = "destination-refused", "Destination refused"


class NotSent(EspError):
    """A destination did not accept a message."""

    code, status, title = "not-sent", 503, "Message not sent"


class Sender:
    """Send messages to destination URLs with allowed schemes and hosts."""

    def __init__(self, settings: DiagnosticsSettings) -> None:
        self._schemes = frozenset(settings.notify_schemes)
        self._hosts = frozenset(settings.notify_hosts)
        self._timeout_s = settings.notify_timeout_s

    def open(self, url: str) -> Any:
        """Return apprise's service for `url`; raise DestinationRefused if it is invalid or not allowed."""
        parts = split_url(url)
        if parts.scheme not in self._schemes:
            raise DestinationRefused(
                f"destinations of scheme {parts.scheme or '-'} are not allowed",
                fix=f"use one of {', '.join(sorted(self._schemes))}, or change NOTIFY_SCHEMES",
            )
        if refused := sorted(_REFUSED_PARAMETERS & {name.lower() for name in parse_qs(parts.query)}):
            raise DestinationRefused(
                f"the URL parameters {', '.join(refused)} are not allowed", fix="remove them"
            )
        asset = apprise.AppriseAsset(
            app_id="ESP", app_desc="ESP telemetry", app_url="", http_redirects=False, secure_logging=True
        )
        service = apprise.Apprise.instantiate(url, asset=asset, suppress_exceptions=True)
        if service is None:
            raise DestinationRefused(
                f"apprise does not accept this URL of scheme {parts.scheme}",
                fix="see the documentation of the scheme in apprise",
            )
        for host in self._hosts_of(parts.scheme, service):
            with suppress(ValueError):
                self._check(host, [str(ipaddress.ip_address(host.strip("[]")))])
        return service

    async def send(self, url: str, message: Message) -> None:
        """Send `message`; raise DestinationRefused, or NotSent if it was not accepted."""
        service = self.open(url)
        listed: list[str] = []
        for host in self._hosts_of(split_url(url).scheme, service):
            listed += await self._check_name(host)
        sending = apprise.Apprise(asset=service.asset)
        sending.add(service)
        with only_public(listed):
            result = await sending.async_notify(
                title=message.subject,
                body=message.text,
                notify_type=_KINDS[message.priority],
                body_format=apprise.NotifyFormat.TEXT,
                timeout=self._timeout_s,
            )
        if not result:
            reason = "; ".join(dict.fromkeys(str(entry.message) for entry in result.logs()))
            raise NotSent(mask(reason)[:500] or f"no response within {self._timeout_s:g} s")

    def _hosts_of(self, scheme: str, service: Any) -> list[str]:
        """Return the hosts that `service` connects to, except those of known vendors."""
        if scheme in _VENDORS:
            return []
        return [host for host in (getattr(service, "smtp_host", None) or service.host,) if host]

    async def _check_name(self, host: str) -> list[str]:
        """Return the addresses of a listed host; raise DestinationRefused if another host is not public."""
        try:
            found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
        except OSError as error:
            raise NotSent(f"cannot resolve {host}: {error}") from None
        addresses = [str(address[0]) for *_, address in found]
        self._check(host, addresses)
        return addresses if host in self._hosts else []

    def _check(self, host: str, addresses: Sequence[str]) -> None:
        """Raise DestinationRefused for a local, private or cloud metadata address."""
        if host not in self._hosts and not all(map(is_public, addresses)):
            raise DestinationRefused(
                f"{host} is not a public address", fix="list it in NOTIFY_HOSTS, or use a public one"
            )


def split_url(url: str) -> Any:
    """Split a URL; raise DestinationRefused if it is invalid."""
    try:
        return urlsplit(url)
    except ValueError:
        raise DestinationRefused("invalid URL", fix="write scheme://host/…") from None


def redacted(url: str) -> str:
    """Return the part of a destination's URL without secrets."""
    parts = split_url(url)
    if parts.scheme not in _HOSTS_SHOWN or not parts.hostname:
        return f"{parts.scheme}://…"
    try:
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        port = ""
    return f"{parts.scheme}://{parts.hostname}{port}/…"


class Sealer:
    """Seal and unseal destination URLs."""

    def __init__(self, master_key: str) -> None:
        self._master_key = master_key

    def close(self, url: str, id_: str) -> bytes:
        """Return `url` sealed for destination `id_`; raise InvalidInput without a master key."""
        return seal(self._key(), url.encode(), id_)

    def open(self, sealed: bytes, id_: str) -> str:
        """Return the URL sealed for `id_`; raise WrongMasterKey."""
        return unseal(self._key(), sealed, id_).decode()

    def _key(self) -> bytes:
        if not self._master_key:
            raise InvalidInput(
                "no master key to seal destinations with", fix="set ESP_DIAGNOSTICS_MASTER_KEY"
            )
        return derive(decode_master_key(self._master_key), SEALED_FOR)
