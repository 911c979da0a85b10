"""What other services see: tokens they verify themselves, rotated keys, and revocations."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import jwt
import orjson
import pytest
import redis.asyncio as redis
from esp_auth.changes import Actor
from esp_auth.identity import Identity
from esp_common import tokens
from esp_common.errors import Unauthenticated
from esp_common.messaging import EventListener, Requester
from esp_common.redis import connect_redis
from esp_common.revocations import REDIS_KEY

TESTER = Actor("tester", "service")


class Service:
    """A service of the platform, as far as it verifies credentials."""

    def __init__(self, rig: Any, requester: Requester, redis_url: str | None) -> None:
        self.verifier = tokens.Verifier(requester, redis_url=redis_url)
        self.listening = asyncio.Event()
        self.listener = EventListener(
            rig.vhost.url_for("ingest"),
            list(tokens.EVENTS),
            on_event=self.verifier.on_event,
            on_connected=self.listening.set,
        )

    async def accepts(self, token: str) -> bool:
        """Return whether a request with this token would be let in."""
        try:
            await self.verifier.verify(token)
        except Unauthenticated:
            return False
        return True


async def _serve(service: Service) -> AsyncIterator[Service]:
    tasks = [asyncio.create_task(part) for part in (service.verifier.run(), service.listener.run())]
    await asyncio.wait_for(service.listening.wait(), 30)
    yield service
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


@pytest.fixture(scope="module", params=["redis", "broker"])
async def service(
    request: pytest.FixtureRequest, auth_with_worker: Any, redis_url: str
) -> AsyncIterator[Service]:
    """A service that reads revocations from Redis, and one that asks for them."""
    async with Requester(auth_with_worker.vhost.url_for("ingest")) as requester:
        own = Service(auth_with_worker, requester, redis_url if request.param == "redis" else None)
        async for serving in _serve(own):
            yield serving


async def _until(holds: Callable[[], Awaitable[Any]], timeout_s: float = 15) -> None:
    """Wait for what nobody here is told of."""
    async with asyncio.timeout(timeout_s):
        while True:
            if await holds():
                return
            await asyncio.sleep(0.02)


async def _until_refused(service: Service, token: str) -> None:
    async def refused() -> bool:
        return not await service.accepts(token)

    await _until(refused)


async def _rotate_at_once(rig: Any) -> str:
    """Rotate the signing keys, let nobody know beforehand, and return the new one's kid."""
    settings = rig.settings.model_copy(update={"signing_key_publish_s": 0.0})
    key = await Identity(rig.pool, settings).signing.rotate(TESTER)
    session = await rig.log_in(await rig.user("viewer"))

    async def known() -> bool:
        return bool(await rig.me(session) == 200)

    await _until(known)
    return str(key.kid)


async def test_a_service_verifies_what_a_login_gave(auth_with_worker: Any, service: Service) -> None:
    user = await auth_with_worker.user("engineer")
    session = await auth_with_worker.log_in(user)
    principal = await service.verifier.verify(session.tokens["access_token"])
    assert principal.id == str(user.user_id)
    assert principal.session_id == session.claims["sid"]
    assert "assets:write" in principal.scopes


async def test_after_rotate_keys_old_and_new_tokens_verify(auth_with_worker: Any, service: Service) -> None:
    rig = auth_with_worker
    user = await rig.user("viewer")
    before = await rig.log_in(user)
    kid = await _rotate_at_once(rig)
    after = await rig.log_in(user)
    header = jwt.get_unverified_header
    assert header(after.tokens["access_token"])["kid"] == kid
    assert header(before.tokens["access_token"])["kid"] != kid
    for session in (after, before):
        await _until(lambda token=session.tokens["access_token"]: service.accepts(token))
        assert await rig.me(session) == 200


async def test_a_key_that_waits_is_published_and_does_not_sign(auth_with_worker: Any) -> None:
    rig = auth_with_worker
    key = await rig.identity.signing.rotate(TESTER)
    jwks = (await rig.bare.get("/api/v1/auth/.well-known/jwks.json")).json()
    assert key.kid in {entry["kid"] for entry in jwks["keys"]}
    session = await rig.log_in(await rig.user("viewer"))
    assert jwt.get_unverified_header(session.tokens["access_token"])["kid"] != key.kid
    with pytest.raises(Exception, match="signs from"):
        await rig.identity.signing.rotate(TESTER)
    await rig.rows("DELETE FROM auth.signing_keys WHERE kid = $1", key.kid)


async def test_a_key_goes_when_the_last_token_it_signed_has_expired(auth_with_worker: Any) -> None:
    rig = auth_with_worker
    before = {entry["kid"] for entry in (await rig.identity.signing.jwks())["keys"]}
    newest = await _rotate_at_once(rig)
    await rig.rows(
        "UPDATE auth.signing_keys SET signs_from = signs_from - interval '61 minutes 1 second'"
        " WHERE kid = $1",
        newest,
    )
    await rig.rows(
        "UPDATE auth.signing_keys SET signs_from = signs_from - interval '1 day' WHERE kid <> $1", newest
    )
    left = {entry["kid"] for entry in (await rig.identity.signing.jwks())["keys"]}
    assert newest in left
    assert not before & left
    await rig.identity.signing.prune()
    assert {row["kid"] for row in await rig.rows("SELECT kid FROM auth.signing_keys")} == left


async def test_two_rotations_at_the_same_time_make_one_key(auth_with_worker: Any) -> None:
    rotations = [auth_with_worker.identity.signing.rotate(TESTER) for _ in range(2)]
    outcomes = await asyncio.gather(*rotations, return_exceptions=True)
    assert sorted(isinstance(outcome, Exception) for outcome in outcomes) == [False, True]
    await auth_with_worker.rows("DELETE FROM auth.signing_keys WHERE signs_from > now()")


async def test_a_revoked_users_tokens_are_refused_everywhere(auth_with_worker: Any, service: Service) -> None:
    rig = auth_with_worker
    user = await rig.user("viewer")
    session = await rig.log_in(user)
    token = session.tokens["access_token"]
    await _until(lambda: service.accepts(token))
    await rig.client.post(f"/api/v1/users/{user.user_id}/revoke")
    await _until_refused(service, token)
    assert await service.accepts((await rig.log_in(user)).tokens["access_token"])


async def test_a_logout_is_known_everywhere(auth_with_worker: Any, service: Service) -> None:
    rig = auth_with_worker
    user = await rig.user("viewer")
    session, other = await rig.log_in(user), await rig.log_in(user)
    await _until(lambda: service.accepts(session.tokens["access_token"]))
    assert (await rig.bare.post("/api/v1/auth/logout", headers=session.header)).status_code == 204
    await _until_refused(service, session.tokens["access_token"])
    assert await service.accepts(other.tokens["access_token"])


async def _copy(client: Any) -> dict[str, Any] | None:
    document = await client.get(REDIS_KEY)
    return None if document is None else dict(orjson.loads(document))


async def test_a_flushed_redis_has_the_revocations_again(auth_with_worker: Any, redis_url: str) -> None:
    rig = auth_with_worker
    session = await rig.log_in(await rig.user("viewer"))
    assert (await rig.bare.post("/api/v1/auth/logout", headers=session.header)).status_code == 204
    async with redis.Redis.from_url(redis_url) as client:
        written = await _copy(client)
        assert written is not None
        assert session.claims["sid"] in written["sessions"]
        await client.flushdb()
        await _until(lambda: _copy(client))
        healed = await _copy(client)
        assert healed is not None
        assert healed["version"] >= written["version"]
        assert session.claims["sid"] in healed["sessions"]
        assert 0 < await client.ttl(REDIS_KEY) <= 60, "a copy nobody renews is no copy"


async def test_versions_rise_with_each_revocation(auth_with_worker: Any) -> None:
    rig = auth_with_worker
    users = [await rig.user("viewer") for _ in range(4)]
    before = orjson.loads(await rig.identity.revocations.document())["version"]
    revoke = [rig.client.post(f"/api/v1/users/{user.user_id}/revoke") for user in users]
    assert {answer.status_code for answer in await asyncio.gather(*revoke)} == {204}
    document = orjson.loads(await rig.identity.revocations.document())
    assert document["version"] == before + 4
    assert {str(user.user_id) for user in users} <= document["users"].keys()


async def test_entries_go_when_no_token_can_be_concerned(auth_with_worker: Any) -> None:
    rig = auth_with_worker
    user = await rig.user("viewer")
    await rig.client.post(f"/api/v1/users/{user.user_id}/revoke")
    await rig.rows("UPDATE auth.revoked_users SET expires_at = now() WHERE user_id = $1", user.user_id)
    assert str(user.user_id) not in orjson.loads(await rig.identity.revocations.document())["users"]
    await rig.identity.tidy()
    assert not await rig.rows("SELECT FROM auth.revoked_users WHERE user_id = $1", user.user_id)


async def test_without_redis_everything_works_by_event_and_database(auth_with_worker: Any) -> None:
    rig = auth_with_worker
    away = connect_redis("redis://127.0.0.1:1/0")
    events: list[Any] = []
    identity = Identity(rig.pool, rig.settings, away, on_event=events.append)
    user = await rig.user("viewer")
    session = await rig.log_in(user)
    await identity.users.revoke(user.user_id, TESTER)
    assert "auth.revoked" in [event.type for event in events]
    assert str(user.user_id) in orjson.loads(await identity.revocations.document())["users"]
    assert not await identity.revocations.copy()

    async def refused() -> bool:
        return bool(await rig.me(session) == 401)

    await _until(refused)
    await away.aclose()
