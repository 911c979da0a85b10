"""Log in and out, manage the caller's password and second factor, and publish the public keys."""

from typing import Annotated, Any

from esp_common.answers import BODY, problems
from esp_common.auth import PUBLIC, Principal, authenticated, count_refusal
from esp_common.errors import Unauthenticated
from fastapi import APIRouter, Depends, Request, status
from pydantic import BaseModel, ConfigDict, Field

from esp_auth.api.answers import Person, actor_of, person
from esp_auth.identity import Identity
from esp_auth.sessions import Grant

Text = Annotated[str, Field(min_length=1, max_length=1024)]
Secret = Annotated[
    str, Field(min_length=1, max_length=1024, repr=False, json_schema_extra={"format": "password"})
]
Code = Annotated[str, Field(min_length=1, max_length=16)]
Known = Annotated[Principal, Depends(authenticated)]
Me = Annotated[Person, Depends(person)]

_EXAMPLE_PASSWORD = "seven-wells-under-the-rain"  # noqa: S105 - of the documentation


def _example(**fields: Any) -> ConfigDict:
    return ConfigDict(extra="forbid", json_schema_extra={"examples": [fields]})


class Login(BaseModel):
    """A login; `totp`: the code, for users with a second factor."""

    model_config = _example(username="maria", password=_EXAMPLE_PASSWORD)

    username: Text
    password: Secret
    totp: Code | None = Field(None, repr=False)


class Refresh(BaseModel):
    """The last refresh token; it can be used once."""

    model_config = _example(refresh_token="esp_refresh_…")  # noqa: S106 - of the documentation

    refresh_token: Secret


class Logout(BaseModel):
    """Whether to end all sessions of the user, or only this one."""

    model_config = _example(everywhere=False)

    everywhere: bool = False


class PasswordChange(BaseModel):
    """The current and the new password."""

    model_config = _example(current=_EXAMPLE_PASSWORD, new="nine-pumps-below-the-ice")

    current: Secret
    new: Secret


class Confirmation(BaseModel):
    """The code shown by the authenticator."""

    model_config = _example(code="492039")

    code: Code


class PasswordProof(BaseModel):
    """The caller's password."""

    model_config = _example(password=_EXAMPLE_PASSWORD)

    password: Secret


class Tokens(BaseModel):
    """`access_token` is valid for `expires_in` seconds, `refresh_token` once.

    `must`: an action the user has to complete first; until then the access token permits nothing else.
    """

    access_token: str = Field(repr=False)
    token_type: str = "Bearer"  # noqa: S105 - the type's name
    expires_in: int
    refresh_token: str = Field(repr=False)
    must: list[str]


class Caller(BaseModel):
    """The caller and its permissions."""

    id: str
    kind: str
    name: str | None
    scopes: list[str]
    gateway_id: str | None
    must: list[str]


class TotpSecret(BaseModel):
    """Data for an authenticator, shown only once."""

    secret: str = Field(repr=False)
    otpauth_uri: str = Field(repr=False)


class Jwk(BaseModel):
    """A public key (RFC 8037)."""

    kty: str
    crv: str
    kid: str
    x: str
    alg: str
    use: str


class Jwks(BaseModel):
    """Keys that sign, will sign, or signed tokens that are still valid."""

    keys: list[Jwk]


def logins_router(identity: Identity) -> APIRouter:
    """Return the routes under `/auth`."""
    router = APIRouter(prefix="/auth", tags=["auth"])
    _add_sessions(router, identity)
    _add_own_account(router, identity)
    _add_second_factor(router, identity)
    return router


def _tokens(grant: Grant) -> Tokens:
    return Tokens(
        access_token=grant.access_token,
        refresh_token=grant.refresh_token,
        expires_in=grant.expires_in,
        must=list(grant.must),
    )


def _add_sessions(router: APIRouter, identity: Identity) -> None:
    public = [Depends(PUBLIC)]

    @router.post("/login", dependencies=public, response_model=Tokens, responses=problems(*BODY))
    async def log_in(body: Login, request: Request) -> Any:
        """Open a session. Unknown names, wrong passwords and wrong codes get the same response.

        401 with code `totp-required`: the password is correct, send the code of the second factor as well.
        """
        grant = await identity.logins.log_in(body.username, body.password, body.totp, actor_of(request))
        return _tokens(grant)

    @router.post("/refresh", dependencies=public, response_model=Tokens, responses=problems(*BODY))
    async def refresh(body: Refresh, request: Request) -> Any:
        """Return the next tokens. Using a refresh token twice ends its session."""
        try:
            return _tokens(await identity.sessions.refresh(body.refresh_token, actor_of(request)))
        except Unauthenticated:
            count_refusal(request)
            raise

    @router.get("/.well-known/jwks.json", dependencies=public, response_model=Jwks, responses=problems())
    async def public_keys() -> Any:
        """Return the public keys of access tokens."""
        return await identity.signing.jwks()

    @router.post("/logout", status_code=status.HTTP_204_NO_CONTENT, responses=problems(*BODY))
    async def log_out(me: Me, request: Request, body: Logout | None = None) -> None:
        """End this session, or all of the caller's; their tokens are refused at once."""
        await identity.sessions.log_out(
            me.user_id,
            me.session_id,
            actor_of(request, me.principal),
            everywhere=body is not None and body.everywhere,
        )


def _add_own_account(router: APIRouter, identity: Identity) -> None:
    @router.get("/me", response_model=Caller, responses=problems())
    async def read_me(caller: Known) -> Any:
        """Return the caller and its permissions."""
        return Caller(
            id=caller.id,
            kind=caller.kind,
            name=caller.name,
            scopes=sorted(caller.scopes),
            gateway_id=caller.gateway_id,
            must=sorted(caller.must),
        )

    @router.post("/password", status_code=status.HTTP_204_NO_CONTENT, responses=problems(*BODY, 409))
    async def change_password(body: PasswordChange, me: Me, request: Request) -> None:
        """Change the password; other sessions end. Refresh to get a token without the pending duty."""
        await identity.logins.change_password(
            me.user_id, me.session_id, body.current, body.new, actor_of(request, me.principal)
        )


def _add_second_factor(router: APIRouter, identity: Identity) -> None:
    @router.post("/totp", status_code=201, response_model=TotpSecret, responses=problems(*BODY, 404, 409))
    async def enrol(body: PasswordProof, me: Me, request: Request) -> Any:
        """Create the secret of a second factor, which is required once a code has confirmed it.

        The password is required, since a stolen token could otherwise lock its user out.
        """
        enrolment = await identity.logins.enrol_second_factor(
            me.user_id, me.session_id, body.password, actor_of(request, me.principal)
        )
        return TotpSecret(secret=enrolment.secret, otpauth_uri=enrolment.otpauth_uri)

    @router.post("/totp/confirm", status_code=status.HTTP_204_NO_CONTENT, responses=problems(*BODY, 404, 409))
    async def confirm(body: Confirmation, me: Me, request: Request) -> None:
        """Require the second factor from the next login on."""
        await identity.second_factor.confirm(me.user_id, body.code, actor_of(request, me.principal))

    @router.delete("/totp", status_code=status.HTTP_204_NO_CONTENT, responses=problems(*BODY, 404, 409))
    async def remove(body: PasswordProof, me: Me, request: Request) -> None:
        """Remove the second factor; the password is required."""
        await identity.logins.remove_second_factor(
            me.user_id, me.session_id, body.password, actor_of(request, me.principal)
        )
