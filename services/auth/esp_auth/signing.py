"""Signing keys: created, rotated with an overlap, published, and used for access tokens."""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from esp_common.contracts.events import Event
from esp_common.database import Connection, Pool
from esp_common.errors import Conflict

from esp_auth.changes import SERVICE, Actor, announce, note
from esp_auth.domain import tokens
from esp_auth.domain.keys import SigningKey, published, retired, signer
from esp_auth.domain.secrets import seal, unseal
from esp_auth.store.signing_keys import SigningKeyStore
from esp_auth.store.users import UserStore

KEYS_ROTATED: Final = "auth.keys-rotated"
SYSTEM: Final = Actor("auth", "service")


class Signing:
    """Sign tokens that live `token_s` seconds; a key is published `publish_s` seconds before it signs.

    `on_new_key` is called with the event `auth.keys-rotated` before this process first signs with a key, so
    that it can verify its own tokens.
    """

    def __init__(
        self,
        pool: Pool,
        sealing_key: bytes,
        *,
        token_s: int,
        publish_s: float,
        on_new_key: Callable[[Event], None] = lambda _: None,
    ) -> None:
        self._pool = pool
        self._sealing_key = sealing_key
        self._token_s = token_s
        self._publish_s = publish_s
        self._on_new_key = on_new_key
        self._opened: dict[str, Ed25519PrivateKey] = {}

    async def token(self, connection: Connection, holder: tokens.Holder, now: datetime) -> str:
        """Return an access token issued at `now`, signed by the current key.

        The keys are read each time: a process unaware of a rotation would sign with a key that is no longer
        published when its tokens are used.
        """
        key = signer(await SigningKeyStore(connection).every(), now)
        if key is None:
            key = await self._first_key(connection, now)
        stated = tokens.claims(holder, now.timestamp(), self._token_s)
        return tokens.sign(self._private(key), key.kid, stated)

    async def ensure(self) -> None:
        """Create the first key if there is none, and check that the current one can be decrypted."""
        async with self._pool.acquire() as connection, connection.transaction():
            now = await UserStore(connection).now()
            key = signer(await SigningKeyStore(connection).every(), now)
            key = key or await self._first_key(connection, now)
        # After the commit: listeners look it up.
        self._private(key)

    async def exists(self) -> bool:
        """Return whether there is a signing key."""
        async with self._pool.acquire() as connection:
            return bool(await SigningKeyStore(connection).every())

    async def jwks(self) -> dict[str, Any]:
        """Return the published keys as a JSON Web Key Set."""
        async with self._pool.acquire() as connection:
            keys = await SigningKeyStore(connection).every()
            now = await UserStore(connection).now()
        return {
            "keys": [tokens.jwk(key.kid, key.public_key) for key in published(keys, now, self._lifetime_s)]
        }

    async def rotate(self, actor: Actor) -> SigningKey:
        """Publish a new key that will sign, and return it; raise Conflict while one is waiting for its time.

        Raises WrongMasterKey if the current key cannot be decrypted.
        """
        async with self._pool.acquire() as connection, connection.transaction():
            store = SigningKeyStore(connection)
            await store.lock()
            now = await UserStore(connection).now()
            keys = await store.every()
            if (current := signer(keys, now)) is not None:
                self._private(current)  # under another master key nobody could sign from then on
            if waiting := [key for key in keys if key.signs_from > now]:
                begins = waiting[0].signs_from.isoformat(timespec="seconds")
                raise Conflict(f"a new key signs from {begins}", fix="rotate again after that")
            key = await self._make(connection, now, now + timedelta(seconds=self._publish_s if keys else 0))
            await note(
                connection, actor, "signing-keys.rotate", key.kid, {"signs_from": key.signs_from.isoformat()}
            )
            return key

    async def prune(self) -> None:
        """Delete keys that are no longer needed."""
        async with self._pool.acquire() as connection, connection.transaction():
            store = SigningKeyStore(connection)
            await store.lock()
            gone = retired(await store.every(), await UserStore(connection).now(), self._lifetime_s)
            await store.delete([key.kid for key in gone])

    @property
    def _lifetime_s(self) -> float:
        # A minute more, for clock differences.
        return self._token_s + 60

    async def _first_key(self, connection: Connection, now: datetime) -> SigningKey:
        store = SigningKeyStore(connection)
        await store.lock()
        made_meanwhile = signer(await store.every(), now)
        if made_meanwhile:
            return made_meanwhile
        key = await self._make(connection, now, now)
        await note(connection, SYSTEM, "signing-keys.create", key.kid)
        return key

    async def _make(self, connection: Connection, now: datetime, signs_from: datetime) -> SigningKey:
        kid, public_key, private_key = tokens.new_key()
        sealed = seal(self._sealing_key, private_key, kid)
        key = SigningKey(kid, public_key, sealed, now, signs_from)
        await SigningKeyStore(connection).insert(key)
        await announce(connection, KEYS_ROTATED, kid, {})
        return key

    def _private(self, key: SigningKey) -> Ed25519PrivateKey:
        if key.kid not in self._opened:
            raw = unseal(self._sealing_key, key.sealed_private_key, key.kid)
            self._opened[key.kid] = Ed25519PrivateKey.from_private_bytes(raw)
            self._on_new_key(Event(KEYS_ROTATED, SERVICE, key.kid, {}))
        return self._opened[key.kid]
