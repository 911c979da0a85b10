"""Reconciliation: does what was confirmed to gateways agree with what is kept?

The ledger is compared with the tables, and with a receipt each confirmed reading is looked up by the
worker's own decoding: by pump and time in the store, channel by channel, where a channel that the store
has not, or has otherwise, must be in quarantine by its id; else by the reading's id in quarantine, else in
the dead letters. What is found nowhere is lost.
"""

import base64
import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import aio_pika
import numpy as np
import orjson
from esp_common import topology
from esp_common.amqp_nodes import connect_to_any
from esp_common.contracts.channels import CHANNEL_NAMES, RUNNING, TRIP_CODE
from esp_common.contracts.readings import RUNNING_ABSENT, TRIP_CODE_ABSENT
from esp_common.database import Connection, Pool
from esp_common.progress import Progress, silent

from esp_ingest.dead_letters import DeadLetter, DeadLetters
from esp_ingest.domain.decode import JSON_TYPE, Body, decode
from esp_ingest.domain.readings import Reason
from esp_ingest.domain.registry import Registry
from esp_ingest.domain.scaling import RESOLUTIONS
from esp_ingest.domain.screen import Screened, as_datetime, screen
from esp_ingest.domain.verdicts import Refusal
from esp_ingest.intake import gateway_of
from esp_ingest.quarantine import body_of
from esp_ingest.store import operations
from esp_ingest.store.assets import load_registry
from esp_ingest.store.batch import Key

_CHUNK: Final = 5_000
_END_OF_TIME_US: Final = 2**62
"""A clock for which no reading lies in the future: whether it did is for quarantine to say."""

_SLACK: Final = 0.5 + 1e-6


@dataclass(slots=True)
class Receipt:
    """What became of the readings a receipt holds, each counted once, and of their channels.

    `channels_refused`: channels of stored readings that are in quarantine. `lost`: kept nowhere, or with
    other values. `duplicated`: stored more than once. `unexpected`: rows in the store that the receipt does
    not name (sent by others, or stored though never confirmed).
    """

    confirmed: int = 0
    stored: int = 0
    quarantined: int = 0
    dead_lettered: int = 0
    lost: int = 0
    duplicated: int = 0
    unexpected: int = 0
    channels_stored: int = 0
    channels_refused: int = 0
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
        readings_refused = s["rows_quarantined"] + s["readings_unkept"] + s["readings_expired"]
        channels_refused = s["channels_quarantined"] + s["channels_unkept"] + s["channels_expired"]
        checks = [
            ("readings taken", s["readings"], "accounted for", accounted),
            ("rows stored", s["stored"], "in the store or dropped", s["rows"] + s["rows_dropped"]),
            (
                "readings quarantined",
                s["quarantined"],
                "in quarantine, dropped or not kept",
                readings_refused,
            ),
            (
                "channels refused",
                s["refused_channels"],
                "in quarantine, dropped or not kept",
                channels_refused,
            ),
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
            f" + {s['merged']} merged + {s['duplicates']} duplicates + {s['quarantined']} quarantined;"
            f" {s['refused_channels']} channels refused",
            f"tables:  {s['rows']} rows stored, {s['rows_dropped']} dropped by retention,"
            f" {s['rows_quarantined']} readings and {s['channels_quarantined']} channels in quarantine",
            f"         {s['readings_unkept']} readings and {s['channels_unkept']} channels not kept:"
            " their gateway had passed its limit of the day",
            f"         {s['readings_expired']} readings and {s['channels_expired']} channels dropped"
            " from quarantine by retention",
            f"broker:  {self.queued} messages waiting, {self.dead_letters} dead letters",
        ]
        if self.receipt:
            r = self.receipt
            lines.append(
                f"receipt: {r.confirmed} confirmed / {r.stored} stored / {r.quarantined} quarantined"
                f" / {r.dead_lettered} dead-lettered / {r.lost} lost / {r.duplicated} duplicated"
                f" / {r.unexpected} unexpected"
            )
            lines.append(
                f"         of stored readings: {r.channels_stored} channels stored"
                f" / {r.channels_refused} refused and in quarantine"
            )
            lines += [f"         lost: {example}" for example in r.examples]
        return "\n".join([*lines, *(self.differences or ["all accounts agree"])])


async def reconcile(
    pool: Pool, amqp_url: str, receipt_path: Path | None = None, progress: Progress = silent
) -> Reconciliation:
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
            summarized = await _summarized_ids(connection, registry)
            lookup = _Lookup(connection, registry, _ids_of(letters, registry), summarized)
            read = 0
            with receipt_path.open("rb") as lines:
                size = os.fstat(lines.fileno()).st_size
                while chunk := list(islice(lines, _CHUNK)):
                    await lookup.add(chunk)
                    read += sum(map(len, chunk))
                    progress("look up the receipt", min(read / size, 1))
            receipt = lookup.result(sums["rows"])
    return Reconciliation(sums, await _queued(amqp_url), len(letters), receipt)


async def _queued(amqp_url: str) -> int:
    opening = connect_to_any(amqp_url, lambda node: aio_pika.connect(node, timeout=10))
    async with await opening as connection, connection.channel() as channel:
        queue = await channel.declare_queue(topology.INGEST_TELEMETRY, passive=True)
        return queue.declaration_result.message_count or 0


def _ids_of(letters: Iterable[DeadLetter], registry: Registry) -> set[UUID]:
    """Return the ids that the readings of dead letters would have in quarantine."""
    bodies = [Body(each.body, each.content_type, gateway_of(each.routing_key)) for each in letters]
    return {reading.id for reading in _readings(bodies, registry)}


async def _summarized_ids(connection: Connection, registry: Registry) -> set[UUID]:
    """Return the ids of the readings and channels in the messages that summary rows keep whole."""
    found: set[UUID] = set()
    async for gateway_id, payload in operations.summaries(connection):
        content, content_type = body_of(payload)
        for reading in _readings([Body(content, content_type, gateway_id)], registry):
            found.add(reading.id)
            found.update(reading.refused.values())
    return found


@dataclass(frozen=True, slots=True)
class _Reading:
    """One reading as sent: its id in quarantine, and if it passes today's rules its key and values.

    `refused`: ids of its channels that do not pass, by name. `channel_id` returns the id of any other.
    """

    id: UUID
    key: Key | None
    cells: Mapping[str, float]
    words: str
    refused: Mapping[str, UUID] = field(default_factory=dict)
    channel_id: Callable[[str], UUID] | None = None

    def missing(self, row: Mapping[str, Any]) -> list[UUID]:
        """Return the ids of the channels that a stored row has not, or has otherwise.

        A refused channel that the row has was mended and sent in again.
        """
        refused = [id_ for name, id_ in self.refused.items() if row.get(name) is None]
        other = [name for name, value in self.cells.items() if not _holds(row, name, value)]
        return [*refused, *(self.channel_id(name) for name in other if self.channel_id)]


def _readings(bodies: list[Body], registry: Registry) -> Iterator[_Reading]:
    screened = screen(decode(bodies), registry, _END_OF_TIME_US, max_refusals=sys.maxsize)
    refused: dict[tuple[int, int], dict[str, UUID]] = {}
    for each in screened.rejected:
        if each.row.channel is None:
            yield _Reading(each.row.id, None, {}, f"{each.row.reason}: {each.row.payload}")
        else:
            refused.setdefault((each.body, each.index), {})[each.row.channel] = each.row.id
    for position in range(len(screened.accepted)):
        yield _accepted(screened, position, registry, refused)


def _accepted(
    screened: Screened,
    position: int,
    registry: Registry,
    refused: Mapping[tuple[int, int], Mapping[str, UUID]],
) -> _Reading:
    accepted, decoded = screened.accepted, screened.decoded
    number = int(accepted.number[position])
    pump_no, time_us = int(accepted.pump_no[position]), int(accepted.time_us[position])
    pump_id = registry.by_no[pump_no].pump_id
    row = screened.quarantined(number, pump_id, time_us, Reason.CONFLICT, "")

    def channel_id(channel: str) -> UUID:
        refusal = Refusal(Reason.CONFLICT, "")
        return screened.quarantined_channel(number, pump_id, time_us, channel, refusal).id

    measured = np.flatnonzero(~np.isnan(accepted.values[position]))
    cells = {CHANNEL_NAMES[i]: float(accepted.values[position, i] / RESOLUTIONS[i]) for i in measured}
    if accepted.running[position] != RUNNING_ABSENT:
        cells[RUNNING] = float(accepted.running[position])
    if accepted.trip_code[position] != TRIP_CODE_ABSENT:
        cells[TRIP_CODE] = float(accepted.trip_code[position])
    time = as_datetime(time_us)
    key = (pump_no, time) if time else None
    place = (int(decoded.body_of[number]), int(decoded.index_of[number]))
    return _Reading(row.id, key, cells, str(row.payload), refused.get(place, {}), channel_id)


class _Lookup:
    """Looks readings of a receipt up, a chunk of lines at a time."""

    def __init__(self, connection: Any, registry: Registry, dead: set[UUID], summarized: set[UUID]) -> None:
        self._connection = connection
        self._registry = registry
        self._dead = dead
        self._summarized = summarized
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
        stored = [by_key.get(reading.key) if reading.key else None for reading in readings]
        missing = [reading.missing(row) if row else [] for reading, row in zip(readings, stored, strict=True)]
        ids = {reading.id for reading in readings}.union(*missing)
        kept = await operations.quarantined_ids(self._connection, ids) | (ids & self._summarized)
        for reading, row, absent in zip(readings, stored, missing, strict=True):
            self._count(reading, row, absent, kept)

    def _count(
        self, reading: _Reading, row: Mapping[str, Any] | None, missing: Sequence[UUID], kept: set[UUID]
    ) -> None:
        receipt = self._receipt
        receipt.confirmed += 1
        if row is not None and kept.issuperset(missing):
            receipt.stored += 1
            receipt.channels_refused += len(missing)
            receipt.channels_stored += len(reading.cells) + len(reading.refused) - len(missing)
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


def _holds(row: Mapping[str, Any], name: str, value: float) -> bool:
    """Whether a stored row has a value as it was sent, to half a resolution."""
    return row[name] is not None and abs(row[name] - value) <= _SLACK


def _line_body(line: bytes) -> Body:
    try:
        entry = orjson.loads(line)
    except orjson.JSONDecodeError:
        entry = json.loads(line)  # with NaN or Infinity in it, as it was sent
    if "reading" in entry:
        return Body(json.dumps(entry["reading"]).encode(), JSON_TYPE, entry["gateway_id"])
    return Body(base64.b64decode(entry["body_base64"]), entry.get("content_type"), entry["gateway_id"])
