"""Credentials verified over a real broker and Redis, and what happens when either is away."""

import asyncio
import base64
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import orjson
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from esp_common import tokens, topology
from esp_common.auth import Principal, key_digest, scopes_of
from esp_common.contracts.events import Event
from esp_common.errors import Unauthenticated, Unavailable
from esp_common.messaging import Requester
from esp_common.redis import connect_redis
from esp_common.revocations import REDIS_KEY, Revocations
from esp_common.tokens import Verifier
from esp_stack.servers import Redis, Vhost


@pytest.fixture(scope="module")
async def requester(vhost: Vhost) -> AsyncIterator[Requester]:
    """The ingest service's way to ask."""
    async with Requester(vhost.url_for("ingest")) as requester:
        yield requester


@pytest.fixture
def redis(server_home: Path) -> Iterator[Redis]:
    """A Redis that a test may stop."""
    server = Redis(server_home / f"redis-{uuid4().hex[:8]}")
    server.start()
    yield server
    server.stop()


async def write(url: str, document: dict[str, Any]) -> None:
    """Write revocations as auth does."""
    redis = connect_redis(url)
    await redis.set(REDIS_KEY, orjson.dumps(document))
    await redis.aclose()


def document(**parts: Any) -> dict[str, Any]:
    return {"version": 2, "sessions": {}, "users": {}, **parts}


@asynccontextmanager
async def beside(verifier: Verifier) -> AsyncIterator[Verifier]:
    """Run a verifier as an application does."""
    task = asyncio.create_task(verifier.run())
    yield verifier
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def until_refused(
    verifier: Verifier, credential: str, error: type[Exception], seconds: float = 20
) -> None:
    async with asyncio.timeout(seconds):
        while True:
            try:
                await verifier.verify(credential)
            except error:
                return
            await asyncio.sleep(0.02)


async def until(holds: Any, seconds: float = 20) -> None:
    async with asyncio.timeout(seconds):
        while not holds():  # noqa: ASYNC110 - another's state
            await asyncio.sleep(0.02)


async def test_a_good_token_is_verified_once_and_then_known(auth_service: Any, requester: Requester) -> None:
    verifier = Verifier(requester)
    token = auth_service.token("engineer", "auditor")
    assert verifier.cached(token) is None
    principal = await verifier.verify(token)
    assert (principal.kind, principal.name) == ("user", "ann")
    assert principal.scopes == scopes_of({"engineer", "auditor"})
    assert verifier.cached(token) == principal


async def test_an_expired_token_is_not_known_any_more(auth_service: Any, requester: Requester) -> None:
    verifier = Verifier(requester)
    token = auth_service.token("viewer", exp=time.time() + 1)
    assert await verifier.verify(token)
    await until_refused(verifier, token, Unauthenticated)
    assert verifier.cached(token) is None
    with pytest.raises(Unauthenticated, match="expired") as refusal:
        await verifier.verify(token)
    assert token not in refusal.value.line()


async def test_keys_and_tokens_take_the_same_way(auth_service: Any, requester: Requester) -> None:
    verifier = Verifier(requester)
    key = auth_service.key("assets:read")
    assert (await verifier.verify(key)).scopes == {"assets:read"}
    assert verifier.cached(key)
    for credential in ("", "x", "a.b.c", key + "0", key.upper(), "Ünicode", "\udcff"):
        assert verifier.cached(credential) is None
        with pytest.raises(Unauthenticated):
            await verifier.verify(credential)


async def test_a_kid_nobody_has_costs_auth_one_question(auth_service: Any, requester: Requester) -> None:
    verifier = Verifier(requester)
    await verifier.verify(auth_service.token("viewer"))
    asked = auth_service.asked[topology.AUTH_JWKS]
    auth_service.signing["odd"] = Ed25519PrivateKey.generate()
    odd = [auth_service.token("admin", kid="odd") for _ in range(20)]
    del auth_service.signing["odd"]
    answers = await asyncio.gather(*map(verifier.verify, odd), return_exceptions=True)
    assert {type(answer) for answer in answers} == {Unauthenticated}
    assert auth_service.asked[topology.AUTH_JWKS] <= asked + 1


async def test_a_rotated_key_is_known_after_the_event_and_a_retired_one_is_not(
    auth_service: Any, requester: Requester
) -> None:
    auth_service.signing["old"] = Ed25519PrivateKey.generate()
    old = auth_service.token("viewer", kid="old")
    async with beside(Verifier(requester)) as verifier:
        assert await verifier.verify(old)
        del auth_service.signing["old"]
        auth_service.signing["new"] = Ed25519PrivateKey.generate()
        verifier.on_event(Event(tokens.KEYS_ROTATED, "auth", "keys", {}))
        await until(lambda: verifier.cached(old) is None)
        assert await verifier.verify(auth_service.token("viewer", kid="new"))
        with pytest.raises(Unauthenticated):
            await verifier.verify(old)


async def test_a_key_of_the_same_name_is_another_key(auth_service: Any, requester: Requester) -> None:
    verifier = Verifier(requester)
    await verifier.verify(auth_service.token("viewer"))
    forged = auth_service.token("admin").split(".")
    own = Ed25519PrivateKey.generate().sign(".".join(forged[:2]).encode())
    forged[2] = base64.urlsafe_b64encode(own).rstrip(b"=").decode()
    with pytest.raises(Unauthenticated):
        await verifier.verify(".".join(forged))


async def test_known_keys_serve_while_the_broker_is_away(
    auth_service: Any, redis: Redis, vhost: Vhost
) -> None:
    await write(redis.url, document())
    async with Requester(vhost.url_for("ingest")) as requester:
        async with beside(Verifier(requester, redis_url=redis.url)) as verifier:
            await verifier.verify(auth_service.token("viewer"))
            await requester.close()
            verifier.forget()
            assert await verifier.verify(auth_service.token("viewer"))
        stranger = Verifier(requester, redis_url=redis.url)
        with pytest.raises(Unavailable):
            await stranger.verify(auth_service.token("viewer"))


async def test_a_revocation_in_redis_is_heeded_within_seconds(
    auth_service: Any, requester: Requester, redis: Redis
) -> None:
    await write(redis.url, document())
    now = time.time()
    async with beside(Verifier(requester, redis_url=redis.url)) as verifier:
        one, other, user = (auth_service.token("viewer") for _ in range(3))
        first, _, third = [await verifier.verify(token) for token in (one, other, user)]
        await write(
            redis.url,
            document(sessions={first.session_id: now + 3600}, users={third.id: [time.time(), now + 3600]}),
        )
        await until_refused(verifier, one, Unauthenticated, 5)
        await until_refused(verifier, user, Unauthenticated, 5)
        assert verifier.cached(one) is None
        assert await verifier.verify(other)
        again = auth_service.token("viewer", sub=third.id, iat=round(time.time(), 3))
        assert await verifier.verify(again), "a login after the revocation is good"


async def test_a_revocation_event_is_heeded_at_once_and_older_documents_do_not_undo_it(
    auth_service: Any, requester: Requester, redis: Redis
) -> None:
    await write(redis.url, document())
    verifier = Verifier(requester, redis_url=redis.url)
    token = auth_service.token("viewer")
    principal = await verifier.verify(token)
    entry = {"sessions": {principal.session_id: time.time() + 3600}}
    verifier.on_event(Event("auth.revoked", "auth", "s", entry))
    assert verifier.cached(token) is None
    async with beside(verifier):
        await write(redis.url, document(version=3))
        await asyncio.wait_for(verifier._revocations.ensure_current(), 5)
        with pytest.raises(Unauthenticated, match="not valid"):
            await verifier.verify(token)


async def test_with_redis_away_revocations_come_over_the_broker(
    auth_service: Any, requester: Requester, redis: Redis
) -> None:
    await write(redis.url, document())
    async with beside(Verifier(requester, redis_url=redis.url)) as verifier:
        token = auth_service.token("viewer")
        principal = await verifier.verify(token)
        await asyncio.to_thread(redis.stop)
        auth_service.revocations["sessions"][principal.session_id] = time.time() + 3600
        await until_refused(verifier, token, Unauthenticated)
        assert await verifier.verify(auth_service.token("viewer"))


@pytest.mark.parametrize(
    "content", [None, b"", b"{", b"[]", b'{"sessions": [1]}', b'{"users": {"u": 1}}'], ids=repr
)
async def test_a_redis_that_lost_the_document_is_not_believed(
    content: bytes | None, auth_service: Any, requester: Requester, redis_url: str
) -> None:
    client = connect_redis(redis_url)
    await (client.delete(REDIS_KEY) if content is None else client.set(REDIS_KEY, content))
    await client.aclose()
    token = auth_service.token("viewer", sid=str(uuid4()))
    principal = await Verifier(requester).verify(token)
    auth_service.revocations["sessions"][principal.session_id] = time.time() + 3600
    with pytest.raises(Unauthenticated):
        await Verifier(requester, redis_url=redis_url).verify(token)


async def test_with_both_away_nobody_is_let_in_after_a_while(
    auth_service: Any, redis: Redis, vhost: Vhost
) -> None:
    await write(redis.url, document())
    async with Requester(vhost.url_for("ingest")) as requester:
        revocations = Revocations(requester, redis.url, stale_s=3)
        async with beside(Verifier(requester, revocations=revocations)) as verifier:
            token = auth_service.token("viewer")
            await verifier.verify(token)
            await requester.close()
            await asyncio.to_thread(redis.stop)
            await until_refused(verifier, token, Unavailable)
            assert verifier.cached(token) is None
            await asyncio.to_thread(redis.start)
            await write(redis.url, document())
            await until(lambda: verifier.cached(token) is not None)


async def test_a_revoked_key_is_forgotten_by_its_id(auth_service: Any, requester: Requester) -> None:
    verifier = Verifier(requester)
    key, other = auth_service.key("assets:read"), auth_service.key("assets:read")
    principal = await verifier.verify(key)
    await verifier.verify(other)
    verifier.on_event(Event("auth.key-revoked", "auth", principal.id, {"key_id": principal.id}))
    assert verifier.cached(key) is None
    assert verifier.cached(other)


async def test_a_key_revoked_while_it_is_verified_is_asked_for_again(
    auth_service: Any, requester: Requester
) -> None:
    verifier = Verifier(requester)
    key = auth_service.key("assets:read")
    revoked = auth_service.keys[key_digest(key)]
    asked = auth_service.asked[topology.AUTH_VERIFY_KEY]
    auth_service.sending.clear()
    verifying = asyncio.create_task(verifier.verify(key))
    await until(lambda: auth_service.asked[topology.AUTH_VERIFY_KEY] > asked)
    auth_service.keys.pop(key_digest(key))  # answered as valid, revoked before the answer is here
    verifier.on_event(Event("auth.key-revoked", "auth", revoked.id, {"key_id": revoked.id}))
    auth_service.sending.set()
    with pytest.raises(Unauthenticated):
        await verifying
    assert verifier.cached(key) is None


async def test_a_principal_of_a_key_keeps_its_gateway(auth_service: Any, requester: Requester) -> None:
    key = auth_service.key("telemetry:write", gateway_id="gw-01")
    principal = await Verifier(requester).verify(key)
    assert principal == Principal(principal.id, "key", frozenset({"telemetry:write"}), "gw-01")
