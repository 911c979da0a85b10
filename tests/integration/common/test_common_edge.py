"""The edge around every API: a record of each request, limits of callers and time, headers, origins."""

import asyncio
import re
import socket
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from ipaddress import ip_network
from typing import Annotated, Any

import httpx
import pytest
import uvicorn
from esp_common.audit import AuditTrail
from esp_common.auth import PUBLIC, Principal, authenticated, new_api_key, require
from esp_common.client_address import LOOPBACK, TrustedProxies
from esp_common.health import Health
from esp_common.http import create_app
from esp_common.messaging import Requester
from esp_common.rate_limit import RateLimiter
from esp_common.tokens import Verifier
from esp_stack.servers import Vhost
from fastapi import APIRouter, Depends, FastAPI, WebSocket
from starlette.responses import StreamingResponse
from waiting import beside

router = APIRouter()
OUTSIDE = {"X-Forwarded-For": "6.6.6.6, 10.0.0.1"}


@router.get("/pumps/{pump_id}")
async def pump(pump_id: str, caller: Annotated[Principal, Depends(require("assets:read"))]) -> dict[str, str]:
    """Answer who asked for which."""
    return {"pump_id": pump_id, "caller": caller.id}


@router.post("/pumps", dependencies=[Depends(require("assets:write"))])
async def create(body: dict[str, int]) -> None:
    """Take a body."""


@router.get("/me", dependencies=[Depends(authenticated)])
async def me(caller: Annotated[Principal, Depends(authenticated)]) -> dict[str, Any]:
    """Answer who asked."""
    return {"name": caller.name, "scopes": len(caller.scopes)}


@router.get("/open", dependencies=[Depends(PUBLIC)])
async def opened() -> None:
    """Answer anybody."""


@router.get("/broken", dependencies=[Depends(PUBLIC)])
async def broken() -> None:
    """Fail."""
    raise KeyError("hunter2")


@router.get("/slow", dependencies=[Depends(PUBLIC)])
async def slow() -> None:
    """Never answer."""
    await asyncio.Event().wait()


@router.get("/long", dependencies=[Depends(PUBLIC)])
async def long() -> StreamingResponse:
    """Begin soon, and go on for longer than an answer may take to begin."""

    async def parts() -> AsyncIterator[bytes]:
        for _ in range(4):
            yield b"part"
            await asyncio.sleep(0.4)

    return StreamingResponse(parts())


@router.post("/broker/{secret}/user", dependencies=[Depends(PUBLIC)])
async def broker(secret: str) -> None:
    """Answer a path that has a secret in it."""


@router.websocket("/live")
async def live(socket: WebSocket, caller: Annotated[Principal, Depends(require("assets:read"))]) -> None:
    """Say who is there."""
    await socket.accept()
    await socket.send_text(caller.id)


@pytest.fixture(scope="module")
async def requester(vhost: Vhost) -> AsyncIterator[Requester]:
    """The ingest service's connection."""
    async with Requester(vhost.url_for("ingest")) as requester:
        yield requester


@asynccontextmanager
async def serving(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    """Serve an application over a socket."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="off", proxy_headers=False))
    task = asyncio.create_task(server.serve([listener]))
    async with httpx.AsyncClient(
        base_url=f"http://127.0.0.1:{listener.getsockname()[1]}", timeout=30
    ) as client:
        yield client
    server.should_exit = True
    await task


@asynccontextmanager
async def application(requester: Requester, **options: Any) -> AsyncIterator[FastAPI]:
    """An application as a service puts it together."""
    verifier = Verifier(requester)
    trail = AuditTrail(requester, "ingest")
    app = create_app(
        "Test",
        health=Health(),
        verifier=verifier,
        routers=[router],
        trail=trail,
        **{"request_timeout_s": 1.0, "max_body_bytes": 1000, **options},
    )
    async with beside(verifier.run(), trail.run()):
        yield app
    await trail.close()


@pytest.fixture(scope="module")
async def client(requester: Requester, auth_service: Any) -> AsyncIterator[httpx.AsyncClient]:
    """A caller without a credential."""
    async with application(requester, cors_origins=()) as app, serving(app) as client:
        yield client


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


async def test_every_request_leaves_exactly_one_record(
    client: httpx.AsyncClient, auth_service: Any, auditor: Any
) -> None:
    viewer, operator = auth_service.token("viewer", sub="u-1"), auth_service.token("auditor", sub="u-2")
    asked = [
        ("GET", "/api/v1/pumps/P-1", bearer(viewer), 200, "success", "u-1"),
        ("GET", "/api/v1/pumps/P-2", bearer(operator), 403, "denied", "u-2"),
        ("GET", "/api/v1/pumps/P-3", bearer("a.b.c"), 401, "denied", None),
        ("GET", "/api/v1/pumps/P-4?x=1", bearer(viewer), 422, "failed", "u-1"),
        ("GET", "/api/v1/open", {}, 200, "success", None),
        ("GET", "/api/v1/broken", {}, 500, "failed", None),
        ("GET", "/api/v1/slow", {}, 503, "failed", None),
        ("POST", "/api/v1/open", {}, 405, "failed", None),
        ("GET", "/nowhere", {}, 404, "failed", None),
        ("PATCH", "/api/v1/nowhere/else", {}, 404, "failed", None),
        ("GET", "/openapi.json", bearer(operator), 200, "success", "u-2"),
        ("GET", "/metrics", {}, 404, "failed", None),
    ] * 5
    for method, path, headers, status, _, _ in asked:
        assert (await client.request(method, path, headers=headers)).status_code == status
    for path in ("/health/live", "/health/ready"):
        await client.get(path)
    await auditor.until(len(asked))
    wanted = Counter(
        (path.partition("?")[0], status, outcome, actor) for _, path, _, status, outcome, actor in asked
    )
    found = Counter(
        (each["object"], each["status"], each["outcome"], each["actor_id"])
        for each in auditor.records.values()
    )
    assert found == wanted


async def test_a_record_says_who_asked_for_what_and_from_where(
    client: httpx.AsyncClient, auth_service: Any, auditor: Any
) -> None:
    key = auth_service.key("assets:read")
    answer = await client.get("/api/v1/pumps/P-1?token=hunter2", headers={"X-API-Key": key, **OUTSIDE})
    await auditor.until(1)
    (record,) = auditor.records.values()
    assert record["action"] == "GET /api/v1/pumps/{pump_id}"
    assert record["actor_kind"] == "key"
    assert record["trace_id"] == answer.headers["X-Request-ID"]
    assert record["source_address"] == "10.0.0.1", "what the proxy says, not what the client wrote before"
    assert "hunter2" not in str(record)


@pytest.mark.parametrize(
    "path",
    ["/api/v1/broker/hunter2/user", "/esp_live_gw-01_hunter2", "/eyJhbGciOiJFZERTQSJ9.hunter2.hunter2"],
)
async def test_no_secret_of_a_path_is_recorded(path: str, client: httpx.AsyncClient, auditor: Any) -> None:
    await client.post(path)
    await auditor.until(1)
    assert "hunter2" not in str(auditor.records)


@pytest.mark.parametrize("forwarded", ["", "nonsense", "1.2.3.4, evil<script>"])
async def test_an_address_that_is_none_is_not_recorded(
    forwarded: str, client: httpx.AsyncClient, auditor: Any
) -> None:
    await client.get("/api/v1/open", headers={"X-Forwarded-For": forwarded})
    await auditor.until(1)
    assert [record["source_address"] for record in auditor.records.values()] == ["127.0.0.1"]


@pytest.mark.parametrize(
    ("headers", "seen"),
    [
        ({"X-Forwarded-For": "6.6.6.6, 203.0.113.9, 10.0.0.1"}, "203.0.113.9"),
        ({"Forwarded": 'for=6.6.6.6, for="[2001:db8::9]:4711";proto=https, for=10.0.0.1'}, "2001:db8::9"),
        ({"Forwarded": 'for="6.6.6.6, for=203.0.113.9'}, "203.0.113.9"),
        ({"Forwarded": "for=6.6.6.6, for=_hidden"}, "127.0.0.1"),
    ],
)
async def test_the_client_behind_trusted_proxies_is_recorded_and_limited(
    headers: dict[str, str], seen: str, requester: Requester, auth_service: Any, auditor: Any
) -> None:
    proxies = TrustedProxies([*LOOPBACK, ip_network("10.0.0.0/8")])
    options = {"proxies": proxies, "limiter": RateLimiter(2)}
    other = {"X-Forwarded-For": "198.51.100.1"}
    async with application(requester, **options) as app, serving(app) as client:
        bad = {"X-API-Key": "wrong"}
        asked = [await client.get("/api/v1/me", headers={**bad, **headers}) for _ in range(3)]
        elsewhere = await client.get("/api/v1/me", headers={**bad, **other})
    assert [answer.status_code for answer in asked] == [401, 401, 429]
    assert elsewhere.status_code == 401
    await auditor.until(4)
    recorded = Counter(record["source_address"] for record in auditor.records.values())
    assert recorded == {seen: 3, "198.51.100.1": 1}


async def test_the_header_of_a_peer_that_is_no_trusted_proxy_does_not_count(
    requester: Requester, auth_service: Any, auditor: Any
) -> None:
    proxies = TrustedProxies([ip_network("10.0.0.0/8")])
    async with application(requester, proxies=proxies) as app, serving(app) as client:
        await client.get("/api/v1/open", headers={"X-Forwarded-For": "203.0.113.9"})
    await auditor.until(1)
    assert [record["source_address"] for record in auditor.records.values()] == ["127.0.0.1"]


@pytest.mark.parametrize("path", ["/api/v1/open", "/nowhere", "/health/live", "/api/v1/broken", "/api/v1/me"])
async def test_every_answer_has_the_headers_that_keep_browsers_careful(
    path: str, client: httpx.AsyncClient
) -> None:
    headers = (await client.get(path)).headers
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Cache-Control"] == "no-store"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert headers["X-Frame-Options"] == "DENY"
    assert headers["Content-Security-Policy"].startswith("default-src 'none'")


async def test_the_documentation_loads_all_it_needs_from_its_own_host(
    client: httpx.AsyncClient, auth_service: Any
) -> None:
    viewer = bearer(auth_service.token("viewer"))
    page = await client.get("/docs", headers=viewer)
    assert "//" not in page.text, "no other host is named"
    (policy,) = page.headers.get_list("Content-Security-Policy")
    assert not set(re.findall(r"https?:|unsafe-\w+|\*", policy))
    loaded = re.findall(r'(?:src|href)="(/[^"]*)"', page.text)
    assert len(loaded) == 3
    for path in loaded:
        answer = await client.get(path, headers=viewer)
        kind = "text/css" if path.endswith("css") else "text/javascript"
        assert (answer.status_code, answer.headers["Content-Type"]) == (200, f"{kind}; charset=utf-8")
    assert "<script>" not in page.text, "the policy allows none"
    assert 'url: "/openapi.json"' in answer.text
    for path, headers, status in (("/docs/other.js", viewer, 404), (loaded[0], {}, 401)):
        assert (await client.get(path, headers=headers)).status_code == status


@pytest.mark.parametrize(
    ("method", "path", "options"),
    [
        ("GET", "/api/v1/pumps/P-1?unknown=1", {}),
        ("POST", "/api/v1/pumps", {"content": b"{", "headers": {"Content-Type": "application/json"}}),
        ("POST", "/api/v1/pumps", {"json": {"a": "text"}}),
        ("POST", "/api/v1/pumps", {}),
    ],
)
async def test_what_is_wrong_with_a_request_is_told_only_to_who_may_make_it(
    method: str, path: str, options: dict[str, Any], client: httpx.AsyncClient, auth_service: Any
) -> None:
    for role, status in ((None, 401), ("auditor", 403), ("engineer", 422)):
        headers = {**options.get("headers", {}), **(bearer(auth_service.token(role)) if role else {})}
        answer = await client.request(method, path, **{**options, "headers": headers})
        assert answer.status_code == status


async def test_an_answer_that_does_not_begin_in_time_is_given_up(client: httpx.AsyncClient) -> None:
    answer = await client.get("/api/v1/slow")
    assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
    assert answer.headers["Retry-After"]


async def test_an_answer_that_has_begun_may_go_on(client: httpx.AsyncClient) -> None:
    assert (await client.get("/api/v1/long")).text == "part" * 4


async def test_who_must_change_the_password_is_known_but_may_nothing(
    client: httpx.AsyncClient, auth_service: Any
) -> None:
    token = bearer(auth_service.token("admin", must=["password"]))
    assert (await client.get("/api/v1/me", headers=token)).json() == {"name": "ann", "scopes": 0}
    refused = await client.get("/api/v1/pumps/P-1", headers=token)
    assert (refused.status_code, refused.json()["fix"]) == (403, "change the password")


async def test_a_caller_above_the_limit_is_refused_and_another_is_not(
    requester: Requester, auth_service: Any, redis_url: str, auditor: Any
) -> None:
    limiter = RateLimiter(20, redis_url)
    async with application(requester, limiter=limiter) as app, serving(app) as client:
        one, other = bearer(auth_service.token("viewer", sub="busy")), bearer(auth_service.token("viewer"))
        answers = [await client.get("/api/v1/me", headers=one) for _ in range(50)]
        late = [answer for answer in answers if answer.status_code == 429]
        assert 10 <= len(late) <= 30, "a minute may have turned meanwhile"
        assert 1 <= int(late[0].headers["Retry-After"]) <= 60
        assert late[0].json()["code"] == "rate-limited"
        assert (await client.get("/api/v1/me", headers=other)).status_code == 200
        assert (await client.get("/health/live")).status_code == 200
        records = await auditor.until(50, actor_id="busy")
    assert [record["status"] for record in records].count(429) == len(late)


async def test_invalid_credentials_of_an_address_are_counted_and_valid_ones_are_not_refused_for_it(
    requester: Requester, auth_service: Any
) -> None:
    async with application(requester, limiter=RateLimiter(20)) as app, serving(app) as client:
        answers = [
            await client.get("/api/v1/me", headers={"X-API-Key": new_api_key(f"guess-{number}")})
            for number in range(50)
        ]
        good = bearer(auth_service.token("viewer", sub="neighbour"))
        assert (await client.get("/api/v1/me", headers=good)).status_code == 200
    statuses = [answer.status_code for answer in answers]
    assert set(statuses) == {401, 429}
    assert 10 <= statuses.count(429) <= 30, "a minute may have turned meanwhile"


async def test_processes_count_together_and_each_alone_when_redis_is_away(redis_url: str) -> None:
    limiters = [RateLimiter(1000, redis_url) for _ in range(2)] + [RateLimiter(1000, "redis://127.0.0.1:1/0")]

    def limited(limiter: RateLimiter) -> bool:
        with suppress(Exception):
            limiter.hit("u-1")
            return False
        return True

    async with beside(*(limiter.run() for limiter in limiters)):
        async with asyncio.timeout(90):
            while not limited(limiters[1]):
                for _ in range(50):
                    limited(limiters[0])
                await asyncio.sleep(0.05)
    alone = [limited(limiters[2]) for _ in range(1500)]
    assert alone.count(False) in (1000, 1500), "of one minute, or of two"


async def test_pages_of_other_origins_may_not_use_the_api_unless_they_are_named(
    client: httpx.AsyncClient, requester: Requester
) -> None:
    page = {"Origin": "https://console.example", "Access-Control-Request-Method": "GET"}
    assert "access-control-allow-origin" not in (await client.get("/api/v1/open", headers=page)).headers
    assert (await client.options("/api/v1/open", headers=page)).status_code == 405
    async with (
        application(requester, cors_origins=["https://console.example"]) as app,
        serving(app) as opened,
    ):
        allowed = await opened.options("/api/v1/open", headers=page)
        assert allowed.headers["access-control-allow-origin"] == "https://console.example"
        foreign = await opened.get("/api/v1/open", headers={"Origin": "https://evil.example"})
        assert "access-control-allow-origin" not in foreign.headers


async def talk(app: FastAPI, headers: dict[str, str], path: str = "/api/v1/live") -> list[dict[str, Any]]:
    """Open a WebSocket as a server would and return what the application says."""
    said: list[dict[str, Any]] = []
    scope = {
        "type": "websocket",
        "path": path,
        "query_string": b"",
        "headers": [(name.lower().encode(), value.encode()) for name, value in headers.items()],
        "client": ("127.0.0.1", 1),
        "subprotocols": [],
        "state": {},
        "extensions": {},
    }

    async def receive() -> dict[str, Any]:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        said.append(message)

    await app(scope, receive, send)
    return said


async def test_a_websocket_needs_a_credential_and_leaves_a_record(
    requester: Requester, auth_service: Any, auditor: Any
) -> None:
    async with application(requester) as app:
        let_in = await talk(app, bearer(auth_service.token("viewer", sub="u-1")))
        assert [message["type"] for message in let_in] == [
            "websocket.accept",
            "websocket.send",
            "websocket.close",
        ]
        for headers in ({}, bearer("a.b.c"), bearer(auth_service.token("auditor", sub="u-2"))):
            refused = await talk(app, headers)
            assert refused[0]["type"] == "websocket.http.response.start"
        records = await auditor.until(4, action="WS /api/v1/live")
    assert [(each["status"], each["actor_id"]) for each in records] == [
        (101, "u-1"),
        (401, None),
        (401, None),
        (403, "u-2"),
    ]
