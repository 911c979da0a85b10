"""Single-use tickets that stand for a credential, valid for half a minute.

Redis stores the credential encrypted with the ticket under the hash of the ticket, so neither can be read
there. A redeemed credential is verified as usual.
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
    """Issue and redeem tickets in any process; the owner of `redis` closes it."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    async def issue(self, credential: str) -> str:
        """Return a ticket for `credential`; raise Unavailable without Redis."""
        ticket = secrets.token_urlsafe(32)
        nonce = os.urandom(_NONCE_BYTES)
        sealed = nonce + AESGCM(_digest(b"seal", ticket)).encrypt(nonce, credential.encode(), None)
        try:
            await self._redis.set(_place(ticket), sealed, ex=TICKET_S)
        except AWAY as error:
            raise _away() from error
        return ticket

    async def redeem(self, ticket: str) -> str:
        """Return the credential of `ticket` and delete it; raise Unauthenticated or Unavailable."""
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
    # A ticket has 256 random bits, so a plain hash, separate for each use, suffices.
    return hashlib.sha256(use + b":" + ticket.encode(errors="replace")).digest()


def _invalid() -> Unauthenticated:
    return Unauthenticated("the ticket is invalid", fix="request another; each is valid once, for 30 s")


def _away() -> Unavailable:
    return Unavailable("tickets are unavailable at the moment", retry_after_s=2, fix="send the token instead")
