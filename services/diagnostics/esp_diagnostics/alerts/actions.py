"""Apply operator actions to alerts."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from esp_common import audit
from esp_common.database import Pool
from esp_common.errors import NotFound

from esp_diagnostics.alerts import lifecycle
from esp_diagnostics.alerts.model import Alert
from esp_diagnostics.alerts.rule_sets import load_rules
from esp_diagnostics.alerts.rules import AlertRules
from esp_diagnostics.alerts.store import AlertStore
from esp_diagnostics.alerts.transaction import AlertTransaction
from esp_diagnostics.live.broadcast import LivePublisher
from esp_diagnostics.settings import SERVICE

Transition = Callable[[Alert, datetime, AlertRules], Alert]


class AlertActions:
    """Apply operator actions to alerts; each is audited and announced in its own transaction.

    Every action takes the alert's id and the actor, and returns the alert after it. It raises NotFound, or
    Conflict if the state of the alert does not allow it. The `comment` is kept in the log of the alert.
    """

    def __init__(self, pool: Pool, live: LivePublisher) -> None:
        self._pool = pool
        self._live = live

    async def acknowledge(self, alert_id: UUID, actor: str, comment: str = "") -> Alert:
        return await self._do(
            alert_id,
            actor,
            "acknowledged",
            lambda alert, now, _: lifecycle.acknowledge(alert, actor, now),
            comment,
        )

    async def unacknowledge(self, alert_id: UUID, actor: str, comment: str = "") -> Alert:
        return await self._do(
            alert_id, actor, "unacknowledged", lambda alert, *_: lifecycle.unacknowledge(alert), comment
        )

    async def shelve(self, alert_id: UUID, actor: str, until: datetime, reason: str) -> Alert:
        """Hide the alert until `until`; raise InvalidInput if the rules do not allow that long."""

        def transition(alert: Alert, now: datetime, rules: AlertRules) -> Alert:
            return lifecycle.shelve(alert, actor, until, reason, now, max_s=rules.shelve_longest_s)

        return await self._do(
            alert_id, actor, "shelved", transition, detail={"until": until, "reason": reason}
        )

    async def unshelve(self, alert_id: UUID, actor: str, comment: str = "") -> Alert:
        return await self._do(
            alert_id, actor, "unshelved", lambda alert, *_: lifecycle.unshelve(alert), comment
        )

    async def take_out_of_service(self, alert_id: UUID, actor: str, reason: str) -> Alert:
        def transition(alert: Alert, *_: Any) -> Alert:
            return lifecycle.take_out_of_service(alert, actor, reason)

        return await self._do(alert_id, actor, "out-of-service", transition, detail={"reason": reason})

    async def return_to_service(self, alert_id: UUID, actor: str, comment: str = "") -> Alert:
        return await self._do(
            alert_id, actor, "in-service", lambda alert, *_: lifecycle.return_to_service(alert), comment
        )

    async def assign(self, alert_id: UUID, actor: str, assignee: str | None) -> Alert:
        return await self._do(
            alert_id,
            actor,
            "assigned",
            lambda alert, *_: lifecycle.assign(alert, assignee),
            detail={"assignee": assignee},
        )

    async def close(self, alert_id: UUID, actor: str, comment: str = "") -> Alert:
        return await self._do(
            alert_id, actor, "closed", lambda alert, now, _: lifecycle.close(alert, actor, now), comment
        )

    async def comment(self, alert_id: UUID, actor: str, text: str) -> Alert:
        """Add a remark; closed alerts accept remarks too."""
        return await self._do(alert_id, actor, "commented", lambda alert, *_: alert, text)

    async def _do(
        self,
        alert_id: UUID,
        actor: str,
        action: str,
        transition: Transition,
        comment: str = "",
        detail: Mapping[str, Any] | None = None,
    ) -> Alert:
        now = datetime.now(UTC)
        async with self._pool.acquire() as connection, connection.transaction():
            store = AlertStore(connection)
            before = await store.lock(alert_id)
            if before is None:
                raise NotFound(f"no alert {alert_id}", fix="see the list of alerts")
            rules = await load_rules(connection)
            after = transition(before, now, rules)
            transaction = AlertTransaction(store, connection, rules, now, actor)
            transaction.take(before, after, now, detail)
            if comment:
                transaction.comment(after, comment)
            changes = await transaction.commit()
            await audit.record(
                connection,
                source=SERVICE,
                actor=actor,
                action=f"alert.{action}",
                subject=str(alert_id),
                data={**(detail or {}), **({"comment": comment} if comment else {})},
            )
        await self._live.publish([change.live() for change in changes])
        return after
