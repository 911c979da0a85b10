"""`WS /api/v1/live`: what happens, as it happens; and the tickets that open it.

The client's first message says who it is, `{"token": …}` (access token or API key) or `{"ticket": …}`, and
the next ones what it wants: `{"subscribe": {"pumps": […], "fields": […]}}` adds, `unsubscribe` takes away,
the field `*` is every field. `{"token": …}` again goes on with a newer token of the same caller. Messages
come as `live.broadcast` describes them, with these beside: `welcome`, `subscribed`, `stream` (`live`
false: Redis is away, and nothing comes until it is true again), `heartbeat`, and `error`.

A page of another origin is refused before the socket is accepted (`allowed_origin`). Closed with: 4400 not
understood, 4401 no credential or no longer a good one, 4403 not permitted, 4408 no credential in time, 4429
too many, 1013 try again later.
"""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from datetime import UTC, datetime
from typing import Annotated, Any, Final
from urllib.parse import urlsplit

import orjson
import structlog
from esp_common.answers import problems
from esp_common.audit import ORIGIN, AuditTrail, Origin
from esp_common.auth import PUBLIC, CredentialVerifier, Principal, authenticated, credential
from esp_common.errors import (
    EspError,
    Forbidden,
    InvalidInput,
    RateLimited,
    Unauthenticated,
    Unavailable,
)
from esp_common.rate_limit import RateLimiter
from esp_common.roles import until_first_ends
from fastapi import APIRouter, Depends, Request, WebSocket
from prometheus_client import Gauge
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError
from starlette.datastructures import Headers
from starlette.websockets import WebSocketDisconnect

from esp_diagnostics.common.answers import NO_NUL
from esp_diagnostics.live.broadcast import EVERY, KINDS, Listener, LiveHub
from esp_diagnostics.live.tickets import TICKET_S, Tickets
from esp_diagnostics.settings import DiagnosticsSettings

log = structlog.get_logger()

PATH: Final = "/api/v1/live"
CHECK_S: Final = 1.0
"""How often a client's credential is looked at again."""
CLOSE_S: Final = 1.0
MAX_UNAUTHENTICATED: Final = 100
"""Most sockets of one process without a credential yet; the one that has waited longest goes first."""
MAX_MESSAGE_BYTES: Final = 256 * 1024
SERVER_OPTIONS: Final[Mapping[str, Any]] = {
    "ws": "websockets-sansio",
    "ws_max_size": MAX_MESSAGE_BYTES,
    "ws_per_message_deflate": False,  # a compressor would cost each client 64 KiB, and time
}
"""What the server of an application with these routes is made with."""

_SOCKETS: Final = Gauge("esp_diagnostics_live_sockets", "WebSockets of the live stream that are open.")

_BAD_MESSAGE, _LATE, _TRY_AGAIN = 4400, 4408, 1013
_CODES: Final = ((Unauthenticated, 4401), (Forbidden, 4403), (RateLimited, 4429), (Unavailable, _TRY_AGAIN))

Unknown = Callable[[Collection[str], Collection[str]], Awaitable[tuple[list[str], list[str]]]]
"""Given ids of pumps and of fields, returns those that there are not."""

Id = Annotated[str, StringConstraints(min_length=1, max_length=64, pattern=NO_NUL)]
Secret = Annotated[str, StringConstraints(min_length=1, max_length=8192)]
MAX_IDS: Final = 10_000


class Late(EspError):
    """Who opened a socket did not say who they are."""

    code, status, title = "no-credential-in-time", 408, "No credential in time"


class Ticket(BaseModel):
    """A ticket, good once for `expires_in` seconds."""

    ticket: str = Field(repr=False)
    expires_in: int


class Wish(BaseModel):
    """Pumps and fields by id."""

    model_config = ConfigDict(extra="forbid")

    pumps: Annotated[list[Id], Field(max_length=MAX_IDS)] = []
    fields: Annotated[list[Id], Field(max_length=MAX_IDS)] = []


class Said(BaseModel):
    """One message of a client."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    token: Secret | None = Field(None, repr=False)
    ticket: Secret | None = Field(None, repr=False)
    subscribe: Wish | None = None
    unsubscribe: Wish | None = None
    ping: int | float | str | None = None


class LiveSockets:
    """The sockets of this process, and what they share."""

    def __init__(
        self,
        hub: LiveHub,
        tickets: Tickets,
        trail: AuditTrail,
        settings: DiagnosticsSettings,
        unknown: Unknown,
    ) -> None:
        self.hub = hub
        self.tickets = tickets
        self.trail = trail
        self.settings = settings
        self.unknown = unknown
        self._open = 0
        self._unauthenticated: dict[asyncio.Timeout, str] = {}
        self._by_address: Counter[str] = Counter()
        self._by_caller: Counter[str] = Counter()

    @asynccontextmanager
    async def unauthenticated(self, address: str) -> AsyncIterator[None]:
        """Let a socket authenticate, within a time and beside few others of its address.

        When too many wait, the one that has waited longest is cut off: clients that authenticate at once get
        in however many sockets stay silent. Raises RateLimited for an address with too many, TimeoutError.
        """
        most = self.settings.live_logins_per_address
        if sum(other == address for other in self._unauthenticated.values()) >= most:
            raise RateLimited(
                f"{most} live streams from {address} have not authenticated yet",
                retry_after_s=10,
                fix="send the credential as soon as the socket is open",
            )
        if len(self._unauthenticated) >= MAX_UNAUTHENTICATED:
            oldest = next(iter(self._unauthenticated))
            del self._unauthenticated[oldest]
            oldest.reschedule(asyncio.get_running_loop().time())
        async with asyncio.timeout(self.settings.live_login_s) as timeout:
            self._unauthenticated[timeout] = address
            try:
                yield
            finally:
                self._unauthenticated.pop(timeout, None)

    @contextmanager
    def place(self, address: str) -> Iterator[None]:
        """Hold one of the places for authenticated sockets; raise Unavailable when all are taken.

        Raises RateLimited when the address has its share of them.
        """
        most = self.settings.live_sockets_per_address
        if self._by_address[address] >= most:
            raise RateLimited(
                f"{most} live streams from {address} are open already", retry_after_s=10, fix="close some"
            )
        if self._open >= self.settings.live_sockets:
            raise Unavailable("every place for a live stream is taken", retry_after_s=10, fix="try later")
        self._open += 1
        _SOCKETS.set(self._open)
        try:
            with _counted(self._by_address, address):
                yield
        finally:
            self._open -= 1
            _SOCKETS.set(self._open)

    @contextmanager
    def place_of(self, caller_id: str) -> Iterator[None]:
        """Hold one of the caller's places; raise RateLimited when these are taken."""
        most = self.settings.live_sockets_per_caller
        if self._by_caller[caller_id] >= most:
            raise RateLimited(
                f"{most} live streams are open already", retry_after_s=10, fix="close one, or share it"
            )
        with _counted(self._by_caller, caller_id):
            yield


@contextmanager
def _counted(counter: Counter[str], key: str) -> Iterator[None]:
    counter[key] += 1
    try:
        yield
    finally:
        counter[key] -= 1
        if not counter[key]:
            del counter[key]


def allowed_origin(headers: Headers, allowed: Collection[str]) -> bool:
    """Whether the page that opens a socket may: of this host, or of an `allowed` origin.

    Browsers send the page's origin and let every page open sockets; other programs send none. The scheme is
    the proxy's and is not compared.
    """
    origin = headers.get("origin")
    if origin is None or origin in allowed:
        return True
    try:
        host = urlsplit(origin).netloc
    except ValueError:
        return False
    return bool(host) and host.lower() == headers.get("host", "").lower()


def live_router(sockets: LiveSockets) -> APIRouter:
    """Return the routes of the live stream."""
    router = APIRouter(tags=["live"])

    @router.post("/live/tickets", status_code=201, response_model=Ticket, responses=problems())
    async def issue_ticket(request: Request, _: Annotated[Principal, Depends(authenticated)]) -> Any:
        """Return a ticket that stands for the credential of this request, once, for 30 seconds.

        For clients that would rather not hold their token where the socket is opened.
        """
        ticket = await sockets.tickets.issue(credential(request.headers))
        return Ticket(ticket=ticket, expires_in=TICKET_S)

    @router.websocket("/live", dependencies=[Depends(PUBLIC)])
    async def live(socket: WebSocket) -> None:
        await _Session(socket, sockets).serve()

    return router


class _Session:
    """One socket, from its opening to its end."""

    def __init__(self, socket: WebSocket, sockets: LiveSockets) -> None:
        self._socket = socket
        self._sockets = sockets
        self._verifier: CredentialVerifier = socket.app.state.verifier
        self._limiter: RateLimiter | None = socket.app.state.limiter
        self._listener = Listener((), sockets.settings.live_buffer_kib * 1024)
        self._credential = ""
        self._caller: Principal | None = None
        origin = ORIGIN.get()
        self._address = (origin and origin.source_address) or "unknown"
        self._opened_at = time.monotonic()
        self._sent = 0

    async def serve(self) -> None:
        """Serve until either side ends it."""
        if not allowed_origin(self._socket.headers, self._sockets.settings.cors_origins):
            raise Forbidden("a page of this origin may not open a live stream", fix="add it to CORS_ORIGINS")
        code: int | None = None
        await self._socket.accept()
        try:
            said = await self._authenticate()
            with self._sockets.place(self._address):
                await self._serve_caller(said)
        except WebSocketDisconnect as gone:
            code = gone.code
        except EspError as error:
            code = await self._refuse(error)
        finally:
            self._note_end(code)

    async def _serve_caller(self, said: Said) -> None:
        assert self._caller is not None  # noqa: S101 - for the type checker
        with self._sockets.place_of(self._caller.id):
            self._note("live.opened", 101)
            await self._say(self._welcome())
            self._sockets.hub.join(self._listener)
            try:
                await self._obey(said)
                await until_first_ends(self._receive(), self._send(), self._watch())
            finally:
                self._sockets.hub.leave(self._listener)

    # --- who it is ---

    async def _authenticate(self) -> Said:
        try:
            async with self._sockets.unauthenticated(self._address):
                return await self._identify()
        except TimeoutError:
            seconds = self._sockets.settings.live_login_s
            fix = 'send {"token": …} or {"ticket": …} first'
            raise Late(f"no credential within {seconds:g} s, or too many wait", fix=fix) from None

    async def _identify(self) -> Said:
        """Find out who the client is, from its headers or its first message, which is returned."""
        with suppress(Unauthenticated):
            self._credential = credential(self._socket.headers)
        said = Said(token=None, ticket=None)
        if not self._credential:
            said = await self._hear()
            if said.ticket is not None:
                self._credential = await self._sockets.tickets.redeem(said.ticket)
            elif said.token is not None:
                self._credential = said.token
            else:
                raise Unauthenticated("no credential", fix='send {"token": …} or {"ticket": …} first')
        await self._verify()
        return said

    async def _verify(self) -> None:
        """Look whether the credential is good at this moment, and what it permits."""
        given = self._credential
        caller = self._verifier.cached(given) or await self._verifier.verify(given)
        if self._caller is not None and caller.id != self._caller.id:
            raise Forbidden("this is somebody else's token", fix="open another stream with it")
        self._caller = caller
        self._listener.kinds = frozenset(kind for kind, needs in KINDS.items() if caller.may(needs))
        if not self._listener.kinds:
            needed = ", ".join(sorted(set(KINDS.values())))
            raise Forbidden(f"this needs one of the permissions {needed}", fix="ask an administrator for it")

    async def _watch(self) -> None:
        """Verify again and again, and give signs of life."""
        beats_s = self._sockets.settings.live_heartbeat_s
        beat_at = time.monotonic() + beats_s
        while True:
            await asyncio.sleep(min(CHECK_S, beats_s))
            await self._verify()
            if time.monotonic() >= beat_at:
                beat_at += beats_s
                self._listener.mailbox.put("heartbeat", _text(self._heartbeat()), counts=False)

    # --- what it says ---

    async def _receive(self) -> None:
        while True:
            said = await self._hear_or_tell()
            if said is None:
                continue
            if said.token is not None:
                self._credential = said.token
                await self._verify()
            await self._obey(said)

    async def _hear_or_tell(self) -> Said | None:
        """Return the next message; one that cannot be understood is answered, and is None."""
        try:
            said = await self._hear()
        except InvalidInput as error:
            await self._say(_error(error))
            said = None
        if self._limiter is not None and self._caller is not None:
            self._limiter.hit(self._caller.id)
        return said

    async def _hear(self) -> Said:
        message = await self._socket.receive()
        if message["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(message.get("code", 1005))
        try:
            return Said.model_validate_json(message.get("text") or message.get("bytes") or b"")
        except ValidationError as error:
            # Neither the text itself nor the library's words for it: it may be a secret.
            wrong = "; ".join(
                f"{'.'.join(map(str, e['loc'])) or 'it'}: {e['msg']}" for e in error.errors()[:3]
            )
            fix = 'send JSON like {"subscribe": {"pumps": ["p-1"]}}'
            raise InvalidInput(f"the message is not understood: {wrong}", fix=fix) from None

    async def _obey(self, said: Said) -> None:
        """Do what a message asks for, and say so."""
        if said.ping is not None:
            await self._say({"kind": "pong", "ping": said.ping})
        if said.subscribe or said.unsubscribe:
            try:
                await self._want(said.subscribe or Wish(), said.unsubscribe or Wish())
            except InvalidInput as error:
                await self._say(_error(error))

    async def _want(self, more: Wish, less: Wish) -> None:
        listener, most = self._listener, self._sockets.settings.live_subscriptions
        pumps = (listener.pumps | set(more.pumps)) - set(less.pumps)
        fields = (listener.fields | set(more.fields)) - set(less.fields)
        if len(pumps) + len(fields) > most:
            raise InvalidInput(
                f"{len(pumps) + len(fields)} subscriptions; a stream may have {most}",
                fix="subscribe to the field instead of each of its pumps",
            )
        self._sockets.hub.want(listener, pumps=pumps, fields=fields)
        self._note("live.subscribed", 200, {"pumps": _some(pumps), "fields": _some(fields)})
        unknown_pumps, unknown_fields = await self._sockets.unknown(more.pumps, set(more.fields) - {EVERY})
        await self._say(
            {
                "kind": "subscribed",
                "pumps": sorted(pumps),
                "fields": sorted(fields),
                "unknown": {"pumps": unknown_pumps, "fields": unknown_fields},
            }
        )

    # --- what it is told ---

    async def _send(self) -> None:
        while True:
            text = await self._listener.mailbox.take()
            await self._socket.send_text(text)
            self._sent += 1

    async def _say(self, message: Mapping[str, Any]) -> None:
        await self._socket.send_text(_text(message))

    def _welcome(self) -> dict[str, Any]:
        assert self._caller is not None  # noqa: S101 - for the type checker
        return {
            "kind": "welcome",
            "id": self._caller.id,
            "kinds": sorted(self._listener.kinds),
            "heartbeat_s": self._sockets.settings.live_heartbeat_s,
        }

    def _heartbeat(self) -> dict[str, Any]:
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        return {"kind": "heartbeat", "time": now, "skipped": self._listener.mailbox.skipped}

    async def _refuse(self, error: EspError) -> int:
        """Tell the client why it is not served any longer; return the code it was closed with."""
        code = _close_code(error)
        log.info("live.closed", code=code, error_id=error.error_id, reason=error.detail)
        # One that does not read what it is sent would keep us waiting; its connection is cut then.
        with suppress(RuntimeError, WebSocketDisconnect, TimeoutError):
            async with asyncio.timeout(CLOSE_S):
                await self._say(_error(error))
                await self._socket.close(code, error.code)
        return code

    # --- what is noted of it ---

    def _note(self, action: str, status: int, detail: Mapping[str, Any] | None = None) -> None:
        origin = ORIGIN.get() or Origin(None, None)
        self._sockets.trail.note(
            action,
            PATH,
            actor_id=self._caller.id if self._caller else None,
            actor_kind=self._caller.kind if self._caller else "anonymous",
            status=status,
            source_address=origin.source_address,
            trace_id=origin.trace_id,
            detail=detail,
        )

    def _note_end(self, code: int | None) -> None:
        status = code - 4000 if code is not None and 4400 <= code < 4500 else 200
        lasted_s = round(time.monotonic() - self._opened_at, 1)
        skipped = self._listener.mailbox.skipped
        self._note(
            "live.closed", status, {"code": code, "s": lasted_s, "sent": self._sent, "skipped": skipped}
        )


def _close_code(error: EspError) -> int:
    if isinstance(error, Late):
        return _LATE
    return next((code for kind, code in _CODES if isinstance(error, kind)), _BAD_MESSAGE)


def _error(error: EspError) -> dict[str, Any]:
    return {
        "kind": "error",
        "code": error.code,
        "title": error.title,
        "detail": error.detail,
        "fix": error.fix,
        "error_id": error.error_id,
    }


def _text(message: Mapping[str, Any]) -> str:
    return orjson.dumps(message).decode()


def _some(ids: Collection[str]) -> list[str]:
    """Return as many ids as an audit record has room for, and how many more there are."""
    shown = sorted(ids)[:20]
    return shown if len(shown) == len(ids) else [*shown, f"and {len(ids) - len(shown)} more"]
