"""Telling people: where messages go, and how each gets there or is known not to have.

Messages go out by `apprise`, which speaks to e-mail, webhooks, Teams, Slack and many more by a URL. Such a
URL holds passwords and tokens: it is stored sealed, and given out to nobody. It also says which host this
service talks to, so both its scheme and its host have to be allowed.
"""

import asyncio
import ipaddress
import socket
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit
from uuid import UUID
from weakref import WeakValueDictionary

import apprise
import stamina
import structlog
from esp_common import audit, outbox, topology
from esp_common.contracts.events import Event
from esp_common.database import Pool
from esp_common.errors import Conflict, EspError, InvalidInput, NotFound
from esp_common.sealing import decode_master_key, derive, seal, unseal
from esp_common.telemetry import mask
from esp_common.times import parse_time
from prometheus_client import Counter

from esp_diagnostics.alerts.model import PRIORITIES
from esp_diagnostics.notifications.egress import is_public, only_public
from esp_diagnostics.notifications.routing import NOTICES, TEST, Message, destinations, says_the_same
from esp_diagnostics.notifications.store import Routing, RoutingStore
from esp_diagnostics.settings import SERVICE, DiagnosticsSettings

log = structlog.get_logger()

SEALED_FOR: Final = "notification destinations"
LONGEST_URL: Final = 2000
_REFUSED_PARAMETERS: Final = frozenset(
    {"template", "pgp", "pgpkey", "attach", "config", "import", "keyfile", "cert", "ca", "verify", "redirect"}
)
"""What makes apprise read files of this machine, or trust whom it should not."""

_HOSTS_SHOWN: Final = frozenset({"json", "jsons", "form", "forms", "xml", "xmls", "mailto", "mailtos"})
"""Schemes whose host is one; with others it may be a token."""

_VENDORS: Final = frozenset({"msteams", "slack", "pagerduty", "opsgenie", "wxteams", "discord", "tgram"})
"""Schemes that speak to their vendor's host, whatever their URL says."""

_KINDS: Final[Mapping[str, apprise.NotifyType]] = {
    "low": apprise.NotifyType.INFO,
    "medium": apprise.NotifyType.WARNING,
    "high": apprise.NotifyType.FAILURE,
    "critical": apprise.NotifyType.FAILURE,
}

_SENT: Final = Counter(
    "esp_diagnostics_notifications_total", "Messages to destinations, by outcome.", ["scheme", "outcome"]
)


class DestinationRefused(InvalidInput):
    """Messages may not be sent there."""

    code, title = "destination-refused", "Destination refused"


class NotSent(EspError):
    """A destination did not take a message."""

    code, status, title = "not-sent", 503, "Message not sent"


class NotDelivered(EspError):
    """A message could not be brought to every destination that is meant to have it."""

    code, status, title = "not-delivered", 503, "Message not delivered"


# --- sending ----------------------------------------------------------------------------------------------


class Sender:
    """Sends messages by the URLs of destinations, to allowed schemes and hosts only."""

    def __init__(self, settings: DiagnosticsSettings) -> None:
        self._schemes = frozenset(settings.notify_schemes)
        self._hosts = frozenset(settings.notify_hosts)
        self._timeout_s = settings.notify_timeout_s

    def open(self, url: str) -> Any:
        """Return apprise's service for `url`; raise DestinationRefused when it is none, or not allowed."""
        parts = _split(url)
        if parts.scheme not in self._schemes:
            raise DestinationRefused(
                f"destinations of the scheme {parts.scheme or '-'} are not allowed",
                fix=f"use one of {', '.join(sorted(self._schemes))}, or have NOTIFY_SCHEMES changed",
            )
        if refused := sorted(_REFUSED_PARAMETERS & {name.lower() for name in parse_qs(parts.query)}):
            raise DestinationRefused(
                f"the URL's parameters {', '.join(refused)} are not allowed", fix="leave them out"
            )
        asset = apprise.AppriseAsset(
            app_id="ESP", app_desc="ESP telemetry", app_url="", http_redirects=False, secure_logging=True
        )
        service = apprise.Apprise.instantiate(url, asset=asset, suppress_exceptions=True)
        if service is None:
            raise DestinationRefused(
                f"this is no URL of the scheme {parts.scheme} that apprise knows",
                fix="see the page of the scheme in apprise's documentation",
            )
        for host in self._hosts_of(parts.scheme, service):
            with suppress(ValueError):
                self._check(host, [str(ipaddress.ip_address(host.strip("[]")))])
        return service

    async def send(self, url: str, message: Message) -> None:
        """Send `message`; raise DestinationRefused, or NotSent when it was not taken."""
        service = self.open(url)
        listed: list[str] = []
        for host in self._hosts_of(_split(url).scheme, service):
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
            said = "; ".join(dict.fromkeys(str(entry.message) for entry in result.logs()))
            raise NotSent(mask(said)[:500] or f"no answer within {self._timeout_s:g} s")

    def _hosts_of(self, scheme: str, service: Any) -> list[str]:
        """Return the hosts that sending to `service` talks to, but for those of known vendors."""
        if scheme in _VENDORS:
            return []
        return [host for host in (getattr(service, "smtp_host", None) or service.host,) if host]

    async def _check_name(self, host: str) -> list[str]:
        """Return a listed host's addresses; raise DestinationRefused unless those of others are public."""
        try:
            found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
        except OSError as error:
            raise NotSent(f"no address of {host}: {error}") from None
        addresses = [str(address[0]) for *_, address in found]
        self._check(host, addresses)
        return addresses if host in self._hosts else []

    def _check(self, host: str, addresses: Sequence[str]) -> None:
        """Raise DestinationRefused for an address of this machine, its network or its cloud's metadata."""
        if host not in self._hosts and not all(map(is_public, addresses)):
            raise DestinationRefused(
                f"{host} is not a public address", fix="have it listed in NOTIFY_HOSTS, or use a public one"
            )


def _split(url: str) -> Any:
    try:
        return urlsplit(url)
    except ValueError:
        raise DestinationRefused("this is no URL", fix="write scheme://host/…") from None


def shown(url: str) -> str:
    """Return what may be shown of a destination's URL."""
    parts = _split(url)
    if parts.scheme not in _HOSTS_SHOWN or not parts.hostname:
        return f"{parts.scheme}://…"
    try:
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        port = ""
    return f"{parts.scheme}://{parts.hostname}{port}/…"


# --- destinations and routes ------------------------------------------------------------------------------


class Notifications:
    """Changes destinations and routes on behalf of `actor`; changes are audited, without secrets."""

    def __init__(self, pool: Pool, settings: DiagnosticsSettings) -> None:
        self._pool = pool
        self._sender = Sender(settings)
        self._seal = Sealer(settings.master_key)

    async def put_destination(
        self, id_: str, *, name: str, url: str | None, enabled: bool, actor: str
    ) -> dict[str, Any]:
        """Create or change a destination; without `url` the one that it has stays.

        Raises DestinationRefused, and InvalidInput when a new one has no URL or no master key is set.
        """
        if url is not None:
            # Loading a scheme reads files, and some services look for more.
            await asyncio.to_thread(self._sender.open, url)
        async with self._pool.acquire() as connection, connection.transaction():
            store = RoutingStore(connection)
            await store.lock()
            before = await store.destination(id_)
            if url is not None:
                place = (_split(url).scheme, self._seal.close(url, id_), shown(url))
            elif before is not None:
                place = (before["scheme"], before["sealed_url"], before["shown_url"])
            else:
                raise InvalidInput(f"destination {id_} is new and has no url", fix="give its url")
            row = await store.put_destination(id_, name, *place, enabled, actor)
            detail = {"name": name, "url": place[2], "url_changed": url is not None, "enabled": enabled}
            await _audit(connection, actor, "notification-destination.changed", id_, detail)
        return row

    async def delete_destination(self, id_: str, actor: str) -> None:
        """Delete a destination; raise NotFound, or Conflict while a route leads to it."""
        async with self._pool.acquire() as connection, connection.transaction():
            store = RoutingStore(connection)
            await store.lock()
            if routes := await store.routes_to(id_):
                raise Conflict(
                    f"destination {id_} is used by {', '.join(routes)}", fix="change those routes first"
                )
            if not await store.delete_destination(id_):
                raise _no_destination(id_)
            await _audit(connection, actor, "notification-destination.deleted", id_, {})

    async def put_route(self, id_: str, row: Mapping[str, Any], actor: str) -> dict[str, Any]:
        """Create or change a route; raise InvalidInput for destinations that do not exist."""
        async with self._pool.acquire() as connection, connection.transaction():
            store = RoutingStore(connection)
            await store.lock()
            if unknown := await store.unknown_destinations(row["destination_ids"]):
                raise InvalidInput(f"no destinations {', '.join(unknown)}", fix="add them first")
            written = await store.put_route(id_, dict(row), actor)
            await _audit(connection, actor, "notification-route.changed", id_, row)
        return written

    async def delete_route(self, id_: str, actor: str) -> None:
        """Delete a route; raise NotFound."""
        async with self._pool.acquire() as connection, connection.transaction():
            store = RoutingStore(connection)
            await store.lock()
            if not await store.delete_route(id_):
                raise NotFound(f"no route {id_}", fix="see the list of routes")
            await _audit(connection, actor, "notification-route.deleted", id_, {})

    async def test(self, id_: str, actor: str) -> str:
        """Have the notifier send a message to a destination; return the event id the log will have."""
        async with self._pool.acquire() as connection, connection.transaction():
            if await RoutingStore(connection).destination(id_) is None:
                raise _no_destination(id_)
            message = {
                "notice": TEST,
                "priority": "low",
                "title": "A test of this destination",
                "time": datetime.now(UTC),
                "destination_id": id_,
            }
            event = Event("alert.notice", SERVICE, id_, message)
            await outbox.enqueue(connection, event, topology.ALERTS, routing_key="alert.test.low")
            await _audit(connection, actor, "notification-destination.tested", id_, {})
        return event.id


async def _audit(connection: Any, actor: str, action: str, subject: str, data: Mapping[str, Any]) -> None:
    await audit.record(connection, source=SERVICE, actor=actor, action=action, subject=subject, data=data)


def _no_destination(id_: str) -> NotFound:
    return NotFound(f"no destination {id_}", fix="see the list of destinations")


class Sealer:
    """Closes and opens the URLs of destinations."""

    def __init__(self, master_key: str) -> None:
        self._master_key = master_key

    def close(self, url: str, id_: str) -> bytes:
        """Return `url` sealed for destination `id_`; raise InvalidInput without a master key."""
        return seal(self._key(), url.encode(), id_)

    def open(self, sealed: bytes, id_: str) -> str:
        """Return the URL that was sealed for `id_`; raise WrongMasterKey."""
        return unseal(self._key(), sealed, id_).decode()

    def _key(self) -> bytes:
        if not self._master_key:
            raise InvalidInput(
                "no master key is set to seal destinations with", fix="set ESP_DIAGNOSTICS_MASTER_KEY"
            )
        return derive(decode_master_key(self._master_key), SEALED_FOR)


# --- delivering -------------------------------------------------------------------------------------------


class Delivery:
    """Brings messages to every destination that routes name, each once, and keeps the log of it."""

    def __init__(self, pool: Pool, settings: DiagnosticsSettings) -> None:
        self._routing = Routing(pool)
        self._sender = Sender(settings)
        self._seal = Sealer(settings.master_key)
        self._attempts = settings.notify_attempts
        self._retry_s = settings.notify_retry_s
        self._repeat = timedelta(seconds=settings.notify_repeat_s)
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def deliver(self, message: Message, now: datetime) -> None:
        """Bring `message` where routes want it at `now`, but where it has been already.

        Raises NotDelivered when a destination did not take it after every attempt; delivering it again tries
        only those. Messages about one alert go one after the other.
        """
        turn = self._turns.setdefault(message.alert_id or message.event_id, asyncio.Lock())
        async with turn:
            await self._deliver(message, now)

    async def _deliver(self, message: Message, now: datetime) -> None:
        wanted = destinations(message, await self._routing.routes(), now)
        if not wanted:
            if message.notice != "cleared":  # which few ask for
                log.info("notification.unrouted", title=message.title, priority=message.priority)
                await self._note(message, "", "unrouted", 0)
            return
        settled = await self._routing.settled(message.event_id)
        outcomes = await asyncio.gather(
            *(self._bring(message, id_, now) for id_ in wanted if id_ not in settled)
        )
        if failed := [reason for reason in outcomes if reason]:
            raise NotDelivered("; ".join(failed), fix="mend the destination, then replay the dead letter")

    async def _bring(self, message: Message, id_: str, now: datetime) -> str | None:
        """Bring a message to one destination; return why it could not be."""
        row = await self._routing.destination(id_)
        if row is None or not row["enabled"]:
            return None
        if await self._repeats(message, id_, now):
            await self._note(message, id_, "repeated", 0, scheme=row["scheme"])
            return None
        attempts = 0
        try:
            url = self._seal.open(row["sealed_url"], id_)
            async for attempt in stamina.retry_context(
                on=NotSent, attempts=self._attempts, timeout=None, wait_initial=self._retry_s, wait_max=60.0
            ):
                attempts = attempt.num
                with attempt:
                    await self._sender.send(url, message)
        except EspError as error:
            log.warning("notification.failed", destination=id_, attempts=attempts, reason=error.detail)
            await self._note(message, id_, "failed", attempts, error.detail, scheme=row["scheme"])
            return f"{id_}: {error.detail}"
        await self._note(message, id_, "sent", attempts, scheme=row["scheme"])
        return None

    async def _repeats(self, message: Message, id_: str, now: datetime) -> bool:
        if message.alert_id is None or message.notice == TEST:
            return False
        last = await self._routing.last_sent(message.alert_id, id_, now - self._repeat)
        return last is not None and says_the_same(message, *last)

    async def _note(
        self,
        message: Message,
        id_: str,
        outcome: str,
        attempts: int,
        reason: str | None = None,
        *,
        scheme: str = "",
    ) -> None:
        _SENT.labels(scheme, outcome).inc()
        await self._routing.note(message, id_, outcome, attempts, reason)


def message_of(event: Event) -> Message:
    """Return the message of an event on esp.alerts; raise InvalidInput when it is none."""
    data = event.data
    try:
        notice, priority = data["notice"], data["priority"]
        if notice not in (*NOTICES, TEST) or priority not in PRIORITIES:
            raise ValueError(f"{notice} {priority}")  # noqa: TRY301
        alert_id = data.get("alert_id")
        return Message(
            event_id=event.id,
            notice=notice,
            priority=priority,
            title=str(data["title"]),
            time=parse_time(data["time"]),
            action=data.get("action") or "",
            alert_id=str(UUID(alert_id)) if alert_id else None,
            pump_id=data.get("pump_id"),
            field_id=data.get("field_id"),
            condition=data.get("condition"),
            occurrences=data.get("occurrences", 1),
            destination_id=data.get("destination_id"),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InvalidInput(f"a message for nobody: {error!r}") from None
