"""An API with a route that is public and the same route guarded: what verifying costs is the difference."""

import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Annotated

import anyio
from esp_common.auth import PUBLIC, Principal, require
from esp_common.health import Health
from esp_common.http import create_app
from esp_common.messaging import Requester
from esp_common.rate_limit import RateLimiter
from esp_common.tokens import Verifier
from fastapi import APIRouter, Depends, FastAPI
from starlette.responses import Response

OPEN = "/api/v1/open"
GUARDED = "/api/v1/guarded"
NO_LIMIT = 10**9

router = APIRouter()


@router.get("/open", dependencies=[Depends(PUBLIC)])
async def answer_anybody() -> Response:
    """Answer without looking at who asks."""
    return Response(b"ok")


@router.get("/guarded")
async def answer_some(_: Annotated[Principal, Depends(require("telemetry:read"))]) -> Response:
    """Answer callers with the permission."""
    return Response(b"ok")


def application() -> FastAPI:
    """Return the application, wired as services are: verifier, revocations in Redis, rate limits."""
    requester = Requester(os.environ["BENCH_AMQP_URL"], name="bench")
    verifier = Verifier(requester, redis_url=os.environ["BENCH_REDIS_URL"])
    limiter = RateLimiter(NO_LIMIT, os.environ["BENCH_REDIS_URL"])

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(requester)
            group = await stack.enter_async_context(anyio.create_task_group())
            group.start_soon(verifier.run)
            group.start_soon(limiter.run)
            yield
            group.cancel_scope.cancel()

    return create_app(
        "guarded", health=Health(), verifier=verifier, routers=[router], limiter=limiter, lifespan=lifespan
    )
