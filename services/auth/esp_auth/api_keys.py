"""API keys for machines: shown once at creation, rotated with an overlap, revoked at once."""

import asyncio
import hmac
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from secrets import token_hex
from typing import Final

import structlog
from esp_common.auth import KEY_REVOKED, PERMISSIONS, Principal, key_digest, key_id_of, new_api_key
from esp_common.contracts.events import Event
from esp_common.database import OUTAGES, Connection, Pool
from esp_common.errors import Conflict, InvalidInput, NotFound
from esp_common.topology import GATEWAY_ID, RESERVED_GATEWAY_IDS

from esp_auth.changes import Actor, announce, note
from esp_auth.domain.secrets import mac
from esp_auth.granting import GATEWAY_SCOPE, refuse_beyond
from esp_auth.store.api_keys import ApiKey, ApiKeyStore

log = structlog.get_logger()

USE_NOTED_S: Final = 60.0
"""Minimum seconds between two updates of a key's last use."""
LONGEST_DAYS: Final = 3650
"""Maximum days until a key's expiry."""


@dataclass(frozen=True, slots=True)
class NewKey:
    """A new key. `gateway_id`: it may act only for that gateway, over HTTP and on the broker."""

    name: str
    scopes: Collection[str]
    gateway_id: str | None = None
    expires_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Issued:
    """A key with its secret, shown only once."""

    record: ApiKey
    key: str = field(repr=False)


class ApiKeys:
    """Store keys as HMACs of their digests under `pepper`, so that the database alone cannot verify any.

    `on_revoked` is called with each event `auth.key-revoked` after its transaction.
    """

    def __init__(
        self,
        pool: Pool,
        pepper: bytes,
        *,
        overlap_s: float,
        on_revoked: Callable[[Event], None] = lambda _: None,
    ) -> None:
        self._pool = pool
        self._pepper = pepper
        self._overlap_s = overlap_s
        self._on_revoked = on_revoked
        self._noting: set[asyncio.Task[None]] = set()

    async def verify(self, digest: str) -> Principal | None:
        """Return the principal of the valid key with this digest (`esp_common.auth.key_digest`)."""
        wanted = mac(self._pepper, digest)
        async with self._pool.acquire() as connection:
            found = await ApiKeyStore(connection).by_hash(wanted)
        if found is None or not _is_of(found, wanted):
            return None
        if _use_is_due(found):
            task = asyncio.create_task(self._note_use(found.key_id))
            self._noting.add(task)
            task.add_done_callback(self._noting.discard)
        return Principal(found.key_id, "key", frozenset(found.scopes), found.gateway_id, name=found.name)

    async def page(self, after: str | None, gateway_id: str | None, limit: int) -> list[ApiKey]:
        """Return up to `limit` keys with ids above `after`, optionally those of one gateway."""
        async with self._pool.acquire() as connection:
            return await ApiKeyStore(connection).page(after, gateway_id, limit)

    async def get(self, key_id: str) -> ApiKey:
        """Return a key without its secret; raise NotFound."""
        async with self._pool.acquire() as connection:
            return _existing(await ApiKeyStore(connection).by_id(key_id), key_id)

    async def create(self, wanted: NewKey, actor: Actor) -> Issued:
        """Create a key; raise InvalidInput for invalid scopes, gateway or expiry.

        Raises Forbidden if the actor is a key with fewer rights, like `rotate` and `revoke`.
        """
        check_key(wanted)  # an unknown scope is a mistake, not a missing right
        refuse_beyond(actor, wanted.scopes, wanted.gateway_id)
        key_id = token_hex(6)
        key = new_api_key(key_id)
        async with self._pool.acquire() as connection, connection.transaction():
            return Issued(await self._insert(connection, key_id, key, wanted, actor), key)

    async def adopt(self, key: str, wanted: NewKey, actor: Actor) -> bool:
        """Store a key that was created elsewhere; return False if its id exists."""
        check_key(wanted)
        key_id = key_id_of(key)
        if key_id is None:
            raise InvalidInput(f"the key of {wanted.name} is malformed", fix="make one with new_api_key")
        async with self._pool.acquire() as connection, connection.transaction():
            if await ApiKeyStore(connection).by_id(key_id):
                return False
            await self._insert(connection, key_id, key, wanted, actor)
            return True

    async def exists(self, key: str) -> bool:
        """Return whether a key with the id of `key` exists."""
        key_id = key_id_of(key)
        async with self._pool.acquire() as connection:
            return key_id is not None and await ApiKeyStore(connection).by_id(key_id) is not None

    async def rotate(self, key_id: str, actor: Actor, *, overlap_s: float | None = None) -> Issued:
        """Give the key a new secret; the previous one stays valid for `overlap_s` seconds.

        `overlap_s` None: the setting. Raises NotFound, or Conflict for a key that is no longer valid.
        """
        overlap_s = self._overlap_s if overlap_s is None else overlap_s
        key = new_api_key(key_id)
        async with self._pool.acquire() as connection, connection.transaction():
            store = ApiKeyStore(connection)
            before = await _locked_for(store, key_id, actor)
            _refuse_if_over(before)
            record = _existing(await store.rotate(key_id, self._seal(key), overlap_s), key_id)
            event = await _announce_revoked(connection, key_id) if _ends_a_secret(before, overlap_s) else None
            await note(connection, actor, "api-key.rotate", key_id, {"overlap_s": overlap_s})
        if event is not None:
            self._on_revoked(event)
        return Issued(record, key)

    async def revoke(self, key_id: str, actor: Actor) -> ApiKey:
        """Revoke the key everywhere at once; raise NotFound. Idempotent."""
        async with self._pool.acquire() as connection, connection.transaction():
            store = ApiKeyStore(connection)
            before = await _locked_for(store, key_id, actor)
            if before.revoked_at is not None:
                return before
            record = _existing(await store.revoke(key_id), key_id)
            event = await _announce_revoked(connection, key_id)
            await note(connection, actor, "api-key.revoke", key_id, {"name": record.name})
        self._on_revoked(event)
        return record

    async def gateway_may_write(self, gateway_id: str) -> bool:
        """Return whether the gateway has a valid key for sending readings."""
        async with self._pool.acquire() as connection:
            return await ApiKeyStore(connection).gateway_has(gateway_id, GATEWAY_SCOPE)

    async def close(self) -> None:
        """Wait for pending updates of last uses."""
        await asyncio.gather(*self._noting, return_exceptions=True)

    async def _insert(
        self, connection: Connection, key_id: str, key: str, wanted: NewKey, actor: Actor
    ) -> ApiKey:
        record = await ApiKeyStore(connection).insert(
            key_id,
            wanted.name,
            set(wanted.scopes),
            wanted.gateway_id,
            self._seal(key),
            actor.id or "unknown",
            wanted.expires_at,
        )
        if record is None:
            raise Conflict(f"there is an API key {key_id}", fix="try again")
        detail = {"name": record.name, "scopes": record.scopes, "gateway_id": record.gateway_id}
        await note(connection, actor, "api-key.create", key_id, detail)
        return record

    async def _note_use(self, key_id: str) -> None:
        try:
            async with self._pool.acquire() as connection:
                await ApiKeyStore(connection).note_use(key_id, USE_NOTED_S)
        except OUTAGES as error:
            log.debug("api-key.use-not-noted", key_id=key_id, reason=str(error))

    def _seal(self, key: str) -> bytes:
        return mac(self._pepper, key_digest(key))


def check_key(wanted: NewKey) -> None:
    """Raise InvalidInput with all problems of a new key."""
    wrong = [
        ("scopes", f"not a permission: {scope}") for scope in sorted(set(wanted.scopes) - set(PERMISSIONS))
    ]
    if wanted.gateway_id is not None and not GATEWAY_ID.fullmatch(wanted.gateway_id):
        wrong.append(("gateway_id", "not an id of a gateway"))
    if wanted.gateway_id in RESERVED_GATEWAY_IDS:
        wrong.append(("gateway_id", f"{wanted.gateway_id} is a reserved name"))
    if wanted.gateway_id is not None and GATEWAY_SCOPE not in wanted.scopes:
        wrong.append(("scopes", f"a gateway's key needs {GATEWAY_SCOPE}"))
    if wanted.expires_at is not None and not _is_ahead(wanted.expires_at):
        wrong.append(("expires_at", f"is not within the next {LONGEST_DAYS} days"))
    if wrong:
        fields = [{"where": [where], "what": what} for where, what in wrong]
        raise InvalidInput("; ".join(f"{where}: {what}" for where, what in wrong), fields=fields)


def _is_ahead(moment: datetime) -> bool:
    return timedelta() < moment - datetime.now(UTC) <= timedelta(days=LONGEST_DAYS)


def _existing(record: ApiKey | None, key_id: str) -> ApiKey:
    if record is None:
        raise NotFound(f"no API key {key_id}")
    return record


async def _locked_for(store: ApiKeyStore, key_id: str, actor: Actor) -> ApiKey:
    """Return a key with its row locked; raise NotFound, or Forbidden if the actor has fewer rights."""
    record = _existing(await store.lock(key_id), key_id)
    refuse_beyond(actor, record.scopes, record.gateway_id)
    return record


def _refuse_if_over(record: ApiKey) -> None:
    expired = record.expires_at is not None and record.expires_at <= datetime.now(UTC)
    if record.revoked_at is not None or expired:
        raise Conflict(f"API key {record.key_id} is not valid any more", fix="make a new one")


def _ends_a_secret(before: ApiKey, overlap_s: float) -> bool:
    """Return whether a rotation ends a secret that may still be valid."""
    return overlap_s == 0 or before.previous_key_hash is not None


async def _announce_revoked(connection: Connection, key_id: str) -> Event:
    return await announce(connection, KEY_REVOKED, key_id, {"key_id": key_id})


def _is_of(record: ApiKey, wanted: bytes) -> bool:
    """Return whether a hash is the key's current or previous one, in constant time."""
    previous = record.previous_key_hash or b""
    return hmac.compare_digest(record.key_hash, wanted) | hmac.compare_digest(previous, wanted)


def _use_is_due(record: ApiKey) -> bool:
    used = record.last_used_at
    return used is None or (datetime.now(UTC) - used).total_seconds() >= USE_NOTED_S
