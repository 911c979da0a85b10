"""What a key may act on and hand on: nothing with more rights than itself, or one key would hold all."""

from collections.abc import Collection

from esp_common.auth import Principal
from esp_common.errors import Forbidden

from esp_auth.changes import Actor

GATEWAY_SCOPE = "telemetry:write"
"""The permission that a key bound to a gateway has for that gateway only."""


def limits_of(caller: Principal) -> Principal | None:
    """Return whose rights bound what `caller` may act on; None for a user.

    A user who may manage users and keys is an administrator, who gives what the administrator has not: the
    keys of gateways, the roles of engineers.
    """
    return caller if caller.kind == "key" else None


def refuse_beyond(actor: Actor, permissions: Collection[str], gateway_id: str | None = None) -> None:
    """Raise Forbidden when a key acts on, or hands on, a permission it has not itself.

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
