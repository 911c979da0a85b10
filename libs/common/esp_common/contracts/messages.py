"""The catalogue of messages that cross the broker, from which the AsyncAPI documents are generated.

`topology` says which queue gets which, `BROADCASTS` which event types each process of a service hears.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from esp_common import topology

JSON: Final = "application/json"
ARROW: Final = "application/vnd.apache.arrow.stream"
"""As `contracts.arrow.MEDIA_TYPE`, which services without readings cannot import: it loads pyarrow."""
Schema = Mapping[str, Any]

TEXT: Final[Schema] = {"type": "string"}
OPTIONAL_TEXT: Final[Schema] = {"type": ["string", "null"]}
NUMBER: Final[Schema] = {"type": "number"}
COUNT: Final[Schema] = {"type": "integer", "minimum": 0}
OBJECT: Final[Schema] = {"type": "object"}
LIST: Final[Schema] = {"type": "array"}
DAY: Final[Schema] = {"type": "string", "format": "date"}
TIME: Final[Schema] = {"type": "string", "format": "date-time"}
BINARY: Final[Schema] = {"type": "string", "format": "binary"}


def fields(**properties: Schema) -> Schema:
    """Return the schema of an object with all of `properties`; it may have more."""
    return {"type": "object", "properties": properties, "required": sorted(properties)}


@dataclass(frozen=True, slots=True)
class Message:
    """One kind of message. `key`: its routing key, with `<…>` for a part that varies.

    `sender`: a service, or `gateway`, or `*` for every service. `reply`: schema of the reply, for requests.
    """

    name: str
    sender: str
    exchange: str
    key: str
    summary: str
    payload: Schema
    content_type: str = JSON
    reply: Schema | None = None
    is_event: bool = True

    def matches(self, pattern: str) -> bool:
        """Return whether a topic pattern takes its routing key."""
        return _matches(pattern.split("."), self.key.split("."))


def _matches(pattern: list[str], key: list[str]) -> bool:
    if not pattern or not key:
        return pattern in ([], ["#"]) and not key
    if pattern[0] == "#":
        return _matches(pattern[1:], key) or _matches(pattern, key[1:])
    return pattern[0] in ("*", key[0]) and _matches(pattern[1:], key[1:])


def _event(type_: str, summary: str, payload: Schema) -> Message:
    sender = topology.speaker_of(type_)
    if sender is None:
        raise ValueError(f"no service owns the subject of {type_}")
    return Message(type_, sender, topology.EVENTS, type_, summary, payload)


def _request(queue: str, sender: str, summary: str, payload: Schema, reply: Schema) -> Message:
    return Message(queue, sender, topology.COMMANDS, queue, summary, payload, reply=reply, is_event=False)


_READINGS: Final[Schema] = {
    "description": "One reading, a list of readings, `{readings: […]}` or an Arrow IPC stream of readings.",
    "type": ["object", "array", "string"],
}
_ALERT: Final = fields(alert_id=TEXT, change=TEXT, actor=OPTIONAL_TEXT, detail={})
_FINDING: Final = fields(
    change=TEXT,
    finding_id=TEXT,
    pump_id=TEXT,
    field_id=TEXT,
    condition=TEXT,
    severity=TEXT,
    confidence=NUMBER,
    time=TIME,
    onset=TIME,
    action=TEXT,
    rule_version=TEXT,
)
_BACKUP: Final = fields(kind=TEXT)
_RUN: Final = fields(days=COUNT, parts=COUNT, rows=COUNT, bytes=COUNT, problem=OPTIONAL_TEXT)
_OBJECT: Final = fields(object=TEXT, dataset=TEXT, day=DAY, problem=OPTIONAL_TEXT)
_LAG: Final = fields(lag_s=NUMBER, reason=OPTIONAL_TEXT)
_REASON: Final = fields(reason=OPTIONAL_TEXT)

_ASSETS: Final = ("field", "well", "pump", "gateway", "tag-map")
_FINDING_CHANGES: Final = ("raised", "changed", "cleared")
ALERT_CHANGES: Final = (
    *("raised", "changed", "cleared", "acknowledged", "unacknowledged", "shelved", "unshelved"),
    *("suppressed", "unsuppressed", "out-of-service", "in-service", "commented", "assigned", "closed"),
)

MESSAGES: Final = (
    Message(
        "telemetry",
        "gateway",
        topology.INGEST,
        "telemetry.<gateway_id>",
        "Readings of a gateway, also by MQTT (`telemetry/<gateway_id>`) and from ingest's HTTP API.",
        _READINGS,
        is_event=False,
    ),
    Message(
        "telemetry.accepted",
        "ingest",
        topology.TELEMETRY,
        "telemetry.<field_id>",
        "Readings that are stored, of one field and partition, as an Arrow IPC stream with quality masks.",
        BINARY,
        ARROW,
    ),
    *(
        _event(f"asset.{kind}-changed", f"The new state of a {kind}, or that it was deleted.", OBJECT)
        for kind in _ASSETS
    ),
    _event(
        "quality.degraded",
        "The data quality of a pump fell below the limit in an hour.",
        fields(pump_id=TEXT, field_id=TEXT, hour=TIME, limit=NUMBER),
    ),
    _event(
        "retention.dropped",
        "An archived day of readings was dropped from the store.",
        fields(day=DAY, readings=COUNT, archive_id=OPTIONAL_TEXT),
    ),
    _event(
        "retention.refused",
        "An archived day of readings stays in the store.",
        fields(archive_id=TEXT, reason=TEXT, archived=COUNT, stored={"type": ["integer", "null"]}),
    ),
    _event("maintenance.behind", "The aggregates lag behind.", _LAG),
    _event("maintenance.current", "The aggregates are current again.", _LAG),
    _event("maintenance.jobs-failing", "Jobs of TimescaleDB fail.", _REASON),
    _event("maintenance.jobs-working", "The jobs of TimescaleDB work again.", _REASON),
    *(
        _event(f"finding.{change}", f"A finding of a pump was {change}.", _FINDING)
        for change in _FINDING_CHANGES
    ),
    _event("finding.rules-changed", "Another version of the diagnosis rules is active.", OBJECT),
    _event("pump.rules-changed", "The rules of one pump changed.", OBJECT),
    _event("alert.rules-changed", "Another version of the alert rules is active.", OBJECT),
    _event("alert.flood-began", "More alerts of a field were raised than an operator can handle.", OBJECT),
    _event("alert.flood-ended", "The flood of alerts is over.", OBJECT),
    *(
        _event(f"alert.{change}", f"An alert made the transition {change}.", _ALERT)
        for change in ALERT_CHANGES
    ),
    Message(
        "alert.notice",
        "diagnostics",
        topology.ALERTS,
        "alert.<key>",
        "A message to people.",
        OBJECT,
    ),
    _event("auth.revoked", "Sessions or all tokens of users are revoked.", OBJECT),
    _event("auth.key-revoked", "An API key is revoked.", fields(key_id=TEXT)),
    _event("auth.keys-rotated", "There is a new signing key.", OBJECT),
    _event("auth.user-changed", "A user was created or changed.", fields(user_id=TEXT)),
    _event(
        "auth.audit-head", "Number and hash of the audit log's last record.", fields(seq=COUNT, hash=TEXT)
    ),
    _event(
        "archive.verified",
        "The archive has all readings of a day.",
        fields(
            dataset=TEXT,
            day=DAY,
            archive_id=TEXT,
            readings=COUNT,
            digest=TEXT,
            objects=LIST,
            contradictions=LIST,
        ),
    ),
    _event("archive.completed", "An archive run succeeded.", _RUN),
    _event("archive.failed", "An archive run failed.", _RUN),
    _event("archive.damaged", "An archived object could not be read whole.", _OBJECT),
    _event("archive.repaired", "An object that was damaged was read whole.", _OBJECT),
    _event("backup.completed", "A backup succeeded, or archiving of the log caught up.", _BACKUP),
    _event("backup.failed", "A backup failed, or archiving of the log fell behind.", _BACKUP),
    _event("backup.drill-passed", "A restore drill passed.", _BACKUP),
    _event("backup.drill-failed", "A restore drill failed.", _BACKUP),
    Message(
        "audit.recorded",
        "*",
        topology.AUDIT,
        "<service>.requests",
        "Audit records of a service, a batch a message.",
        fields(records=LIST),
    ),
    _request(
        topology.AUTH_VERIFY_KEY,
        "*",
        "Whose an API key is, by its SHA-256.",
        fields(key_sha256=TEXT),
        {"description": "The principal of the key; `null` when there is none.", "type": ["object", "null"]},
    ),
    _request(topology.AUTH_JWKS, "*", "The public signing keys.", {}, fields(keys=LIST)),
    _request(
        topology.AUTH_REVOCATIONS,
        "*",
        "All revocations in force.",
        {},
        fields(version=COUNT, sessions=OBJECT, users=OBJECT),
    ),
    _request(
        topology.ARCHIVER_READ,
        "diagnostics",
        "Archived readings of a pump.",
        fields(
            pump_id=TEXT,
            **{"from": TIME, "to": TIME},
            channels={"type": "array", "items": TEXT},
            limit=COUNT,
        ),
        {"description": "An Arrow IPC stream of readings, or `{problem}`.", "type": ["string", "object"]},
    ),
    _request(
        topology.INGEST_FIND_GATEWAY,
        "auth",
        "Whether a gateway exists.",
        fields(gateway_id=TEXT),
        fields(exists={"type": "boolean"}),
    ),
)

_TOKENS: Final = ("auth.key-revoked", "auth.keys-rotated", "auth.revoked")

BROADCASTS: Final[Mapping[str, tuple[str, ...]]] = {
    "ingest": ("asset.*", *_TOKENS),
    "diagnostics": ("asset.*", "pump.*", "alert.rules-changed", "finding.rules-changed", *_TOKENS),
    "auth": _TOKENS,
    "archiver": _TOKENS,
    "backup": _TOKENS,
}
"""Event types that processes of a service hear each, by a queue of its own."""
