"""Redis: configuration, users, and the changes that bring a running server to them."""

from collections.abc import Iterator, Mapping
from functools import partial
from hashlib import sha256
from typing import Any, Final

import redis
from esp_common import topology
from redis import exceptions

from esp_platform.changes import Change
from esp_platform.files import TlsFiles

ADMINISTRATOR: Final = "default"
"""Redis's own name of the user with every right."""
USERS: Final = (ADMINISTRATOR, *topology.SERVICES)

_CONFIGURATION: Final = """\
bind {host}
{listener}
{users}
dir {folder}
daemonize no
databases 256
appendonly yes
save ""
maxmemory 512mb
# Only what has a time to live may go when memory is short.
maxmemory-policy volatile-ttl
"""
_TLS_LISTENER: Final = """\
port 0
tls-port {port}
tls-cert-file {tls.certificate}
tls-key-file {tls.key}
tls-ca-cert-file {tls.authority}
tls-auth-clients no
tls-protocols "TLSv1.3\""""


def configuration(host: str, port: int, folder: str, users: str, tls: TlsFiles | None) -> str:
    """Return redis.conf; `users`: lines of `user_lines`, or an `aclfile` directive."""
    listener = _TLS_LISTENER.format(port=port, tls=tls) if tls else f"port {port}"
    return _CONFIGURATION.format(host=host, listener=listener, users=users, folder=folder)


def user_lines(passwords: Mapping[str, str]) -> str:
    """Return the users of `passwords` as redis.conf and an ACL file have them."""
    return "\n".join(f"user {name} {' '.join(_rules(name, passwords[name]))}" for name in USERS)


def changes(client: "redis.Redis", passwords: Mapping[str, str]) -> Iterator[Change]:
    """Find users that are missing or have another password or other rights."""
    for name in USERS:
        rules = _rules(name, passwords[name])
        present = client.acl_getuser(name)
        if present is None:
            text = f"create user {name}"
        elif _normalised(present) != _wanted(name, passwords[name]):
            text = f"set password and rights of user {name}"
        else:
            continue
        yield Change(text, partial(_set_user, client, name, rules))


def _set_user(client: "redis.Redis", name: str, rules: list[str]) -> None:
    """Change a user and keep it: in the server's ACL file, or in redis.conf where there is none."""
    client.execute_command("ACL SETUSER", name, *rules)  # type: ignore[no-untyped-call]
    try:
        client.acl_save()
    except exceptions.ResponseError:
        client.config_rewrite()


def _digest(password: str) -> str:
    return sha256(password.encode()).hexdigest()


def _rights(name: str) -> tuple[set[str], set[str], list[str]]:
    """Return patterns of keys, patterns of channels, and commands of a user."""
    if name == ADMINISTRATOR:
        return {"~*"}, {"&*"}, ["+@all"]
    # Each service has its own keys and channels, and the shared counts of requests. Every service reads what
    # auth has revoked, and only auth writes it.
    revoked = "~esp:auth:*" if name == "auth" else "%R~esp:auth:*"
    keys = {f"~{name}:*", "~esp:rate*", revoked}
    # All commands of @admin are in @dangerous as well.
    return keys, {f"&{name}:*", "&esp:auth:*"}, ["+@all", "-@dangerous"]


def _rules(name: str, password: str) -> list[str]:
    keys, channels, commands = _rights(name)
    return ["reset", "on", f"#{_digest(password)}", *sorted(keys), *sorted(channels), *commands]


Rights = tuple[bool, set[str], set[str], set[str], list[str]]


def _wanted(name: str, password: str) -> Rights:
    return True, {_digest(password)}, *_rights(name)


def _normalised(user: Mapping[str, Any]) -> Rights:
    """Return what `ACL GETUSER` says in the form of `_wanted`."""
    passwords = set(user["passwords"]) | ({"nopass"} if "nopass" in user["flags"] else set())
    # Every user starts from -@all, which some versions list.
    commands = [rule for rule in (*user["categories"], *user["commands"]) if rule != "-@all"]
    return bool(user["enabled"]), passwords, set(user["keys"]), set(user["channels"]), commands
