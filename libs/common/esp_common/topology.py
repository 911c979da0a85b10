"""The broker's topology: every exchange, queue, binding, user and permission.

`definitions()` writes it as RabbitMQ's definitions.json, which the broker loads at start; `declare()`
declares the same over a channel, so that a deleted queue is restored.
"""

import base64
import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple
from zlib import crc32

from aio_pika.abc import AbstractChannel

INGEST: Final = "esp.ingest"
TELEMETRY: Final = "esp.telemetry"
BY_PUMP: Final = "esp.telemetry.by-pump"
EVENTS: Final = "esp.events"
COMMANDS: Final = "esp.commands"
AUDIT: Final = "esp.audit"
ALERTS: Final = "esp.alerts"
DLX: Final = "esp.dlx"
UNROUTED: Final = "esp.unrouted"
BROKER_LOG: Final = "amq.rabbitmq.log"
"""Exchange of the default virtual host to which the broker publishes its own log; it declares it itself."""

INGEST_TELEMETRY: Final = "ingest.telemetry"
INGEST_TELEMETRY_DEAD: Final = "ingest.telemetry.dead"
AUTH_AUDIT: Final = "auth.audit"
AUTH_AUDIT_DEAD: Final = "auth.audit.dead"
AUTH_VERIFY_KEY: Final = "auth.verify-key"
AUTH_JWKS: Final = "auth.jwks"
AUTH_REVOCATIONS: Final = "auth.revocations"
DIAGNOSTICS_TELEMETRY: Final = "diagnostics.telemetry"
DIAGNOSTICS_PLATFORM: Final = "diagnostics.platform"
DIAGNOSTICS_NOTIFICATIONS: Final = "diagnostics.notifications"
INGEST_FIND_GATEWAY: Final = "ingest.find-gateway"
INGEST_ARCHIVED: Final = "ingest.archived"
ARCHIVER_RETENTION: Final = "archiver.retention"
ARCHIVER_READ: Final = "archiver.read"
UNROUTED_QUEUE: Final = "unrouted"

DELIVERY_LIMIT: Final = 5
REQUEST_TTL_MS: Final = 10_000
PARTITIONS: Final = 64
"""Parts into which all pumps are divided by their ids; a worker that judges pumps holds whole partitions."""
FIRST_PARTITION: Final = 64
OLDER_PARTITIONS: Final = 8
"""Partitions before there were 64. Their numbers, 0 to 7, name none of the present ones, 64 to 127."""
LANES: Final = 8
"""Queues that the partitions are spread over, unless a setting says more; the definitions have these."""
MAX_LANES: Final = PARTITIONS
LANE_BYTES: Final = 256 * 1024 * 1024
LANES_DEAD_LETTERS: Final = 1000
PARTITION_HEADER: Final = "esp-pump-partition"

GATEWAY_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,63}")
SERVICES: Final = ("ingest", "diagnostics", "auth", "archiver", "backup")
RESERVED_GATEWAY_IDS: Final = frozenset({*SERVICES, "admin", "api", "guest", "session-keeper"})
"""Names with another meaning on the broker or in records, so no gateway may have them."""


@dataclass(frozen=True, slots=True)
class Exchange:
    """One durable exchange."""

    name: str
    kind: str
    arguments: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Queue:
    """One durable queue; `service` owns it and may redeclare it."""

    name: str
    service: str
    arguments: Mapping[str, Any]


class Binding(NamedTuple):
    """Messages of exchange `source` with `routing_key` go to `destination`."""

    source: str
    routing_key: str
    destination: str
    to_exchange: bool = False


def dead_queue(queue: str) -> str:
    """Return the name of the dead-letter queue of `queue`."""
    return f"{queue}.dead"


def partition(pump_id: str) -> int:
    """Return the partition of a pump; the same in every process and version."""
    return FIRST_PARTITION + crc32(pump_id.encode()) % PARTITIONS


def partitions_of(number: int) -> frozenset[int]:
    """Return the partitions of the pumps that a message's number stands for: an older one stands for eight.

    Raise ValueError for a number that was never one of a partition.
    """
    if FIRST_PARTITION <= number < FIRST_PARTITION + PARTITIONS:
        return frozenset((number,))
    if 0 <= number < OLDER_PARTITIONS:
        return frozenset(range(FIRST_PARTITION + number, FIRST_PARTITION + PARTITIONS, OLDER_PARTITIONS))
    raise ValueError(f"not a partition: {number}")


def lane_queue(number: int) -> str:
    """Return the queue of one lane: accepted readings of the pumps of several partitions."""
    return f"{DIAGNOSTICS_TELEMETRY}.{number}"


def is_client_id_of(gateway_id: str, client_id: str) -> bool:
    """Return whether `client_id` (MQTT) belongs to the gateway, so that no two gateways share one.

    It is the gateway's id, or begins with it and a character that no gateway id has: `gw-01:2`.
    """
    found = GATEWAY_ID.match(client_id)
    return found is not None and found[0] == gateway_id


def telemetry_key(gateway_id: str) -> str:
    """Return the routing key under which `gateway_id` publishes readings."""
    return f"telemetry.{gateway_id}"


# Events and accepted telemetry may have no consumer, and a request without a responder must return to
# its sender at once (and may contain a key): these three have no alternate exchange.
_KEPT: Final = {"alternate-exchange": UNROUTED}

EXCHANGES: Final = (
    Exchange(INGEST, "topic", _KEPT),
    Exchange(TELEMETRY, "topic"),
    Exchange(BY_PUMP, "x-consistent-hash", {"hash-header": PARTITION_HEADER}),
    Exchange(EVENTS, "topic"),
    Exchange(COMMANDS, "direct"),
    Exchange(AUDIT, "topic", _KEPT),
    Exchange(ALERTS, "topic", _KEPT),
    Exchange(DLX, "topic", _KEPT),
    Exchange(UNROUTED, "fanout"),
)


def _work_queue(name: str) -> tuple[Queue, Queue]:
    """Return a work queue and the queue of its dead letters."""
    arguments = {
        "x-queue-type": "quorum",
        "x-delivery-limit": DELIVERY_LIMIT,
        "x-dead-letter-exchange": DLX,
        "x-dead-letter-routing-key": name,
        # At-least-once needs reject-publish; without it the broker silently uses at-most-once.
        "x-dead-letter-strategy": "at-least-once",
        "x-overflow": "reject-publish",
    }
    service = name.split(".")[0]
    return Queue(name, service, arguments), Queue(dead_queue(name), service, {"x-queue-type": "quorum"})


def _lane_queue(number: int) -> Queue:
    """Return the queue of one lane of accepted readings: read by one consumer at a time, and bounded.

    What it holds is in the store as well. With nobody to read it the oldest goes, instead of the broker's
    disk filling up until gateways are refused; whoever reads it again finds what it missed in the store.
    """
    arguments = {
        "x-queue-type": "quorum",
        "x-single-active-consumer": True,
        "x-delivery-limit": DELIVERY_LIMIT,
        "x-dead-letter-exchange": DLX,
        "x-dead-letter-routing-key": DIAGNOSTICS_TELEMETRY,
        "x-max-length-bytes": LANE_BYTES,
        "x-overflow": "drop-head",
    }
    return Queue(lane_queue(number), "diagnostics", arguments)


_LANES_DEAD: Final = Queue(
    dead_queue(DIAGNOSTICS_TELEMETRY),
    "diagnostics",
    # Messages dropped at the head come here too: keep the last of them for inspection.
    {"x-queue-type": "quorum", "x-max-length": LANES_DEAD_LETTERS, "x-overflow": "drop-head"},
)


def _request_queue(name: str) -> Queue:
    """Return a queue of requests: classic, expiring, not dead-lettered and not persistent.

    A stale request is useless to its requester, and may contain data that should not be stored.
    """
    return Queue(name, name.split(".")[0], {"x-message-ttl": REQUEST_TTL_MS})


REQUESTS: Final = (AUTH_VERIFY_KEY, AUTH_JWKS, AUTH_REVOCATIONS)
"""Requests of every service to auth, which alone consumes them; replies use direct reply-to."""

_QUESTIONS: Final = (*REQUESTS, ARCHIVER_READ, INGEST_FIND_GATEWAY)
"""All requests; archiver is asked for archived readings, ingest by auth whether a gateway exists."""

_SUBSCRIPTIONS: Final[Mapping[str, tuple[str, tuple[str, ...]]]] = {
    DIAGNOSTICS_PLATFORM: (EVENTS, ("backup.#", "archive.#", "maintenance.#")),
    DIAGNOSTICS_NOTIFICATIONS: (ALERTS, ("#",)),
    INGEST_ARCHIVED: (EVENTS, ("archive.verified",)),
    ARCHIVER_RETENTION: (EVENTS, ("retention.#",)),
}
"""Work queues for other services' events: the exchange, and the keys bound to them."""

QUEUES: Final = (
    *_work_queue(INGEST_TELEMETRY),
    *_work_queue(AUTH_AUDIT),
    *map(_request_queue, _QUESTIONS),
    *map(_lane_queue, range(LANES)),
    _LANES_DEAD,
    *(queue for name in _SUBSCRIPTIONS for queue in _work_queue(name)),
    Queue(UNROUTED_QUEUE, "ingest", {"x-queue-type": "quorum"}),
)

BINDINGS: Final = (
    Binding(INGEST, "telemetry.#", INGEST_TELEMETRY),
    Binding(DLX, INGEST_TELEMETRY, INGEST_TELEMETRY_DEAD),
    Binding(TELEMETRY, "#", BY_PUMP, to_exchange=True),
    Binding(AUDIT, "#", AUTH_AUDIT),
    Binding(DLX, AUTH_AUDIT, AUTH_AUDIT_DEAD),
    *(Binding(COMMANDS, name, name) for name in _QUESTIONS),
    # A consistent-hash exchange reads the binding's key as the queue's weight.
    *(Binding(BY_PUMP, "1", lane_queue(number)) for number in range(LANES)),
    Binding(DLX, DIAGNOSTICS_TELEMETRY, _LANES_DEAD.name),
    *(Binding(exchange, key, name) for name, (exchange, keys) in _SUBSCRIPTIONS.items() for key in keys),
    *(Binding(DLX, name, dead_queue(name)) for name in _SUBSCRIPTIONS),
    Binding(UNROUTED, "", UNROUTED_QUEUE),
)


async def declare_lanes(channel: AbstractChannel, lanes: int) -> None:
    """Declare the lanes beyond those of the definitions, `lanes` in all, and remove any further ones.

    What a removed lane holds is in the store too: whoever judges its pumps next reads it from there.
    """
    for number in range(LANES, lanes):
        lane = _lane_queue(number)
        queue = await channel.declare_queue(lane.name, durable=True, arguments=dict(lane.arguments))
        await queue.bind(BY_PUMP, "1")
    for number in range(max(lanes, LANES), MAX_LANES):
        await channel.queue_delete(lane_queue(number))


async def declare(channel: AbstractChannel, service: str | None = None) -> None:
    """Declare everything that `service` owns (None: everything); idempotent.

    A service's broker user may configure its own queues only; the exchanges come with the definitions.
    """
    for exchange in EXCHANGES if service is None else ():
        await channel.declare_exchange(
            exchange.name, exchange.kind, durable=True, arguments=dict(exchange.arguments)
        )
    queues = {
        queue.name: await channel.declare_queue(queue.name, durable=True, arguments=dict(queue.arguments))
        for queue in QUEUES
        if service in (None, queue.service)
    }
    for binding in BINDINGS:
        if binding.destination in queues:
            await queues[binding.destination].bind(binding.source, binding.routing_key)
        elif service is None and binding.to_exchange:
            target = await channel.get_exchange(binding.destination, ensure=False)
            await target.bind(binding.source, binding.routing_key)


class Rights(NamedTuple):
    """Names that a broker user may configure, write and read (regular expressions), and its routing keys."""

    configure: str
    write: str
    read: str
    topics: Mapping[str, tuple[str, str]]


_NOTHING: Final = "^$"
_ANY_KEY: Final = ".*"


def _service(
    service: str,
    *,
    writes: tuple[str, ...],
    reads: tuple[str, ...],
    keys: Mapping[str, str],
    replies: bool = False,
) -> Rights:
    """Return the rights of `service`: all of its own queues, and the exchanges named.

    It may publish only `keys` to the topic exchanges it writes to: where a user has no topic permission
    on an exchange RabbitMQ lets every routing key through, so there is one for each.
    """
    # Binding a queue needs write on it; naming its dead-letter exchange needs write on that.
    own = [rf"{service}\..*", r"amq\.gen-.*"]
    if service == "ingest":
        own.append(UNROUTED_QUEUE)
    default_exchange = [r"amq\.default"] if replies else []
    # Every service reads all events; dead letters, which hold others' messages, only their owner.
    topics = {
        name: (keys.get(name, _NOTHING), keys[DLX] if name == DLX else _ANY_KEY)
        for name in sorted({*writes, *reads} & _TOPIC_EXCHANGES)
    }
    return Rights(
        configure=_any_of(own),
        write=_any_of([*own, *map(re.escape, writes), *default_exchange]),
        read=_any_of([*own, *map(re.escape, reads)]),
        topics=topics,
    )


_TOPIC_EXCHANGES: Final = {exchange.name for exchange in EXCHANGES if exchange.kind == "topic"}


def _any_of(names: list[str]) -> str:
    return f"^({'|'.join(names)})$"


_PUBLISH: Final = (EVENTS, COMMANDS, AUDIT, DLX)


SUBJECTS: Final[Mapping[str, tuple[str, ...]]] = {
    "ingest": ("asset", "quality", "retention", "maintenance"),
    "diagnostics": ("finding", "alert", "pump"),
    "auth": ("auth",),
    "archiver": ("archive",),
    "backup": ("backup",),
}
"""Event subjects of each service, which no other service may publish."""


def speaker_of(event_type: str) -> str | None:
    """Return the only service that publishes events of this type; None for an unassigned subject."""
    subject = event_type.partition(".")[0]
    return next((service for service, subjects in SUBJECTS.items() if subject in subjects), None)


def _said_by(service: str) -> dict[str, str]:
    """Return the routing keys that `service` may use: its event subjects, its own audit and dead letters."""
    return {
        EVENTS: rf"^({'|'.join(SUBJECTS[service])})\..*$",
        AUDIT: rf"^{service}\..*$",
        DLX: rf"^{service}\..*$",
    }


SERVICE_RIGHTS: Final[Mapping[str, Rights]] = {
    "ingest": _service(
        "ingest",
        writes=(INGEST, TELEMETRY, *_PUBLISH),
        reads=(INGEST, EVENTS, COMMANDS, DLX, UNROUTED),
        keys={
            INGEST: r"^telemetry\..*$",
            TELEMETRY: r"^telemetry\..*$",
            **_said_by("ingest"),
        },
        replies=True,
    ),
    "diagnostics": _service(
        "diagnostics",
        writes=(ALERTS, *_PUBLISH),
        reads=(TELEMETRY, BY_PUMP, EVENTS, COMMANDS, ALERTS, DLX),
        keys={ALERTS: _ANY_KEY, **_said_by("diagnostics")},
    ),
    "auth": _service(
        "auth",
        writes=_PUBLISH,
        reads=(EVENTS, COMMANDS, AUDIT, DLX, BROKER_LOG),
        keys=_said_by("auth"),
        replies=True,
    ),
    "archiver": _service(
        "archiver",
        writes=_PUBLISH,
        reads=(EVENTS, COMMANDS, DLX),
        keys=_said_by("archiver"),
        replies=True,
    ),
    "backup": _service("backup", writes=_PUBLISH, reads=(EVENTS, COMMANDS, DLX), keys=_said_by("backup")),
}


def gateway_rights(gateway_id: str) -> Rights:
    """Return the rights of a gateway: publish readings under its own id, by AMQP or MQTT, and nothing else.

    An MQTT client that only publishes needs no queue, so its rights equal those of an AMQP client.
    """
    if not GATEWAY_ID.fullmatch(gateway_id):
        raise ValueError(f"not a gateway id: {gateway_id!r}")
    own_keys = rf"^telemetry\.{re.escape(gateway_id)}(\..*)?$"
    return Rights(_NOTHING, rf"^{re.escape(INGEST)}$", _NOTHING, {INGEST: (own_keys, _NOTHING)})


def password_hash(password: str, salt: bytes | None = None) -> str:
    """Return RabbitMQ's salted SHA-256 hash of `password` (salt of 4 bytes, random by default)."""
    salt = os.urandom(4) if salt is None else salt
    return base64.b64encode(salt + hashlib.sha256(salt + password.encode()).digest()).decode()


def definitions(
    credentials: Mapping[str, str],
    gateways: Mapping[str, str],
    *,
    vhost: str = "/",
    administrator: str | None = None,
) -> dict[str, Any]:
    """Return definitions.json for the broker: one `vhost` with the whole topology and its users.

    `credentials`: service → password. `gateways`: gateway id → key. `administrator` names an entry of
    `credentials` that is not a service: a person's or a tool's user with every right.
    """
    rights = {user: SERVICE_RIGHTS[user] for user in credentials if user != administrator}
    rights |= {gateway: gateway_rights(gateway) for gateway in gateways}
    if administrator:
        rights[administrator] = Rights(_ANY_KEY, _ANY_KEY, _ANY_KEY, {})
    passwords = {**credentials, **gateways}
    return {
        "vhosts": [{"name": vhost}],
        "users": [_user(user, passwords[user], administrator == user) for user in rights],
        "permissions": [
            {
                "user": user,
                "vhost": vhost,
                "configure": right.configure,
                "write": right.write,
                "read": right.read,
            }
            for user, right in rights.items()
        ],
        "topic_permissions": [
            {"user": user, "vhost": vhost, "exchange": exchange, "write": write, "read": read}
            for user, right in rights.items()
            for exchange, (write, read) in right.topics.items()
        ],
        **objects(vhost),
    }


def objects(vhost: str) -> dict[str, Any]:
    """Return the exchanges, queues, bindings and policies of `vhost` in the form of definitions.json."""
    return {
        "exchanges": [
            {
                "name": exchange.name,
                "vhost": vhost,
                "type": exchange.kind,
                "durable": True,
                "auto_delete": False,
                "internal": False,
                "arguments": dict(exchange.arguments),
            }
            for exchange in EXCHANGES
        ],
        "queues": [
            {
                "name": queue.name,
                "vhost": vhost,
                "durable": True,
                "auto_delete": False,
                "arguments": dict(queue.arguments),
            }
            for queue in QUEUES
        ],
        "bindings": [
            {
                "source": binding.source,
                "vhost": vhost,
                "destination": binding.destination,
                "destination_type": "exchange" if binding.to_exchange else "queue",
                "routing_key": binding.routing_key,
                "arguments": {},
            }
            for binding in BINDINGS
        ],
        "policies": [],
    }


def _user(name: str, password: str, administrator: bool) -> dict[str, Any]:
    return {
        "name": name,
        "password_hash": password_hash(password),
        "hashing_algorithm": "rabbit_password_hashing_sha256",
        "tags": ["administrator"] if administrator else [],
        "limits": {},
    }
