"""Event and audit record of a change, written in its transaction."""

from dataclasses import dataclass
from typing import Any, Final

from esp_common import audit, outbox, topology
from esp_common.auth import Principal
from esp_common.contracts.events import Event
from esp_common.database import Connection

SERVICE: Final = "auth"
USER_CHANGED: Final = "auth.user-changed"


@dataclass(frozen=True, slots=True)
class Actor:
    """Who makes a change: a principal's id and kind, and the address of the request.

    `limits`: the key whose rights bound the objects this actor may change; None: unbounded.
    """

    id: str | None
    kind: audit.ActorKind
    source_address: str | None = None
    limits: Principal | None = None


async def announce(connection: Connection, type_: str, subject: str, data: dict[str, Any]) -> Event:
    """Write the event of a change for the other services, and return it."""
    event = Event(type=type_, source=SERVICE, subject=subject, data=data)
    await outbox.enqueue(connection, event, topology.EVENTS)
    return event


async def note(
    connection: Connection,
    actor: Actor,
    action: str,
    object_: str,
    detail: dict[str, Any] | None = None,
    *,
    outcome: audit.Outcome = "success",
) -> None:
    """Write to the audit trail that `actor` did `action`; `detail` holds no secret."""
    await audit.record(
        connection,
        source=SERVICE,
        actor=actor.id,
        kind=actor.kind,
        action=action,
        subject=object_,
        data=detail or {},
        outcome=outcome,
    )
