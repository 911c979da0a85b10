"""Events: CloudEvents 1.0 in AMQP's binary mode, attributes as headers and data as the body.

The binding allows two header prefixes: `cloudEvents_` is written, since JMS selectors cannot contain a colon;
both are read. The W3C trace context travels as `traceparent`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final
from uuid import uuid4

import orjson
from opentelemetry import propagate

from esp_common.errors import InvalidInput
from esp_common.times import parse_time

CONTENT_TYPE: Final = "application/json"
SPEC_VERSION: Final = "1.0"
_PREFIXES: Final = ("cloudEvents_", "cloudEvents:")


@dataclass(frozen=True, slots=True)
class Event:
    """An event: `type` (`asset.pump-changed`), `subject` (the changed object) and `source` (a service).

    `data` is JSON; for `asset.*` the full new state, or `{"deleted": true}`.
    """

    type: str
    source: str
    subject: str
    data: Any
    id: str = field(default_factory=lambda: uuid4().hex)
    time: datetime = field(default_factory=lambda: datetime.now(UTC))

    def headers(self) -> dict[str, str]:
        """Return the AMQP headers, with the current trace context."""
        attributes = event_headers(self.type, self.source, self.subject, id_=self.id, time=self.time)
        propagate.inject(attributes)
        return attributes

    def body(self) -> bytes:
        """Return the data as JSON."""
        return orjson.dumps(self.data)


def event_headers(
    type_: str, source: str, subject: str, *, id_: str | None = None, time: datetime | None = None
) -> dict[str, str]:
    """Return the attributes of an event as headers, for a body that is not JSON (Arrow batches)."""
    attributes = {
        "specversion": SPEC_VERSION,
        "id": id_ or uuid4().hex,
        "type": type_,
        "source": source,
        "subject": subject,
        "time": (time or datetime.now(UTC)).isoformat(),
    }
    return {f"{_PREFIXES[0]}{name}": value for name, value in attributes.items()}


def decode_event(headers: Mapping[str, Any], body: bytes) -> Event:
    """Return the event of a message; raise InvalidInput if it is not one."""
    attributes = {
        name.removeprefix(prefix): str(value)
        for name, value in headers.items()
        for prefix in _PREFIXES
        if name.startswith(prefix)
    }
    try:
        if attributes["specversion"] != SPEC_VERSION:
            raise InvalidInput(f"CloudEvents {attributes['specversion']} is not spoken here")
        return Event(
            type=attributes["type"],
            source=attributes["source"],
            subject=attributes.get("subject", ""),
            data=orjson.loads(body) if body else None,
            id=attributes["id"],
            time=parse_time(attributes["time"]),
        )
    except KeyError as error:
        raise InvalidInput(f"event without {error.args[0]}") from None
    except ValueError as error:
        raise InvalidInput(f"event that cannot be read: {error}") from None
