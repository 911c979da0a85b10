"""Sign access tokens as in RFC 8725 and RFC 9068; every service verifies them itself."""

import base64
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID, uuid4

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

ISSUER: Final = "esp-auth"
AUDIENCE: Final = "esp"
ALGORITHM: Final = "EdDSA"
TYPE: Final = "at+jwt"


@dataclass(frozen=True, slots=True)
class Holder:
    """Subject of a token; `must`: what the user has to do before the token permits anything else."""

    user_id: UUID
    username: str
    roles: Collection[str]
    session_id: UUID
    must: Collection[str] = ()


def claims(holder: Holder, now_s: float, lifetime_s: int) -> dict[str, Any]:
    """Return the claims of a new token. `now_s`: seconds since the epoch, kept to the millisecond."""
    issued_at = round(now_s, 3)
    stated: dict[str, Any] = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": str(holder.user_id),
        "name": holder.username,
        "roles": sorted(holder.roles),
        "sid": str(holder.session_id),
        "jti": uuid4().hex,
        "iat": issued_at,
        "nbf": issued_at,
        "exp": int(issued_at) + lifetime_s,
    }
    return {**stated, "must": sorted(holder.must)} if holder.must else stated


def sign(private_key: Ed25519PrivateKey, kid: str, stated: dict[str, Any]) -> str:
    """Return the token of these claims."""
    return jwt.encode(stated, private_key, ALGORITHM, headers={"kid": kid, "typ": TYPE})


def new_key() -> tuple[str, bytes, bytes]:
    """Return a new key as kid, public and private bytes. The kid says nothing about the key."""
    private_key = Ed25519PrivateKey.generate()
    raw, form = serialization.Encoding.Raw, serialization.PublicFormat.Raw
    return uuid4().hex, private_key.public_key().public_bytes(raw, form), private_key.private_bytes_raw()


def jwk(kid: str, public_key: bytes) -> dict[str, str]:
    """Return a public key as a JWK (RFC 8037)."""
    x = base64.urlsafe_b64encode(public_key).rstrip(b"=").decode()
    return {"kty": "OKP", "crv": "Ed25519", "kid": kid, "x": x, "alg": ALGORITHM, "use": "sig"}
