"""The rules of the tree in use: which are in force, who loaded them, and what pumps have of their own.

A change is checked, announced and audited in the transaction that makes it. Workers hear of it by event.
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
    """The rules in force, whether they are the shipped ones, and the sets that were loaded before."""

    rules: Rules
    shipped: bool
    loaded: list[RuleSet]


def shipped_text() -> str:
    """Return the rules shipped with the service as they are written."""
    return (files(tree) / "rules.yaml").read_text("utf-8")


class RuleBook:
    """Reads and changes the rules and pumps' own values."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def in_force(self) -> InForce:
        """Return the rules in force."""
        async with self._pool.acquire() as connection:
            store = RuleStore(connection)
            body, loaded = await store.active(), await store.versions()
        return InForce(await _parsed(body or shipped_text()), body is None, loaded)

    async def load(self, text: str, actor: str) -> Rules:
        """Put checked rules in force; raise RulesInvalid, or Conflict for a version that is taken."""
        rules, shipped = await _parsed(text), await _parsed(shipped_text())
        async with self._pool.acquire() as connection, connection.transaction():
            store = RuleStore(connection)
            await store.serialise()
            before = await store.active()
            taken = shipped.text if rules.version == shipped.version else await store.body(rules.version)
            if taken is not None and taken != text:
                raise Conflict(
                    f"version {rules.version!r} is taken by other rules",
                    fix="give the changed rules a version of their own",
                )
            if text in (before, shipped.text if before is None else None):
                return rules
            if text == shipped.text:
                await store.retire()
            else:
                await store.activate(rules.version, text, actor)
            await _tell(connection, CHANGED, rules.version, {"version": rules.version}, actor)
        return rules

    async def ship(self, actor: str) -> Rules:
        """Put the shipped rules in force again."""
        return await self.load(shipped_text(), actor)

    async def overrides(self, pump_id: str) -> tuple[list[Override], Rules]:
        """Return a pump's own values, and the rules whose parameters they are; raise NotFound."""
        async with self._pool.acquire() as connection, connection.transaction():
            store = RuleStore(connection)
            await _require_pump(store, pump_id)
            return await store.overrides(pump_id), await _rules(store)

    async def override(self, pump_id: str, name: str, value: float, actor: str) -> None:
        """Give a pump its own value of a parameter; raise NotFound, or InvalidInput beyond its limits."""
        async with self._pool.acquire() as connection, connection.transaction():
            store = RuleStore(connection)
            await _require_pump(store, pump_id)
            _check(_parameter(await _rules(store), name), value)
            if await store.override(pump_id, name, value, actor):
                await _tell(connection, PUMP_CHANGED, pump_id, {"parameter": name, "value": value}, actor)

    async def drop_override(self, pump_id: str, name: str, actor: str) -> None:
        """Have a pump judged by the common value again; raise NotFound where it has none of its own."""
        async with self._pool.acquire() as connection, connection.transaction():
            store = RuleStore(connection)
            await _require_pump(store, pump_id)
            before = await store.drop_override(pump_id, name)
            if before is None:
                raise NotFound(f"pump {pump_id!r} has no value of its own for {name!r}")
            said = {"parameter": name, "value": None, "before": before}
            await _tell(connection, PUMP_CHANGED, pump_id, said, actor)


async def _rules(store: RuleStore) -> Rules:
    return await _parsed(await store.active() or shipped_text())


async def _parsed(text: str) -> Rules:
    """Return checked rules; reading them takes too long for the loop."""
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
            f"{parameter.name} of {value:g} is not from {parameter.low:g} to {parameter.high:g}"
            f" {parameter.unit}".rstrip(),
            fix="stay within the limits, or change them in the rules",
        )


async def _tell(connection: Connection, what: str, subject: str, said: dict[str, Any], actor: str) -> None:
    event = Event(type=what, source=SERVICE, subject=subject, data=said)
    await outbox.enqueue(connection, event, topology.EVENTS)
    action = "rules-loaded" if what == CHANGED else "pump-rules-changed"
    await audit.record(connection, source=SERVICE, actor=actor, action=action, subject=subject, data=said)
