"""Alert rules in force: read them, and load new versions."""

from datetime import UTC, datetime
from typing import Final

import structlog
from esp_common import audit, outbox
from esp_common.database import Connection, Pool
from esp_common.errors import Conflict

from esp_diagnostics.alerts.model import Alert, Signal
from esp_diagnostics.alerts.rules import (
    AlertRules,
    AlertRulesInvalid,
    load_alert_rules,
    shipped_alert_rules,
    shipped_text,
)
from esp_diagnostics.alerts.store import AlertStore, RuleSetStore
from esp_diagnostics.alerts.transaction import event
from esp_diagnostics.alerts.transitions import report
from esp_diagnostics.live.broadcast import LivePublisher
from esp_diagnostics.settings import SERVICE

log = structlog.get_logger()

RULES_CHANGED: Final = "alert.rules-changed"

_PARSED: dict[str, tuple[str, AlertRules]] = {}
"""Text and parsed rules by version; every change of an alert needs them."""


async def load_rules(connection: Connection) -> AlertRules:
    """Return the rules in force: the last loaded, else the shipped rules.

    Holders reload them on the event `alert.rules-changed`. Rules of an older release that no longer parse are
    replaced by the shipped rules, because no rules would mean no alerts.
    """
    row = await RuleSetStore(connection).rule_set()
    if row is None:
        return shipped_alert_rules()
    known = _PARSED.get(row["version"])
    if known is None or known[0] != row["body"]:
        known = _PARSED[row["version"]] = (row["body"], _readable(row["version"], row["body"]))
    return known[1]


def _readable(version: str, body: str) -> AlertRules:
    try:
        return load_alert_rules(body)
    except AlertRulesInvalid as error:
        log.critical(
            "alert-rules.unreadable", version=version, reason=error.detail, effect="shipped rules hold"
        )
        return shipped_alert_rules()


async def rules_text(connection: Connection) -> str:
    """Return the text of the rules in force as loaded, including comments."""
    row = await RuleSetStore(connection).rule_set()
    return row["body"] if row else shipped_text()


def _cleared_signal(alert: Alert, now: datetime) -> Signal:
    """Return a signal that clears the condition of an alert."""
    return Signal(
        pump_id=alert.pump_id,
        field_id=alert.field_id,
        condition=alert.condition,
        source="limit",
        active=False,
        severity=alert.severity,
        time=max(now, alert.signalled_at),
        title=alert.title,
        subject=alert.subject,
    )


class AlertRuleSets:
    """Load versions of the alert rules."""

    def __init__(self, pool: Pool, live: LivePublisher) -> None:
        self._pool = pool
        self._live = live

    async def load(self, text: str, actor: str) -> AlertRules:
        """Put the rules of `text` in force and clear alerts of limits that they no longer contain.

        Raise AlertRulesInvalid, or Conflict if the version already names different rules. Loading an older
        version again puts it in force again.
        """
        rules = load_alert_rules(text)
        now = datetime.now(UTC)
        async with self._pool.acquire() as connection, connection.transaction():
            store = AlertStore(connection)
            if await RuleSetStore(connection).load_rule_set(rules.version, text, actor) is not None:
                raise Conflict(
                    f"version {rules.version} of the alert rules already exists with different content",
                    fix="give the changed rules a new version",
                )
            orphans = await store.orphans([limit.condition for limit in rules.limits])
            changes = await report(
                connection, [_cleared_signal(alert, now) for alert in orphans], rules, now=now
            )
            changed = event(RULES_CHANGED, rules.version, {"version": rules.version})
            await outbox.enqueue_all(connection, [changed])
            await audit.record(
                connection,
                source=SERVICE,
                actor=actor,
                action="alert-rules.loaded",
                subject=rules.version,
                data={"version": rules.version},
            )
        await self._live.publish([change.live() for change in changes])
        return rules
