"""Reconciliation: does what was confirmed to gateways agree with what is kept?

The ledger is compared with the tables, and with a receipt each confirmed reading is looked up by the
worker's own decoding: by pump and time in the store, value by value, else by its id in quarantine, else
in the dead letters. What is found nowhere is lost.
"""

import base64
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import aio_pika
import numpy as np
import orjson
from esp_common import topology
from esp_common.contracts.channels import CHANNEL_NAMES, RUNNING, TRIP_CODE
from esp_common.contracts.readings import RUNNING_ABSENT, TRIP_CODE_ABSENT
from esp_common.database import Pool

from esp_ingest.dead_letters import DeadLetter, DeadLetters
from esp_ingest.domain.decode import JSON_TYPE, Body, decode
from esp_ingest.domain.readings import Reason
from esp_ingest.domain.registry import Registry
from esp_ingest.domain.scaling import RESOLUTIONS
from esp_ingest.domain.screen import Screened, as_datetime, screen
from esp_ingest.intake import gateway_of
from esp_ingest.store import operations
from esp_ingest.store.assets import load_registry
from esp_ingest.store.batch import Key

_CHUNK: Final = 5_000
_END_OF_TIME_US: Final = 2**62
"""A clock for which no reading lies in the future: whether it did is for quarantine to say."""

_SLACK: Final = 0.5 + 1e-6


@dataclass(slots=True)
class Receipt:
    """What became of the readings a receipt holds, each counted once.

    `lost`: kept nowhere, or with other values. `duplicated`: stored more than once. `unexpected`: rows in
    the store that the receipt does not name (sent by others, or stored though never confirmed).
    """

    confirmed: int = 0
    stored: int = 0
    quarantined: int = 0
    dead_lettered: int = 0
    lost: int = 0
    duplicated: int = 0
    unexpected: int = 0
    examples: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Reconciliation:
    """The service's accounts beside what is there, and a receipt's outcome if one was given."""

    sums: Mapping[str, int]
    queued: int
    dead_letters: int
    receipt: Receipt | None

    @property
    def differences(self) -> list[str]:
        """What does not add up; empty when all is well."""
        s = self.sums
        accounted = s["stored"] + s["merged"] + s["duplicates"] + s["quarantined"]
        checks = [
            ("readings taken", s["readings"], "accounted for", accounted),
            ("rows stored", s["stored"], "in the store or dropped", s["rows"] + s["rows_dropped"]),
            ("readings quarantined", s["quarantined"], "in quarantine", s["rows_quarantined"]),
        ]
        found = [f"{a} {m} but {n} {b}" for a, m, b, n in checks if m != n]
        if self.receipt and self.receipt.lost:
            found.append(f"{self.receipt.lost} confirmed readings lost")
        if self.receipt and self.receipt.duplicated:
            found.append(f"{self.receipt.duplicated} readings duplicated")
        return found

    @property
    def agrees(self) -> bool:
        """Whether everything adds up."""
        return not self.differences

    def text(self) -> str:
        """Return the report, a line for each account."""
        s = self.sums
        lines = [
            f"ledger:  {s['messages']} messages, {s['readings']} readings = {s['stored']} stored"
            f" + {s['merged']} merged + {s['duplicates']} duplicates + {s['quarantined']} quarantined",
            f"tables:  {s['rows']} rows stored, {s['rows_dropped']} dropped by retention,"
            f" {s['rows_quarantined']} in quarantine",
            f"broker:  {self.queued} messages waiting, {self.dead_letters} dead letters",
        ]
        if self.receipt:
            r = self.receipt
            lines.append(
                f"receipt: {r.confirmed} confirmed / {r.stored} stored / {r.quarantined} quarantined"
                f" / {r.dead_lettered} dead-lettered / {r.lost} lost / {r.duplicated} duplicated"
                f" / {r.unexpected} unexpected"
            )
            lines += [f"         lost: {example}" for example in r.examples]
        return "\n".join([*lines, *(self.differences or ["all accounts agree"])])


async def reconcile(pool: Pool, amqp_url: str, receipt_path: Path | None = None) -> Reconciliation:
    """Compare accounts and tables, and look up every line of the receipt at `receipt_path`.

    A line is `{"gateway_id": …, "reading": {…}}`, or `{"gateway_id", "body_base64", "content_type"}` for
    a body that was no JSON. Run it once the queue is empty: what still waits there counts as lost.
    """
    letters = await DeadLetters(amqp_url).list(limit=1_000_000)
    async with (
        pool.acquire() as connection,
        connection.transaction(isolation="repeatable_read", readonly=True),
    ):
        sums = await operations.sums(connection)
        receipt = None
        if receipt_path is not None:
            async with pool.acquire() as other:
                registry = await load_registry(other)
            lookup = _Lookup(connection, registry, _ids_of(letters, registry))
            with receipt_path.open("rb") as lines:
                while chunk := list(islice(lines, _CHUNK)):
                    await lookup.add(chunk)
            receipt = lookup.result(sums["rows"])
    return Reconciliation(sums, await _queued(amqp_url), len(letters), receipt)


async def _queued(amqp_url: str) -> int:
    async with await aio_pika.connect(amqp_url, timeout=10) as connection, connection.channel() as channel:
        queue = await channel.declare_queue(topology.INGEST_TELEMETRY, passive=True)
        return queue.declaration_result.message_count or 0


def _ids_of(letters: Iterable[DeadLetter], registry: Registry) -> set[UUID]:
    """Return the ids that the readings of dead letters would have in quarantine."""
    bodies = [Body(each.body, each.content_type, gateway_of(each.routing_key)) for each in letters]
    return {reading.id for reading in _readings(bodies, registry)}


@dataclass(frozen=True, slots=True)
class _Reading:
    """One reading as sent: its id in quarantine, and if it passes today's rules its key and values."""

    id: UUID
    key: Key | None
    cells: Mapping[str, float]
    words: str


def _readings(bodies: list[Body], registry: Registry) -> Iterator[_Reading]:
    screened = screen(decode(bodies), registry, _END_OF_TIME_US)
    for each in screened.rejected:
        yield _Reading(each.row.id, None, {}, f"{each.row.reason}: {each.row.payload}")
    for position in range(len(screened.accepted)):
        yield _accepted(screened, position, registry)


def _accepted(screened: Screened, position: int, registry: Registry) -> _Reading:
    accepted = screened.accepted
    pump_no, time_us = int(accepted.pump_no[position]), int(accepted.time_us[position])
    pump_id = registry.by_no[pump_no].pump_id
    row = screened.quarantined(int(accepted.number[position]), pump_id, time_us, Reason.CONFLICT, "")
    measured = np.flatnonzero(~np.isnan(accepted.values[position]))
    cells = {CHANNEL_NAMES[i]: float(accepted.values[position, i] / RESOLUTIONS[i]) for i in measured}
    if accepted.running[position] != RUNNING_ABSENT:
        cells[RUNNING] = float(accepted.running[position])
    if accepted.trip_code[position] != TRIP_CODE_ABSENT:
        cells[TRIP_CODE] = float(accepted.trip_code[position])
    time = as_datetime(time_us)
    return _Reading(row.id, (pump_no, time) if time else None, cells, str(row.payload))


class _Lookup:
    """Looks readings of a receipt up, a chunk of lines at a time."""

    def __init__(self, connection: Any, registry: Registry, dead: set[UUID]) -> None:
        self._connection = connection
        self._registry = registry
        self._dead = dead
        self._receipt = Receipt()
        self._keys: set[Key] = set()
        self._twice: set[Key] = set()

    async def add(self, lines: list[bytes]) -> None:
        """Look up the readings of `lines`."""
        readings = list(_readings([_line_body(line) for line in lines if line.strip()], self._registry))
        keys = {reading.key for reading in readings if reading.key}
        rows = await operations.stored_rows(self._connection, sorted(keys))
        found = Counter((row["pump_no"], row["time"]) for row in rows)
        self._twice |= {key for key, count in found.items() if count > 1}
        self._keys |= found.keys()
        by_key = {(row["pump_no"], row["time"]): row for row in rows}
        kept = await operations.quarantined_ids(self._connection, {reading.id for reading in readings})
        for reading in readings:
            self._count(reading, by_key.get(reading.key) if reading.key else None, kept)

    def _count(self, reading: _Reading, row: Mapping[str, Any] | None, kept: set[UUID]) -> None:
        receipt = self._receipt
        receipt.confirmed += 1
        if row is not None and _holds(row, reading.cells):
            receipt.stored += 1
        elif reading.id in kept:
            receipt.quarantined += 1
        elif reading.id in self._dead:
            receipt.dead_lettered += 1
        else:
            receipt.lost += 1
            if len(receipt.examples) < 5:
                receipt.examples.append(
                    f"{reading.words} {'is stored otherwise' if row else 'is nowhere'}"[:400]
                )

    def result(self, rows: int) -> Receipt:
        """Return the outcome, given how many rows the store holds in all."""
        self._receipt.duplicated = len(self._twice)
        self._receipt.unexpected = rows - len(self._keys)
        return self._receipt


def _holds(row: Mapping[str, Any], cells: Mapping[str, float]) -> bool:
    """Whether a stored row has every value that was sent, to half a resolution."""
    return all(row[name] is not None and abs(row[name] - value) <= _SLACK for name, value in cells.items())


def _line_body(line: bytes) -> Body:
    try:
        entry = orjson.loads(line)
    except orjson.JSONDecodeError:
        entry = json.loads(line)  # with NaN or Infinity in it, as it was sent
    if "reading" in entry:
        return Body(json.dumps(entry["reading"]).encode(), JSON_TYPE, entry["gateway_id"])
    return Body(base64.b64decode(entry["body_base64"]), entry.get("content_type"), entry["gateway_id"])
