"""Assets over HTTP: the same five operations for every kind."""

from functools import partial
from typing import Annotated, Any

from esp_common.answers import BODY, Cursor, Limit, Page, page, position, problems
from esp_common.auth import Principal, require
from esp_common.cursors import text_field
from esp_common.errors import InputProblem, InvalidInput
from fastapi import APIRouter, Depends, Request, Response, status

from esp_ingest.api.answers import FieldFilter, Id
from esp_ingest.asset_kinds import KINDS, Kind, Statement
from esp_ingest.assets import Assets

Writer = Annotated[Principal, Depends(require("assets:write"))]


def assets_router(assets: Assets) -> APIRouter:
    """Return the routes of every kind of asset."""
    router = APIRouter(tags=["assets"])
    for kind in KINDS.values():
        _add_reads(router, assets, kind)
        _add_changes(router, assets, kind)
    return router


def path_of(kind: Kind) -> str:
    """Return the collection's path: `tag_maps` are at `/tag-maps`."""
    return f"/{kind.name.replace('_', '-')}"


def _add_reads(router: APIRouter, assets: Assets, kind: Kind) -> None:
    model: Any = kind.model
    may_read = [Depends(require("assets:read"))]

    async def read_page(field_id: FieldFilter = None, cursor: Cursor = None, limit: Limit = 100) -> Any:
        (after,) = position(cursor, text_field) or (None,)
        rows = await assets.page(kind, after=after, field_id=field_id, limit=limit + 1)
        return page(rows, limit, lambda row: [row[kind.key]])

    async def read_one(id: Id) -> Any:  # noqa: A002 - the name the path shows
        return await assets.get(kind, id)

    add = partial(router.add_api_route, dependencies=may_read)
    add(
        path_of(kind),
        read_page,
        response_model=Page[model],
        operation_id=f"list_{kind.name}",
        responses=problems(),
    )
    add(
        f"{path_of(kind)}/{{id}}",
        read_one,
        response_model=model,
        operation_id=f"get_{kind.name}",
        responses=problems(404),
    )


def _add_changes(router: APIRouter, assets: Assets, kind: Kind) -> None:
    model: Any = kind.model

    async def create(asset: model, response: Response, request: Request, caller: Writer) -> Any:
        statement = Statement(kind, asset, "body")
        await assets.create(statement, caller.id)
        response.headers["Location"] = f"{request.url.path}/{statement.id}"
        return asset

    async def replace(id: Id, asset: model, response: Response, caller: Writer) -> Any:  # noqa: A002
        statement = Statement(kind, asset, "body")
        if statement.id != id:
            raise InvalidInput.of(
                [InputProblem(f"body: {kind.key}", f"is not the path's {id}", "make them the same")]
            )
        changes = await assets.write([statement], caller.id)
        if changes.created:
            response.status_code = status.HTTP_201_CREATED
        return asset

    async def delete(id: Id, caller: Writer) -> None:  # noqa: A002
        await assets.delete(kind, id, caller.id)

    one = f"{path_of(kind)}/{{id}}"
    add = router.add_api_route
    add(
        path_of(kind),
        create,
        methods=["POST"],
        status_code=status.HTTP_201_CREATED,
        response_model=model,
        operation_id=f"create_{kind.name}",
        responses=problems(*BODY, 409),
    )
    add(
        one,
        replace,
        methods=["PUT"],
        response_model=model,
        operation_id=f"put_{kind.name}",
        responses={201: {"model": model, "description": "Created"}, **problems(*BODY)},
    )
    add(
        one,
        delete,
        methods=["DELETE"],
        status_code=status.HTTP_204_NO_CONTENT,
        operation_id=f"delete_{kind.name}",
        responses=problems(404, 409),
    )
