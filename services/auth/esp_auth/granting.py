"""What a key may hand on: no more than it has, or whoever holds one key would hold all."""

from collections.abc import Collection

from esp_common.auth import Principal
from esp_common.errors import Forbidden


def refuse_beyond(caller: Principal, permissions: Collection[str]) -> None:
    """Raise Forbidden when `caller` is a key and would hand on, or take hold of, a permission it lacks.

    A user who may manage users and keys is an administrator, who gives what the administrator has not: the
    keys of gateways, the roles of engineers.
    """
    lacking = sorted(set(permissions) - caller.scopes)
    if caller.kind == "key" and lacking:
        raise Forbidden(
            f"this key has not itself: {', '.join(lacking)}",
            fix="ask an administrator, or use a key that has",
        )
