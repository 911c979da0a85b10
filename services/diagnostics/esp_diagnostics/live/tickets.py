"""Tickets: a credential in a form that may be seen. Good once, for half a minute.

Redis holds the credential sealed with the ticket and under the ticket's hash, so that neither the ticket nor
the credential can be read there; who redeems the ticket has the credential verified as ever.
"""

import hashlib
import os
import secrets
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from esp_common.errors import Unauthenticated, Unavailable
from esp_common.redis import AWAY
from redis.asyncio import Redis

TICKET_S: Final = 30
MAX_TICKET_LENGTH: Final = 64
_KEY: Final = "diagnostics:ticket:"
_NONCE_BYTES: Final = 12


class Tickets:
    """Gives out tickets and redeems them, from any process. `redis`: its owner closes it."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    async def issue(self, credential: str) -> str:
        """Return a ticket for `credential`; raise Unavailable with Redis away."""
        ticket = secrets.token_urlsafe(32)
        nonce = os.urandom(_NONCE_BYTES)
        sealed = nonce + AESGCM(_digest(b"seal", ticket)).encrypt(nonce, credential.encode(), None)
        try:
            await self._redis.set(_place(ticket), sealed, ex=TICKET_S)
        except AWAY as error:
            raise _away() from error
        return ticket

    async def redeem(self, ticket: str) -> str:
        """Return the credential of `ticket`, which is spent by that; raise Unauthenticated or Unavailable."""
        if len(ticket) > MAX_TICKET_LENGTH:
            raise _invalid()
        try:
            sealed = await self._redis.getdel(_place(ticket))
        except AWAY as error:
            raise _away() from error
        if not isinstance(sealed, bytes):
            raise _invalid()
        nonce, content = sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:]
        try:
            return AESGCM(_digest(b"seal", ticket)).decrypt(nonce, content, None).decode()
        except InvalidTag:
            raise _invalid() from None


def _place(ticket: str) -> str:
    return _KEY + _digest(b"place", ticket).hex()


def _digest(use: bytes, ticket: str) -> bytes:
    # A ticket has 256 random bits: a plain hash, apart for each use, is as good as a slow one.
    return hashlib.sha256(use + b":" + ticket.encode(errors="replace")).digest()


def _invalid() -> Unauthenticated:
    return Unauthenticated("this ticket is not valid", fix="ask for another: one is good once, for 30 s")


def _away() -> Unavailable:
    return Unavailable("tickets cannot be had at the moment", retry_after_s=2, fix="send the token instead")
