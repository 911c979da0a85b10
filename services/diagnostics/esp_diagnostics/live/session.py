"""One socket of the live stream: authentication, subscriptions and delivery."""

import asyncio
import time
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Final

import structlog
from esp_common.audit import ORIGIN, Origin
from esp_common.auth import CredentialVerifier, Principal, credential
from esp_common.errors import EspError, Forbidden, InvalidInput, Unauthenticated
from esp_common.rate_limit import RateLimiter
from esp_common.roles import until_first_ends
from fastapi import WebSocket
from pydantic import ValidationError
from starlette.websockets import WebSocketDisconnect

from esp_diagnostics.live.broadcast import EVERY, KINDS, Subscriber
from esp_diagnostics.live.messages import (
    AuthenticationTimeout,
    ClientMessage,
    Subscription,
    close_code,
    encode,
    error_message,
    shortened,
)
from esp_diagnostics.live.origins import allowed_origin
from esp_diagnostics.live.slots import LiveSockets

log = structlog.get_logger()

PATH: Final = "/api/v1/live"

VERIFY_PERIOD_S: Final = 1.0
"""Interval of credential checks."""

CLOSE_TIMEOUT_S: Final = 1.0


class LiveSession:
    """One socket, from opening to closing."""

    def __init__(self, socket: WebSocket, sockets: LiveSockets) -> None:
        self._socket = socket
        self._sockets = sockets
        self._verifier: CredentialVerifier = socket.app.state.verifier
        self._limiter: RateLimiter | None = socket.app.state.limiter
        self._subscriber = Subscriber((), sockets.settings.live_buffer_kib * 1024)
        self._credential = ""
        self._caller: Principal | None = None
        origin = ORIGIN.get()
        self._address = (origin and origin.source_address) or "unknown"
        self._opened_at = time.monotonic()
        self._sent = 0

    async def serve(self) -> None:
        """Serve until either side closes the socket."""
        if not allowed_origin(self._socket.headers, self._sockets.settings.cors_origins):
            raise Forbidden(
                "pages of this origin may not open live streams", fix="add the origin to CORS_ORIGINS"
            )
        code: int | None = None
        await self._socket.accept()
        try:
            request = await self._authenticate()
            with self._sockets.slot(self._address):
                await self._serve_caller(request)
        except WebSocketDisconnect as gone:
            code = gone.code
        except EspError as error:
            code = await self._refuse(error)
        finally:
            self._note_end(code)

    async def _serve_caller(self, request: ClientMessage) -> None:
        assert self._caller is not None  # noqa: S101 - for the type checker
        with self._sockets.caller_slot(self._caller.id):
            self._note("live.opened", 101)
            await self._reply(self._welcome())
            self._sockets.hub.join(self._subscriber)
            try:
                await self._execute(request)
                await until_first_ends(self._receive(), self._send(), self._keep_alive())
            finally:
                self._sockets.hub.leave(self._subscriber)

    async def _authenticate(self) -> ClientMessage:
        try:
            async with self._sockets.unauthenticated(self._address):
                return await self._identify()
        except TimeoutError:
            seconds = self._sockets.settings.live_login_s
            fix = 'send {"token": …} or {"ticket": …} first'
            raise AuthenticationTimeout(
                f"no credential within {seconds:g} s, or too many wait", fix=fix
            ) from None

    async def _identify(self) -> ClientMessage:
        """Authenticate by header or first message; return that message."""
        with suppress(Unauthenticated):
            self._credential = credential(self._socket.headers)
        request = ClientMessage(token=None, ticket=None)
        if not self._credential:
            request = await self._receive_message()
            if request.ticket is not None:
                self._credential = await self._sockets.tickets.redeem(request.ticket)
            elif request.token is not None:
                self._credential = request.token
            else:
                raise Unauthenticated("no credential", fix='send {"token": …} or {"ticket": …} first')
        await self._verify()
        return request

    async def _verify(self) -> None:
        """Verify the credential, and update the permitted kinds."""
        given = self._credential
        caller = self._verifier.cached(given) or await self._verifier.verify(given)
        if self._caller is not None and caller.id != self._caller.id:
            raise Forbidden("the token belongs to another caller", fix="open another stream with it")
        self._caller = caller
        self._subscriber.permit([kind for kind, needs in KINDS.items() if caller.may(needs)])
        if not self._subscriber.kinds:
            needed = ", ".join(sorted(set(KINDS.values())))
            raise Forbidden(
                f"one of these permissions is required: {needed}", fix="ask an administrator for it"
            )

    async def _keep_alive(self) -> None:
        """Verify the credential periodically, and send heartbeats."""
        beats_s = self._sockets.settings.live_heartbeat_s
        beat_at = time.monotonic() + beats_s
        while True:
            await asyncio.sleep(min(VERIFY_PERIOD_S, beats_s))
            await self._verify()
            if time.monotonic() >= beat_at:
                beat_at += beats_s
                self._subscriber.mailbox.put("heartbeat", encode(self._heartbeat()), counts=False)

    async def _receive(self) -> None:
        while True:
            request = await self._next_message()
            if request is None:
                continue
            if request.token is not None:
                self._credential = request.token
                await self._verify()
            await self._execute(request)

    async def _next_message(self) -> ClientMessage | None:
        """Return the next message; answer an invalid one and return None."""
        try:
            request = await self._receive_message()
        except InvalidInput as error:
            await self._reply(error_message(error))
            request = None
        if self._limiter is not None and self._caller is not None:
            self._limiter.hit(self._caller.id)
        return request

    async def _receive_message(self) -> ClientMessage:
        message = await self._socket.receive()
        if message["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(message.get("code", 1005))
        try:
            return ClientMessage.model_validate_json(message.get("text") or message.get("bytes") or b"")
        except ValidationError as error:
            # The message may be a secret, so neither it nor pydantic's quote of it is returned.
            wrong = "; ".join(
                f"{'.'.join(map(str, e['loc'])) or 'it'}: {e['msg']}" for e in error.errors()[:3]
            )
            fix = 'send JSON like {"subscribe": {"pumps": ["p-1"]}}'
            raise InvalidInput(f"invalid message: {wrong}", fix=fix) from None

    async def _execute(self, request: ClientMessage) -> None:
        """Execute a client message and confirm it."""
        if request.ping is not None:
            await self._reply({"kind": "pong", "ping": request.ping})
        if request.subscribe or request.unsubscribe:
            try:
                await self._subscribe(
                    request.subscribe or Subscription(), request.unsubscribe or Subscription()
                )
            except InvalidInput as error:
                await self._reply(error_message(error))

    async def _subscribe(self, added: Subscription, removed: Subscription) -> None:
        subscriber, max_subscriptions = self._subscriber, self._sockets.settings.live_subscriptions
        pumps = (subscriber.pumps | set(added.pumps)) - set(removed.pumps)
        fields = (subscriber.fields | set(added.fields)) - set(removed.fields)
        if len(pumps) + len(fields) > max_subscriptions:
            raise InvalidInput(
                f"{len(pumps) + len(fields)} subscriptions exceed the maximum of {max_subscriptions}",
                fix="subscribe to the field instead of each of its pumps",
            )
        self._sockets.hub.subscribe(subscriber, pumps=pumps, fields=fields)
        self._note("live.subscribed", 200, {"pumps": shortened(pumps), "fields": shortened(fields)})
        unknown_pumps, unknown_fields = await self._sockets.unknown(added.pumps, set(added.fields) - {EVERY})
        await self._reply(
            {
                "kind": "subscribed",
                "pumps": sorted(pumps),
                "fields": sorted(fields),
                "unknown": {"pumps": unknown_pumps, "fields": unknown_fields},
            }
        )

    async def _send(self) -> None:
        while True:
            text = await self._subscriber.mailbox.take()
            await self._socket.send_text(text)
            self._sent += 1

    async def _reply(self, message: Mapping[str, Any]) -> None:
        await self._socket.send_text(encode(message))

    def _welcome(self) -> dict[str, Any]:
        assert self._caller is not None  # noqa: S101 - for the type checker
        return {
            "kind": "welcome",
            "id": self._caller.id,
            "kinds": sorted(self._subscriber.kinds),
            "heartbeat_s": self._sockets.settings.live_heartbeat_s,
        }

    def _heartbeat(self) -> dict[str, Any]:
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        return {"kind": "heartbeat", "time": now, "skipped": self._subscriber.mailbox.skipped}

    async def _refuse(self, error: EspError) -> int:
        """Send the error to the client and close the socket; return the close code."""
        code = close_code(error)
        log.info("live.closed", code=code, error_id=error.error_id, reason=error.detail)
        # A client that does not read would block the close, so its time is limited.
        with suppress(RuntimeError, WebSocketDisconnect, TimeoutError):
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                await self._reply(error_message(error))
                await self._socket.close(code, error.code)
        return code

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
        skipped = self._subscriber.mailbox.skipped
        self._note(
            "live.closed", status, {"code": code, "s": lasted_s, "sent": self._sent, "skipped": skipped}
        )
