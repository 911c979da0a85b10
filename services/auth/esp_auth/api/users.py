"""Users over HTTP, for administrators."""

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from esp_common.answers import BODY, Cursor, Limit, Page, page, position, problems
from esp_common.auth import Principal, require
from esp_common.cursors import text_field
from fastapi import APIRouter, Depends, Request, Response, status
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from esp_auth.api.answers import actor_of
from esp_auth.api.logins import Secret
from esp_auth.domain.users import USERNAME
from esp_auth.store.users import User
from esp_auth.users import Users

Reader = Depends(require("users:read"))
Writer = Annotated[Principal, Depends(require("users:write"))]
Role = Literal["admin", "engineer", "operator", "viewer", "auditor"]
Roles = Annotated[list[Role], Field(max_length=5)]


class NewUser(BaseModel):
    """A new user, who has to change this password."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {"username": "maria", "password": "seven-wells-under-the-rain", "roles": ["engineer"]}
            ]
        },
    )

    username: Annotated[str, StringConstraints(pattern=USERNAME)]
    password: Secret
    roles: Roles


class UserChange(BaseModel):
    """Fields to change; `totp_enabled` false removes a lost second factor."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"roles": ["operator"], "disabled": False}]}
    )

    roles: Roles | None = None
    disabled: bool | None = None
    totp_enabled: Literal[False] | None = None


class PasswordReset(BaseModel):
    """A password that the user has to change."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"password": "seven-wells-under-the-rain"}]}
    )

    password: Secret


class UserShown(BaseModel):
    """A user as administrators see it."""

    id: UUID
    username: str
    roles: list[str]
    disabled: bool
    must_change_password: bool
    totp_enabled: bool
    password_changed_at: datetime
    created_at: datetime
    created_by: str
    last_login_at: datetime | None


def shown(user: User) -> UserShown:
    """Return the public form of a user."""
    return UserShown(
        id=user.user_id,
        username=user.username,
        roles=user.roles,
        disabled=user.disabled,
        must_change_password=user.must_change_password,
        totp_enabled=user.has_totp,
        password_changed_at=user.password_changed_at,
        created_at=user.created_at,
        created_by=user.created_by,
        last_login_at=user.last_login_at,
    )


def users_router(users: Users) -> APIRouter:
    """Return the routes under `/users`."""
    router = APIRouter(prefix="/users", tags=["users"])
    _add_reads(router, users)
    _add_changes(router, users)
    _add_actions(router, users)
    return router


def _add_reads(router: APIRouter, users: Users) -> None:
    @router.get("", dependencies=[Reader], response_model=Page[UserShown], responses=problems())
    async def list_users(cursor: Cursor = None, limit: Limit = 100) -> Any:
        """Return the users by name."""
        (after,) = position(cursor, text_field) or (None,)
        rows = await users.page(after, limit + 1)
        return page([shown(user) for user in rows], limit, lambda user: [user.username])

    @router.get("/{id}", dependencies=[Reader], response_model=UserShown, responses=problems(404))
    async def get_user(id: UUID) -> Any:  # noqa: A002 - the name the path shows
        """Return one user."""
        return shown(await users.get(id))


def _add_changes(router: APIRouter, users: Users) -> None:
    @router.post("", status_code=201, response_model=UserShown, responses=problems(*BODY, 409))
    async def create_user(body: NewUser, caller: Writer, request: Request, response: Response) -> Any:
        """Add a user, who has to change the password at the first login.

        A key cannot add a user with more permissions than its own.
        """
        user = await users.create(body.username, body.password, body.roles, actor_of(request, caller))
        response.headers["Location"] = f"{request.url.path}/{user.user_id}"
        return shown(user)

    @router.patch("/{id}", response_model=UserShown, responses=problems(*BODY, 404, 409))
    async def update_user(id: UUID, body: UserChange, caller: Writer, request: Request) -> Any:  # noqa: A002
        """Change roles, disable or enable, or remove a lost second factor.

        A key cannot change a user who has, or would have, more permissions than its own.
        """
        user = await users.update(
            id,
            actor_of(request, caller),
            roles=body.roles,
            disabled=body.disabled,
            drop_second_factor=body.totp_enabled is False,
        )
        return shown(user)

    @router.delete("/{id}", status_code=status.HTTP_204_NO_CONTENT, responses=problems(404, 409))
    async def delete_user(id: UUID, caller: Writer, request: Request) -> None:  # noqa: A002
        """Delete a user; the audit trail keeps the user's actions.

        A key cannot delete a user with more permissions than its own.
        """
        await users.delete(id, actor_of(request, caller))


def _add_actions(router: APIRouter, users: Users) -> None:
    done = status.HTTP_204_NO_CONTENT

    @router.post("/{id}/revoke", status_code=done, responses=problems(404))
    async def revoke_user(id: UUID, caller: Writer, request: Request) -> None:  # noqa: A002
        """End every session of the user and refuse all tokens.

        A key cannot do this to a user with more permissions than its own.
        """
        await users.revoke(id, actor_of(request, caller))

    @router.post("/{id}/password", status_code=done, responses=problems(*BODY, 404))
    async def reset_password(id: UUID, body: PasswordReset, caller: Writer, request: Request) -> None:  # noqa: A002
        """Set a password that the user has to change; every session ends.

        A key cannot do this to a user with more permissions than its own.
        """
        await users.reset_password(id, body.password, actor_of(request, caller))

    @router.post("/{id}/unlock", status_code=done, responses=problems(404))
    async def unlock_user(id: UUID, caller: Writer, request: Request) -> None:  # noqa: A002
        """Reset the account's failed logins.

        A key cannot do this to a user with more permissions than its own.
        """
        await users.unlock(id, actor_of(request, caller))
