"""Convert a limit change into a signal for the alert life cycle."""

from collections.abc import Collection
from datetime import UTC, datetime, timedelta
from typing import Final

from esp_common.contracts.channels import CHANNELS

from esp_diagnostics.alerts.model import Signal
from esp_diagnostics.alerts.rules import AlertRules, suppression
from esp_diagnostics.detection.limits import LimitChange

_UNIT: Final = {channel.name: channel.unit for channel in CHANNELS}
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def limit_signal(
    change: LimitChange,
    rules: AlertRules,
    field_id: str | None,
    pump_state: str | None,
    raised: Collection[str],
) -> Signal:
    """Return the signal of `change`; `raised`: active conditions of the same pump."""
    limit = change.limit
    side = "above" if limit.high is not None else "below"
    return Signal(
        pump_id=change.pump_id,
        field_id=field_id,
        condition=limit.condition,
        source="limit",
        active=change.active,
        severity=limit.priority,
        time=_EPOCH + timedelta(microseconds=change.time_us),
        title=f"{limit.title} ({change.value:g} {_UNIT[limit.channel]}, {side} {change.threshold:g})",
        action=limit.action,
        suppressed_by=suppression(rules, limit.condition, pump_state, raised),
    )
