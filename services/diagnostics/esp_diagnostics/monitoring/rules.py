"""Rules of the tree in force, loaded versions, and overrides of pumps.

Each change is validated, published and audited in its own transaction. Workers reload rules on the event.
"""

import asyncio
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, Final

from esp_common import audit, outbox, topology
from esp_common.contracts.events import Event
from esp_common.database import Connection, Pool
from esp_common.errors import Conflict, InvalidInput, NotFound

from esp_diagnostics.detection import tree
from esp_diagnostics.detection.tree import Parameter, Rules, load_rules
from esp_diagnostics.monitoring.store.rules import Override, RuleSet, RuleStore
from esp_diagnostics.settings import SERVICE

CHANGED: Final = "finding.rules-changed"
PUMP_CHANGED: Final = "pump.rules-changed"


@dataclass(frozen=True, slots=True)
class InForce:
    """Rules in force, whether they are the shipped ones, and the loaded versions."""

    rules: Rules
    shipped: bool
    loaded: list[RuleSet]


def shipped_text() -> str:
    """Return the text of the shipped rules."""
    return (files(tree) / "rules.yaml").read_text("utf-8")


class RuleBook:
    """Read and change rules and overrides."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def in_force(self) -> InForce:
        async with self._pool.acquire() as connection:
            store = RuleStore(connection)
            body, loaded = await store.active(), await store.versions()
        return InForce(await _parsed(body or shipped_text()), body is None, loaded)

    async def load(self, text: str, actor: str) -> Rules:
        """Validate rules and put them in force; raise RulesInvalid, or Conflict if the version exists."""
        rules, shipped = await _parsed(text), await _parsed(shipped_text())
        async with self._pool.acquire() as connection, connection.transaction():
            store = RuleStore(connection)
            await store.serialise()
            before = await store.active()
            taken = shipped.text if rules.version == shipped.version else await store.body(rules.version)
            if taken is not None and taken != text:
                raise Conflict(
                    f"version {rules.version!r} already exists with different content",
                    fix="give the changed rules a new version",
                )
            if text in (before, shipped.text if before is None else None):
                return rules
            if text == shipped.text:
                await store.retire()
            else:
                await store.activate(rules.version, text, actor)
            await _announce(connection, CHANGED, rules.version, {"version": rules.version}, actor)
        return rules

    async def ship(self, actor: str) -> Rules:
        """Put the shipped rules in force again."""
        return await self.load(shipped_text(), actor)

    async def overrides(self, pump_id: str) -> tuple[list[Override], Rules]:
        """Return the overrides of a pump, and the rules in force; raise NotFound."""
        async with self._pool.acquire() as connection, connection.transaction():
            store = RuleStore(connection)
            await _require_pump(store, pump_id)
            return await store.overrides(pump_id), await _rules(store)

    async def override(self, pump_id: str, name: str, value: float, actor: str) -> None:
        """Set an override; raise NotFound, or InvalidInput outside the parameter's bounds."""
        async with self._pool.acquire() as connection, connection.transaction():
            store = RuleStore(connection)
            await _require_pump(store, pump_id)
            _check(_parameter(await _rules(store), name), value)
            if await store.override(pump_id, name, value, actor):
                await _announce(connection, PUMP_CHANGED, pump_id, {"parameter": name, "value": value}, actor)

    async def drop_override(self, pump_id: str, name: str, actor: str) -> None:
        """Delete an override; raise NotFound if it does not exist."""
        async with self._pool.acquire() as connection, connection.transaction():
            store = RuleStore(connection)
            await _require_pump(store, pump_id)
            before = await store.drop_override(pump_id, name)
            if before is None:
                raise NotFound(f"pump {pump_id!r} has no override of {name!r}")
            data = {"parameter": name, "value": None, "before": before}
            await _announce(connection, PUMP_CHANGED, pump_id, data, actor)


async def _rules(store: RuleStore) -> Rules:
    return await _parsed(await store.active() or shipped_text())


async def _parsed(text: str) -> Rules:
    """Parse rules in a thread, because it takes too long for the event loop."""
    return await asyncio.to_thread(load_rules, text)


async def _require_pump(store: RuleStore, pump_id: str) -> None:
    if not await store.hold_pump(pump_id):
        raise NotFound(f"no pump {pump_id!r}", fix="see GET /api/v1/pumps")


def _parameter(rules: Rules, name: str) -> Parameter:
    if name not in rules.parameters:
        raise NotFound(f"the rules have no parameter {name!r}", fix="see GET /api/v1/rules")
    return rules.parameters[name]


def _check(parameter: Parameter, value: float) -> None:
    if not parameter.low <= value <= parameter.high:
        raise InvalidInput(
            f"{parameter.name} of {value:g} is not between {parameter.low:g} and {parameter.high:g}"
            f" {parameter.unit}".rstrip(),
            fix="stay within the bounds, or change them in the rules",
        )


async def _announce(
    connection: Connection, what: str, subject: str, data: dict[str, Any], actor: str
) -> None:
    event = Event(type=what, source=SERVICE, subject=subject, data=data)
    await outbox.enqueue(connection, event, topology.EVENTS)
    action = "rules-loaded" if what == CHANGED else "pump-rules-changed"
    await audit.record(connection, source=SERVICE, actor=actor, action=action, subject=subject, data=data)
