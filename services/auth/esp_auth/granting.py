"""Limit a key's actions: no key may act on, or grant, more rights than it has."""

from collections.abc import Collection

from esp_common.auth import Principal
from esp_common.errors import Forbidden

from esp_auth.changes import Actor

GATEWAY_SCOPE = "telemetry:write"
"""Permission that a key bound to a gateway has for that gateway only."""


def limits_of(caller: Principal) -> Principal | None:
    """Return the key whose rights bound the caller's actions; None for a user.

    A user who may manage users and keys is an administrator, and may grant rights beyond the administrator's
    own: keys of gateways, roles of engineers.
    """
    return caller if caller.kind == "key" else None


def refuse_beyond(actor: Actor, permissions: Collection[str], gateway_id: str | None = None) -> None:
    """Raise Forbidden if a key acts on, or grants, a permission it does not have.

    `gateway_id`: the gateway that the permissions are bound to; None: they hold for every gateway.
    """
    if actor.limits is None:
        return
    if lacking := sorted(set(permissions) - actor.limits.scopes):
        raise Forbidden(
            f"this key has not itself: {', '.join(lacking)}",
            fix="ask an administrator, or use a key that has",
        )
    bound_to = actor.limits.gateway_id
    if bound_to is not None and GATEWAY_SCOPE in permissions and gateway_id != bound_to:
        raise Forbidden(
            f"this key has {GATEWAY_SCOPE} for gateway {bound_to} only",
            fix="ask an administrator, or use a key that is bound to no gateway",
        )
