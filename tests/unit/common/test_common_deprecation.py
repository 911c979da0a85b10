"""Deprecated routes announce their removal on every response and in the OpenAPI document."""

from collections.abc import AsyncIterator
from datetime import date, timedelta

import httpx
import pytest
from esp_common.auth import Principal
from esp_common.deprecation import deprecated
from esp_common.errors import NotFound, Unauthenticated
from esp_common.health import Health
from esp_common.http import create_app
from fastapi import APIRouter, FastAPI

OLD = "/api/v1/tanks/{tank_id}"

router = APIRouter(prefix="/tanks")


@router.get("/{tank_id}", **deprecated(date(2026, 12, 1), successor="/api/v1/vessels"))
async def tank(tank_id: str) -> str:
    if tank_id == "missing":
        raise NotFound("no such tank")
    return tank_id


@router.get("")
async def tanks() -> list[str]:
    return []


class NoKeys:
    """Accept no credential."""

    def cached(self, credential: str, /) -> Principal | None:
        return None

    async def verify(self, credential: str, /) -> Principal:
        raise Unauthenticated("no credential is accepted here")


@pytest.fixture
def app() -> FastAPI:
    return create_app("Test", health=Health(), verifier=NoKeys(), routers=[router])


@pytest.fixture
async def client(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        yield client


@pytest.mark.parametrize(
    ("path", "status"), [("T-1", 200), ("missing", 404), ("T-1?colour=red", 422)], ids=str
)
async def test_every_response_of_a_deprecated_route_announces_its_removal(
    path: str, status: int, client: httpx.AsyncClient
) -> None:
    response = await client.get(f"/api/v1/tanks/{path}")
    assert response.status_code == status
    assert response.headers["Deprecation"] == "@1796083200"
    assert response.headers["Sunset"] == "Wed, 02 Jun 2027 00:00:00 GMT"
    assert response.headers["Link"] == '</api/v1/vessels>; rel="successor-version"'


async def test_other_routes_announce_nothing(client: httpx.AsyncClient) -> None:
    response = await client.get("/api/v1/tanks")
    assert response.status_code == 200
    assert {"deprecation", "sunset", "link"}.isdisjoint(response.headers)


def test_openapi_document_says_when_the_route_goes(app: FastAPI) -> None:
    operation = app.openapi()["paths"][OLD]["get"]
    assert operation["deprecated"] is True
    assert operation["x-sunset"] == "2027-06-02"
    assert operation["x-successor"] == "/api/v1/vessels"


def test_less_than_six_months_of_notice_are_refused() -> None:
    with pytest.raises(ValueError, match="183 days ahead, not 30"):
        deprecated(date(2026, 12, 1), successor="/api/v1/vessels", notice=timedelta(days=30))
