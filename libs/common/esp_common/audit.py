"""Audit events: who did what to what, written with the change itself and kept by the auth service."""

from typing import Any, Final

from esp_common import outbox, topology
from esp_common.contracts.events import Event

RECORDED: Final = "audit.recorded"


async def record(
    connection: outbox.Connection, *, source: str, actor: str, action: str, subject: str, data: Any = None
) -> None:
    """Record in the caller's transaction that `actor` did `action` to `subject`, in service `source`.

    `actor` is a principal's id, or `cli:<user>`; `action` like `quarantine.replayed`; `data` what it changed.
    """
    details = {"actor": actor, "action": action, "subject": subject, "data": data}
    event = Event(type=RECORDED, source=source, subject=subject, data=details)
    await outbox.enqueue(connection, event, topology.AUDIT, routing_key=f"{source}.{action}")
