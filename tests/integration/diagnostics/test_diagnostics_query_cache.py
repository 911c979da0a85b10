"""The cache of answers, on a real Redis: one works an answer out, others have it, none gets it too old."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from time import monotonic
from typing import Any
from uuid import uuid4

import pytest
from esp_common.errors import InvalidInput
from esp_common.redis import connect_redis
from esp_diagnostics.common.cache import Answer, AnswerCache, cache_key
from esp_stack.programs import free_port
from waiting import until

LONG_S = 60.0


class Work:
    """Something to work out that counts how often it was, and may be held up."""

    def __init__(self, body: bytes = b"answer") -> None:
        self.body = body
        self.times = 0
        self.go_on = asyncio.Event()
        self.go_on.set()

    async def __call__(self) -> bytes:
        self.times += 1
        await self.go_on.wait()
        return self.body + str(self.times).encode()


@asynccontextmanager
async def cache_at(url: str, max_bytes: int = 1000) -> AsyncIterator[AnswerCache]:
    redis = connect_redis(url)
    cache = AnswerCache(redis, max_bytes)
    try:
        yield cache
    finally:
        await cache.close()
        await redis.aclose()


@pytest.fixture
async def cache(redis_url: str) -> AsyncIterator[AnswerCache]:
    """A process's cache."""
    async with cache_at(redis_url) as cache:
        yield cache


@pytest.fixture
async def other(redis_url: str) -> AsyncIterator[AnswerCache]:
    """Another process's cache, on the same Redis."""
    async with cache_at(redis_url) as cache:
        yield cache


@pytest.fixture
def key() -> str:
    """A question that nobody asked before."""
    return cache_key("telemetry:read/", "test", uuid4().hex)


async def test_a_response_is_cached_across_processes(cache: Any, other: Any, key: str) -> None:
    work = Work()
    first = await cache.get("test", key, LONG_S, work)
    again = await other.get("test", key, LONG_S, work)
    assert (first.body, again.body, work.times) == (b"answer1", b"answer1", 1)
    assert again.etag == first.etag
    assert again.made_at == first.made_at


async def test_a_zero_lifetime_disables_caching(cache: Any, key: str) -> None:
    work = Work()
    assert [(await cache.get("test", key, 0, work)).body for _ in range(2)] == [b"answer1", b"answer2"]


async def test_frequent_requests_refresh_an_entry_in_time(cache: Any, key: str) -> None:
    work, ages = Work(), []
    ttl_s = 1.0
    await cache.get("test", key, ttl_s, work)

    async def renewed() -> bool:
        answer = await cache.get("test", key, ttl_s, work)
        ages.append(answer.age_s)
        return bool(answer.body == b"answer3")

    await until(renewed, "renewed twice", 30)
    assert max(ages) < ttl_s


async def test_an_expired_entry_is_not_returned(cache: Any, other: Any, key: str, redis_url: str) -> None:
    work = Work()
    await cache.get("test", key, 0.2, work)
    redis = connect_redis(redis_url)

    async def gone() -> bool:
        return not await redis.exists(key)

    try:
        await until(gone, "forgotten by Redis", 30)
    finally:
        await redis.aclose()
    assert (await other.get("test", key, 0.2, work)).body == b"answer2"


async def test_a_stampede_in_two_processes_computes_once(cache: Any, other: Any, key: str) -> None:
    work = Work()
    work.go_on.clear()
    caches = [cache, other] * 20
    asking = [asyncio.create_task(each.get("test", key, LONG_S, work)) for each in caches]
    await until(lambda: work.times == 1)
    work.go_on.set()
    answers = await asyncio.gather(*asking)
    assert {answer.body for answer in answers} == {b"answer1"}
    assert work.times == 1


async def test_a_cancelled_caller_does_not_cancel_the_computation(cache: Any, key: str) -> None:
    work = Work()
    work.go_on.clear()
    first, second = (asyncio.create_task(cache.get("test", key, LONG_S, work)) for _ in range(2))
    await until(lambda: work.times == 1)
    first.cancel()
    work.go_on.set()
    assert (await second).body == b"answer1"


async def test_an_error_reaches_all_callers_and_is_not_cached(cache: Any, other: Any, key: str) -> None:
    async def refuse() -> bytes:
        raise InvalidInput("no such thing")

    asking = (each.get("test", key, LONG_S, refuse) for each in (cache, other))
    refused = await asyncio.gather(*asking, return_exceptions=True)
    assert [type(error) for error in refused] == [InvalidInput, InvalidInput]
    assert (await cache.get("test", key, LONG_S, Work())).body == b"answer1"


async def test_an_oversized_response_is_not_cached(cache: Any, other: Any, key: str) -> None:
    work = Work(b"x" * 2000)
    await cache.get("test", key, LONG_S, work)
    await other.get("test", key, LONG_S, work)
    assert work.times == 2


async def test_without_redis_responses_are_computed_without_delay(key: str) -> None:
    work = Work()
    async with cache_at(f"redis://127.0.0.1:{free_port()}/0") as cache:
        begin = monotonic()
        answers = [(await cache.get("test", key, LONG_S, work)).body for _ in range(20)]
        assert monotonic() - begin < 10
    assert answers == [f"answer{n}".encode() for n in range(1, 21)]


def test_callers_with_different_permissions_never_share_a_key() -> None:
    rights = ("telemetry:read/", "telemetry:read/gw-1", "diagnostics:read/")
    keys = {cache_key(each, "trend", "P-1") for each in rights}
    assert len(keys) == 3
    assert all(key.startswith("diagnostics:cache:") for key in keys)


def test_different_bodies_have_different_etags() -> None:
    assert Answer.of(b"a").etag == Answer.of(b"a").etag != Answer.of(b"b").etag
