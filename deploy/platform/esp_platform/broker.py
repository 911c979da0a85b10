"""RabbitMQ: configuration, definitions, and the changes that bring a running broker to them."""

import base64
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final
from urllib.parse import quote

import httpx
from esp_common import topology

from esp_platform.changes import Change
from esp_platform.files import TlsFiles

ADMINISTRATOR: Final = "admin"
SESSION_KEEPER: Final = "session-keeper"
"""User of auth that closes connections of gateways: an administrator without rights to any message."""
MONITORING: Final = "monitoring"
"""User that reads queue lengths from the management API (KEDA, Prometheus); without rights to messages."""
DEFAULT_USER: Final = "guest"
"""User that RabbitMQ creates by itself when it starts without definitions."""

PLUGINS: Final = (
    "rabbitmq_management",
    "rabbitmq_mqtt",
    "rabbitmq_consistent_hash_exchange",
    "rabbitmq_prometheus",
    "rabbitmq_auth_backend_http",
    "rabbitmq_auth_backend_cache",
)

_CONFIGURATION: Final = """\
management.tcp.ip = {listeners.host}
management.tcp.port = {listeners.management}
prometheus.tcp.ip = {listeners.host}
prometheus.tcp.port = {listeners.prometheus}
mqtt.exchange = esp.ingest
mqtt.allow_anonymous = false
mqtt.vhost = /
max_message_size = 4194304
consumer_timeout = 1800000
disk_free_limit.absolute = 500MB
vm_memory_high_watermark.relative = 0.4
cluster_name = esp
management.load_definitions = {definitions}
log.console = true
log.console.level = info
log.exchange = true
log.exchange.level = warning
log.file = false
"""
# RabbitMQ 4 does not check MQTT messages against max_message_size, and from 4.1 it does not start when the
# packet size is above it. RabbitMQ 3.10 does not know the setting.
_MQTT_PACKETS: Final = "mqtt.max_packet_size_authenticated = 4194304\n"
_PLAIN_LISTENERS: Final = """\
listeners.tcp.1 = {listeners.host}:{listeners.amqp}
mqtt.listeners.tcp.1 = {listeners.host}:{listeners.mqtt}
"""
# Gateways in the field may be older than TLS 1.3. Of TLS 1.2 only suites that authenticate what they encrypt
# (AEAD) and have forward secrecy: the default includes CBC suites.
_CIPHERS: Final = (
    "TLS_AES_256_GCM_SHA384",
    "TLS_AES_128_GCM_SHA256",
    "TLS_CHACHA20_POLY1305_SHA256",
    "ECDHE-ECDSA-AES256-GCM-SHA384",
    "ECDHE-RSA-AES256-GCM-SHA384",
    "ECDHE-ECDSA-CHACHA20-POLY1305",
    "ECDHE-RSA-CHACHA20-POLY1305",
    "ECDHE-ECDSA-AES128-GCM-SHA256",
    "ECDHE-RSA-AES128-GCM-SHA256",
)
_TLS_LISTENERS: Final = """\
listeners.tcp = none
listeners.ssl.1 = {listeners.host}:{listeners.amqp}
mqtt.listeners.tcp = none
mqtt.listeners.ssl.1 = {listeners.host}:{listeners.mqtt}
ssl_options.cacertfile = {tls.authority}
ssl_options.certfile = {tls.certificate}
ssl_options.keyfile = {tls.key}
ssl_options.verify = verify_none
ssl_options.versions.1 = tlsv1.3
ssl_options.versions.2 = tlsv1.2
ssl_options.honor_cipher_order = true
"""
_AUTH_BACKEND: Final = """\
auth_backends.1 = internal
auth_backends.2 = cache
auth_cache.cached_backend = http
auth_cache.cache_ttl = {backend.cache_ttl_ms}
auth_http.http_method = post
auth_http.user_path = {backend.url}/user
auth_http.vhost_path = {backend.url}/vhost
auth_http.resource_path = {backend.url}/resource
auth_http.topic_path = {backend.url}/topic
"""


AUTH_CACHE_TTL_MS: Final = 15_000


@dataclass(frozen=True)
class Listeners:
    """Address and ports that a node listens on."""

    host: str
    amqp: int
    mqtt: int
    management: int
    prometheus: int


@dataclass(frozen=True)
class AuthBackend:
    """URL at which the node asks auth about gateways. A decision is kept for `cache_ttl_ms`."""

    url: str
    cache_ttl_ms: int = AUTH_CACHE_TTL_MS


def configuration(
    listeners: Listeners,
    definitions: str,
    tls: TlsFiles | None,
    backend: AuthBackend | None,
    *,
    major_version: int = 4,
) -> str:
    """Return rabbitmq.conf: with `tls`, no plain listener. `definitions`: path of definitions.json."""
    text = _CONFIGURATION.format(listeners=listeners, definitions=definitions)
    text += _MQTT_PACKETS if major_version >= 4 else ""
    text += (_TLS_LISTENERS if tls else _PLAIN_LISTENERS).format(listeners=listeners, tls=tls)
    if tls:
        text += "".join(f"ssl_options.ciphers.{n} = {name}\n" for n, name in enumerate(_CIPHERS, 1))
    return text + (_AUTH_BACKEND.format(backend=backend) if backend else "")


def enabled_plugins() -> str:
    """Return the file of enabled plugins."""
    return f"[{','.join(PLUGINS)}].\n"


def definitions(
    passwords: Mapping[str, str], gateways: Mapping[str, str] | None = None, *, vhost: str = "/"
) -> dict[str, Any]:
    """Return definitions.json: the whole topology in `vhost`, and its users.

    `passwords`: of the administrator and every service; those of the session keeper and of monitoring are
    optional. `gateways`: gateway id → key, only for a broker that does not ask auth about gateways.
    """
    services = {user: passwords[user] for user in (ADMINISTRATOR, *topology.SERVICES)}
    found = topology.definitions(services, gateways or {}, vhost=vhost, administrator=ADMINISTRATOR)
    for user in found["users"]:
        user["password_hash"] = _password_hash(user["name"], {**passwords, **(gateways or {})}[user["name"]])
    for user, tag in ((SESSION_KEEPER, "administrator"), (MONITORING, "monitoring")):
        if user in passwords:
            found["users"].append(_user_without_rights(user, passwords[user], tag))
    return found


def _password_hash(user: str, password: str) -> str:
    """Return a hash that is the same in every run: its salt depends on user and password."""
    return topology.password_hash(password, sha256(f"{user}:{password}".encode()).digest()[:4])


def _user_without_rights(name: str, password: str, tag: str) -> dict[str, Any]:
    return {
        "name": name,
        "password_hash": _password_hash(name, password),
        "hashing_algorithm": "rabbit_password_hashing_sha256",
        "tags": [tag],
        "limits": {},
    }


class Broker:
    """Management API of a running broker.

    `call(method, path, body)` returns the answer and raises on an error status.
    """

    def __init__(self, call: Callable[[str, str, object], httpx.Response], *, vhost: str = "/") -> None:
        self._call = call
        self._vhost = vhost

    def changes(self, passwords: Mapping[str, str]) -> Iterator[Change]:
        """Find what the broker lacks of the definitions, and users whose password or rights differ."""
        wanted = definitions(passwords, vhost=self._vhost)
        yield from self._vhost_changes()
        yield from self._user_changes(wanted["users"], passwords)
        for kind, path in (("permissions", "permissions"), ("topic_permissions", "topic-permissions")):
            yield from self._right_changes(kind, path, wanted[kind])
        for kind in ("exchanges", "queues"):
            yield from self._object_changes(kind, wanted[kind])
        yield from self._binding_changes(wanted["bindings"])

    def _read(self, path: str) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = self._call("GET", path, None).json()
        return rows

    @property
    def _vhost_exists(self) -> bool:
        return any(vhost["name"] == self._vhost for vhost in self._read("vhosts"))

    def _read_in_vhost(self, kind: str) -> list[dict[str, Any]]:
        """Return the objects of the virtual host; none while a dry run has not created it."""
        return self._read(f"{kind}/{quote(self._vhost, safe='')}") if self._vhost_exists else []

    def _import(self, kind: str, entry: Mapping[str, Any]) -> Callable[[], object]:
        return lambda: self._call("POST", "definitions", {kind: [dict(entry)]})

    def _vhost_changes(self) -> Iterator[Change]:
        if not self._vhost_exists:
            path = f"vhosts/{quote(self._vhost, safe='')}"
            yield Change(f"create virtual host {self._vhost}", lambda: self._call("PUT", path, None))

    def _user_changes(self, wanted: list[dict[str, Any]], passwords: Mapping[str, str]) -> Iterator[Change]:
        present = {user["name"]: user for user in self._read("users")}
        for user in wanted:
            name = user["name"]
            if name not in present:
                yield Change(f"create user {name}", self._import("users", user))
            elif not _has_password(present[name], passwords[name]):
                yield Change(f"set password of user {name}", self._import("users", user))
            elif _tags(present[name]) != set(user["tags"]):
                yield Change(f"set tags of user {name}", self._import("users", user))
        if DEFAULT_USER in present and self._call("GET", "whoami", None).json()["name"] != DEFAULT_USER:
            yield Change(
                f"delete user {DEFAULT_USER}", lambda: self._call("DELETE", f"users/{DEFAULT_USER}", None)
            )

    def _right_changes(self, kind: str, path: str, wanted: list[dict[str, Any]]) -> Iterator[Change]:
        present = [_picked(row, wanted[0]) for row in self._read(path)]
        for entry in wanted:
            if entry not in present:
                place = f"exchange {entry['exchange']}" if "exchange" in entry else entry["vhost"]
                yield Change(f"set rights of user {entry['user']} on {place}", self._import(kind, entry))

    def _object_changes(self, kind: str, wanted: list[dict[str, Any]]) -> Iterator[Change]:
        present = {row["name"]: row for row in self._read_in_vhost(kind)}
        for entry in wanted:
            what = f"{kind.removesuffix('s')} {entry['name']}"
            if entry["name"] not in present:
                yield Change(f"create {what}", self._import(kind, entry))
            elif difference := _difference(entry, present[entry["name"]]):
                yield Change(f"{what} has {difference}: delete it when it is empty, then apply again")

    def _binding_changes(self, wanted: list[dict[str, Any]]) -> Iterator[Change]:
        keys = ("source", "destination", "destination_type", "routing_key")
        present = {tuple(row[key] for key in keys) for row in self._read_in_vhost("bindings")}
        for entry in wanted:
            if tuple(entry[key] for key in keys) not in present:
                text = f"bind {entry['destination']} to {entry['source']} by key {entry['routing_key']!r}"
                yield Change(text, self._import("bindings", entry))


def _has_password(user: Mapping[str, Any], password: str) -> bool:
    salt = base64.b64decode(user["password_hash"])[:4]
    return bool(user["password_hash"] == topology.password_hash(password, salt))


def _tags(user: Mapping[str, Any]) -> set[str]:
    """Return the tags of a user: a list, or one text with commas before RabbitMQ 3.9."""
    tags = user["tags"]
    return set(filter(None, tags.split(","))) if isinstance(tags, str) else set(tags)


def _picked(row: Mapping[str, Any], keys: Mapping[str, Any]) -> dict[str, Any]:
    return {key: row.get(key) for key in keys}


def _difference(wanted: Mapping[str, Any], present: Mapping[str, Any]) -> str:
    """Return what is different of an object that is there, in words; empty if nothing is."""
    expected, has = wanted["arguments"], present["arguments"]
    # RabbitMQ 4 states the type of every queue, also where it was not asked for.
    names = expected.keys() | (has.keys() - {"x-queue-type"})
    found = [
        f"{name} {has.get(name)!r} instead of {expected.get(name)!r}"
        for name in sorted(names)
        if expected.get(name) != has.get(name)
    ]
    if "type" in wanted and wanted["type"] != present["type"]:
        found.append(f"type {present['type']} instead of {wanted['type']}")
    return " and ".join(found)
