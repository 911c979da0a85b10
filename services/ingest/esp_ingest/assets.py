"""Assets: the fields, wells, pumps, gateways and tag maps that readings are screened against."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from esp_common import audit, outbox, topology
from esp_common.contracts.events import Event
from esp_common.contracts.units import make_tag
from esp_common.database import Connection, Pool
from esp_common.errors import Conflict, InputProblem, InvalidInput, NotFound

from esp_ingest.asset_kinds import KINDS, Asset, Kind, Statement, TagMap, doubts
from esp_ingest.store.assets import AssetStore

SERVICE: Final = "ingest"


@dataclass(frozen=True, slots=True)
class Changes:
    """What a set of statements changed, in numbers of assets."""

    created: int
    updated: int
    unchanged: int


class Assets:
    """Reads and changes assets; each change is announced and audited in the transaction that makes it."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def page(
        self, kind: Kind, *, after: str | None, field_id: str | None, limit: int
    ) -> list[dict[str, Any]]:
        """Return up to `limit` assets of `kind` with ids above `after`, those of one field if named."""
        async with self._pool.acquire() as connection:
            found = await AssetStore(connection).page(kind.name, after=after, field_id=field_id, limit=limit)
        return list(found.values())

    async def get(self, kind: Kind, id_: str) -> dict[str, Any]:
        """Return one asset; raise `NotFound`."""
        async with self._pool.acquire() as connection:
            return await _existing(AssetStore(connection), kind, id_)

    async def create(self, statement: Statement, actor: str) -> None:
        """Add an asset; raise `Conflict` when its id is taken, `InvalidInput` when it refers to nothing."""
        async with self._pool.acquire() as connection, connection.transaction():
            store = AssetStore(connection)
            await store.lock()
            if await store.read(statement.kind.name, [statement.id]):
                raise Conflict(f"{statement.kind.key} {statement.id} exists", fix="change it with PUT")
            await _write(connection, [statement], actor)

    async def write(self, statements: Sequence[Statement], actor: str) -> Changes:
        """Make every statement true, or none; an asset that is so already is left alone, unannounced.

        Raises `InvalidInput` with every reference to an asset that does not exist.
        """
        async with self._pool.acquire() as connection, connection.transaction():
            await AssetStore(connection).lock()
            return await _write(connection, statements, actor)

    async def delete(self, kind: Kind, id_: str, actor: str) -> None:
        """Delete an asset; raise `NotFound`, or `Conflict` while something needs it."""
        async with self._pool.acquire() as connection, connection.transaction():
            store = AssetStore(connection)
            await store.lock()
            await _existing(store, kind, id_)
            if needing := await store.referring_to(kind.name, id_):
                raise Conflict(f"{kind.key} {id_} is needed by {', '.join(needing)}", fix="remove that first")
            await store.delete(kind.name, id_)
            await _announce(connection, kind, id_, {"deleted": True}, "deleted", actor)


async def _existing(store: AssetStore, kind: Kind, id_: str) -> dict[str, Any]:
    found = await store.read(kind.name, [id_])
    if id_ not in found:
        raise NotFound(f"no {kind.key} {id_}")
    return found[id_]


async def _write(connection: Connection, statements: Sequence[Statement], actor: str) -> Changes:
    store = AssetStore(connection)
    if problems := doubts(statements):
        raise InvalidInput.of(problems)
    await _check_references(store, statements)
    created = updated = 0
    for kind in KINDS.values():
        stated = {statement.id: statement.asset for statement in statements if statement.kind is kind}
        known = await store.read(kind.name, list(stated))
        before = {id_: kind.model.model_validate(document) for id_, document in known.items()}
        changed = {id_: asset for id_, asset in stated.items() if before.get(id_) != asset}
        await store.write(kind.name, [_document(asset) for asset in changed.values()])
        for id_, asset in changed.items():
            action = "updated" if id_ in before else "created"
            await _announce(connection, kind, id_, asset.model_dump(mode="json"), action, actor)
        created += len(changed.keys() - before.keys())
        updated += len(changed.keys() & before.keys())
    return Changes(created, updated, len(statements) - created - updated)


async def _check_references(store: AssetStore, statements: Sequence[Statement]) -> None:
    """Raise `InvalidInput` for what the statements refer to and neither they nor the database hold."""
    stated = {(statement.kind.name, statement.id) for statement in statements}
    missing = [
        (statement, attribute, kind, id_)
        for statement in statements
        for attribute, kind, id_ in statement.asset.references()
        if (kind, id_) not in stated
    ]
    for kind in KINDS:
        ids = {id_ for _, _, needed, id_ in missing if needed == kind}
        stated |= {(kind, id_) for id_ in await store.read(kind, list(ids))}
    problems = [
        InputProblem(f"{statement.where}: {attribute}", f"{id_} is not among the {kind}", "add it first")
        for statement, attribute, kind, id_ in missing
        if (kind, id_) not in stated
    ]
    if problems:
        raise InvalidInput.of(problems)


def _document(asset: Asset) -> dict[str, Any]:
    """Return what is stored: the asset, and for each tag what its unit comes to on the hot path."""
    document = asset.model_dump(mode="json")
    if isinstance(asset, TagMap):
        for tag, target in asset.tags.items():
            if target is not None:
                factor, offset = make_tag(target.channel, target.unit)
                document["tags"][tag] |= {"factor": factor, "offset": offset}
    return document


async def _announce(
    connection: Connection, kind: Kind, id_: str, data: dict[str, Any], action: str, actor: str
) -> None:
    """Publish the change to the services that keep copies, and to the audit trail."""
    event = Event(type=kind.event_type, source=SERVICE, subject=id_, data=data)
    await outbox.enqueue(connection, event, topology.EVENTS)
    kind_word = kind.event_type.removesuffix("-changed")
    await audit.record(
        connection, source=SERVICE, actor=actor, action=f"{kind_word}-{action}", subject=id_, data=data
    )
