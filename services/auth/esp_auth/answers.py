"""What every service asks auth: whose a key is, which public keys there are, and what is revoked."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import asyncpg
import orjson
from esp_common import topology
from esp_common.auth import encode_answer
from esp_common.database import OUTAGES
from esp_common.errors import Unavailable

from esp_auth.api_keys import ApiKeys
from esp_auth.revocations import Revocations
from esp_auth.signing import Signing


class Answers:
    """Answers the questions of `topology.REQUESTS` from the database."""

    def __init__(self, api_keys: ApiKeys, signing: Signing, revocations: Revocations) -> None:
        self._api_keys = api_keys
        self._signing = signing
        self._revocations = revocations
        self._answering: Mapping[str, Callable[[bytes], Awaitable[bytes | None]]] = {
            topology.AUTH_VERIFY_KEY: self._whose,
            topology.AUTH_JWKS: self._public_keys,
            topology.AUTH_REVOCATIONS: self._revoked,
        }

    async def answer(self, question: str, body: bytes) -> bytes | None:
        """Return the answer, None when the question is malformed; raise Unavailable without a database."""
        try:
            return await self._answering[question](body)
        except (*OUTAGES, asyncpg.PostgresError) as error:
            raise Unavailable(f"the database does not answer: {error}", retry_after_s=2) from error

    async def request(self, _: str, routing_key: str, body: bytes, *, timeout_s: float) -> bytes:
        """Answer as if asked over the broker: what an `esp_common` verifier takes for its requester."""
        answer = await self.answer(routing_key, body)
        if answer is None:
            raise Unavailable(f"{routing_key} was asked in a way nobody understands")
        return answer

    async def _whose(self, body: bytes) -> bytes | None:
        digest = digest_of(body)
        return None if digest is None else encode_answer(await self._api_keys.verify(digest))

    async def _public_keys(self, _: bytes) -> bytes:
        return orjson.dumps(await self._signing.jwks())

    async def _revoked(self, _: bytes) -> bytes:
        return await self._revocations.document()


def digest_of(body: bytes) -> str | None:
    """Return the `key_sha256` that a question carries, None when it carries none."""
    try:
        question: Any = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    digest = question.get("key_sha256") if isinstance(question, dict) else None
    return digest if isinstance(digest, str) else None
