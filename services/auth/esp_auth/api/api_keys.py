"""API keys over HTTP, for administrators."""

from datetime import datetime
from typing import Annotated, Any

from esp_common.answers import BODY, Cursor, Limit, Page, UtcTime, page, position, problems
from esp_common.auth import Principal, require
from esp_common.cursors import text_field
from fastapi import APIRouter, Depends, Path, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from esp_auth.api.answers import actor_of
from esp_auth.api_keys import ApiKeys, Issued, NewKey, check_key
from esp_auth.known_gateways import KnownGateways
from esp_auth.store.api_keys import ApiKey

Reader = Depends(require("api-keys:read"))
Writer = Annotated[Principal, Depends(require("api-keys:write"))]
KeyId = Annotated[str, Path(pattern="^[a-z0-9-]{3,64}$")]
Name = Annotated[str, StringConstraints(min_length=1, max_length=100, pattern="^[^\\u0000-\\u001f\\u007f]+$")]
GatewayId = Annotated[str, StringConstraints(pattern="^[A-Za-z0-9][A-Za-z0-9-]{0,63}$")]


class KeyWanted(BaseModel):
    """A new key: its permissions, and the gateway it is bound to, if any."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [{"name": "gateway 17", "scopes": ["telemetry:write"], "gateway_id": "gw-17"}]
        },
    )

    name: Name
    scopes: Annotated[list[str], Field(min_length=1, max_length=50)]
    gateway_id: GatewayId | None = None
    expires_at: UtcTime | None = None


class Rotation(BaseModel):
    """Seconds that the old secret stays valid; null: the setting's, 0: none."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"overlap_s": 3600}]})

    overlap_s: float | None = Field(None, ge=0, le=30 * 86_400)


class KeyShown(BaseModel):
    """A key without its secret."""

    id: str
    name: str
    scopes: list[str]
    gateway_id: str | None
    created_at: datetime
    created_by: str
    rotated_at: datetime | None
    previous_expires_at: datetime | None
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None


class KeyIssued(KeyShown):
    """A key with its secret, which is shown only this once."""

    key: str = Field(repr=False)


def shown(record: ApiKey) -> KeyShown:
    """Return the public form of a key."""
    return KeyShown(**_fields(record))


def _issued(issued: Issued) -> KeyIssued:
    return KeyIssued(**_fields(issued.record), key=issued.key)


def _fields(record: ApiKey) -> dict[str, Any]:
    names = KeyShown.model_fields.keys() - {"id"}
    return {"id": record.key_id, **{name: getattr(record, name) for name in names}}


def api_keys_router(api_keys: ApiKeys, gateways: KnownGateways) -> APIRouter:
    """Return the routes under `/api-keys`."""
    router = APIRouter(prefix="/api-keys", tags=["api-keys"])
    _add_reads(router, api_keys)
    _add_changes(router, api_keys, gateways)
    return router


def _add_reads(router: APIRouter, api_keys: ApiKeys) -> None:
    @router.get("", dependencies=[Reader], response_model=Page[KeyShown], responses=problems())
    async def list_api_keys(
        gateway_id: Annotated[str | None, Query(max_length=64, pattern="^[A-Za-z0-9-]*$")] = None,
        cursor: Cursor = None,
        limit: Limit = 100,
    ) -> Any:
        """Return the keys by id, optionally those of one gateway."""
        (after,) = position(cursor, text_field) or (None,)
        rows = await api_keys.page(after, gateway_id, limit + 1)
        return page([shown(record) for record in rows], limit, lambda key: [key.id])

    @router.get("/{id}", dependencies=[Reader], response_model=KeyShown, responses=problems(404))
    async def get_api_key(id: KeyId) -> Any:  # noqa: A002 - the name the path shows
        """Return one key."""
        return shown(await api_keys.get(id))


def _add_changes(router: APIRouter, api_keys: ApiKeys, gateways: KnownGateways) -> None:
    @router.post("", status_code=201, response_model=KeyIssued, responses=problems(*BODY, 409))
    async def create_api_key(body: KeyWanted, caller: Writer, request: Request, response: Response) -> Any:
        """Create a key; its secret is shown only this once.

        A key cannot grant permissions that it does not have. A gateway must be registered before a key can be
        bound to it.
        """
        wanted = NewKey(body.name, body.scopes, body.gateway_id, body.expires_at)
        check_key(wanted)
        if wanted.gateway_id is not None:
            await gateways.check(wanted.gateway_id)
        issued = await api_keys.create(wanted, actor_of(request, caller))
        response.headers["Location"] = f"{request.url.path}/{issued.record.key_id}"
        return _issued(issued)

    @router.post("/{id}/rotate", response_model=KeyIssued, responses=problems(*BODY, 404, 409))
    async def rotate_api_key(
        id: KeyId,  # noqa: A002
        caller: Writer,
        request: Request,
        body: Rotation | None = None,
    ) -> Any:
        """Give the key a new secret, shown only this once; the old one stays valid for a while.

        A key cannot rotate a key with more permissions than its own.
        """
        overlap_s = body.overlap_s if body else None
        return _issued(await api_keys.rotate(id, actor_of(request, caller), overlap_s=overlap_s))

    @router.post("/{id}/revoke", response_model=KeyShown, responses=problems(404))
    async def revoke_api_key(id: KeyId, caller: Writer, request: Request) -> Any:  # noqa: A002
        """Revoke the key everywhere at once.

        A key cannot revoke a key with more permissions than its own.
        """
        return shown(await api_keys.revoke(id, actor_of(request, caller)))
