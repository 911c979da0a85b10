"""What a flush of messages amounts to: rows to store, refusals to keep, batches to publish."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
from esp_common import topology
from esp_common.contracts import arrow
from esp_common.contracts.readings import Int64Array, ObjectArray, Readings

from esp_ingest.domain.frozen import FrozenTracker
from esp_ingest.domain.merge import Merged, Outcome, merge
from esp_ingest.domain.readings import Quarantined, Reason
from esp_ingest.domain.registry import Registry
from esp_ingest.domain.scaling import to_scaled, to_units
from esp_ingest.domain.screen import Accepted, Screened, as_datetime
from esp_ingest.store.batch import MASKS, Batch, FlushCounts, Tally

LATE_AFTER_US: Final = 5 * 60 * 1_000_000
"""Age from which an arriving reading counts as late in its pump's quality."""

_HOUR_US: Final = 3_600_000_000
_CONFLICT: Final = "contradicts the reading of the same pump and time that came first"


class Announcement(NamedTuple):
    """An accepted batch as it goes out: one field and partition, as an Arrow stream."""

    routing_key: str
    partition: int
    body: bytes


@dataclass(frozen=True, slots=True)
class Flush:
    """Screened messages, ready for the store."""

    registry: Registry
    screened: Screened
    merged: Merged
    batch: Batch
    quarantined: list[Quarantined]
    tallies: list[Tally]
    counts: FlushCounts

    def reasons(self) -> Counter[Reason]:
        """Return how many readings are refused, by reason."""
        return Counter(row.reason for row in self.quarantined)

    def contrary(self, positions: Int64Array) -> list[Quarantined]:
        """Return the readings that rows `positions` were made of, refused as contradicting stored ones."""
        contrary = np.isin(self.merged.row, positions) & (self.merged.outcome != Outcome.CONFLICT)
        rows = {row.id: row for row in map(self._conflict, np.flatnonzero(contrary).tolist())}
        return list(rows.values())

    def _conflict(self, reading: int) -> Quarantined:
        return _conflict(self.registry, self.screened, reading)

    def announcements(self, without: Int64Array) -> list[Announcement]:
        """Return what to publish of the batch but for rows `without`: as stored, by field and partition."""
        keep = np.ones(len(self.batch), dtype=np.bool_)
        keep[without] = False
        rows = np.flatnonzero(keep)
        if not len(rows):
            return []
        numbers, which = np.unique(self.batch.pump_no[rows], return_inverse=True)
        pumps = [self.registry.by_no[number] for number in numbers.tolist()]
        places = [(pump.field_id, topology.partition(pump.pump_id)) for pump in pumps]
        codes = {place: code for code, place in enumerate(dict.fromkeys(places))}
        of_row = np.array([codes[place] for place in places])[which]
        order = np.argsort(of_row, kind="stable")
        ends = np.cumsum(np.bincount(of_row)).tolist()
        names = np.array([pump.pump_id for pump in pumps], dtype=object)[which[order]]
        bodies = self._streams(rows[order], names, ends)
        return [
            Announcement(f"telemetry.{place[0]}", place[1], bodies[code]) for place, code in codes.items()
        ]

    def _streams(self, rows: Int64Array, pump_ids: ObjectArray, ends: list[int]) -> list[bytes]:
        batch = self.batch
        readings = Readings(
            pump_ids,
            batch.time_us[rows],
            to_units(batch.scaled[rows]),
            batch.running[rows],
            batch.trip_code[rows],
        )
        masks = {name: mask[rows] for name, mask in zip(MASKS, batch.masks(), strict=True)}
        return arrow.encode_parts(readings, ends, **masks)


def assemble(
    screened: Screened, registry: Registry, frozen: FrozenTracker, counts: FlushCounts, now_us: int
) -> Flush:
    """Turn screened messages into a flush; `counts` is of messages and readings known before."""
    accepted = screened.accepted
    merged = merge(
        accepted.pump_no,
        accepted.time_us,
        to_scaled(accepted.values),
        accepted.running,
        accepted.trip_code,
        accepted.fault_mask,
    )
    batch = Batch(
        merged.pump_no,
        merged.time_us,
        merged.scaled,
        merged.running,
        merged.trip_code,
        merged.fault_mask,
        frozen.judge(merged.pump_no, merged.time_us, merged.scaled, merged.running),
        np.zeros_like(merged.fault_mask),
        np.zeros_like(merged.fault_mask),
    )
    clashing = np.flatnonzero(merged.outcome == Outcome.CONFLICT).tolist()
    quarantined = [each.row for each in screened.rejected]
    quarantined += [_conflict(registry, screened, reading) for reading in clashing]
    whole = FlushCounts(
        counts.worker,
        counts.messages + len(screened.counts),
        counts.readings + int(screened.counts.sum()),
        counts.merged + int(np.count_nonzero(merged.outcome == Outcome.MERGED)),
        counts.duplicates + int(np.count_nonzero(merged.outcome == Outcome.DUPLICATE)),
    )
    tallies = list(_tallies(screened, merged, now_us))
    return Flush(registry, screened, merged, batch, quarantined, tallies, whole)


def _conflict(registry: Registry, screened: Screened, reading: int) -> Quarantined:
    accepted = screened.accepted
    pump_id = registry.by_no[int(accepted.pump_no[reading])].pump_id
    time_us = int(accepted.time_us[reading])
    return screened.quarantined(int(accepted.number[reading]), pump_id, time_us, Reason.CONFLICT, _CONFLICT)


def _tallies(screened: Screened, merged: Merged, now_us: int) -> Iterator[Tally]:
    """Count what leaves no row, or says nothing of its fault, by pump and hour."""
    accepted = screened.accepted
    found: dict[tuple[int, int], Counter[str]] = {}
    late = accepted.time_us < now_us - LATE_AFTER_US
    noticed: Mapping[str, npt.NDArray[np.bool_]] = {
        "late": late & (merged.outcome == Outcome.FIRST),
        "duplicates": merged.outcome == Outcome.DUPLICATE,
        "conflicts": merged.outcome == Outcome.CONFLICT,
    }
    for kind, where in noticed.items():
        for key, count in _by_hour(accepted, where):
            found.setdefault(key, Counter())[kind] += count
    for each in screened.rejected:
        if each.pump_no is not None:
            key = (each.pump_no, _hour_of(each.row.time, now_us))
            found.setdefault(key, Counter())["rejected"] += 1
    for (pump_no, hour), counts in found.items():
        time = as_datetime(hour * _HOUR_US)
        if time is not None:
            yield Tally(pump_no, time, **counts)


def _by_hour(accepted: Accepted, where: npt.NDArray[np.bool_]) -> Sequence[tuple[tuple[int, int], int]]:
    if not where.any():
        return []
    keys = np.stack([accepted.pump_no[where], accepted.time_us[where] // _HOUR_US], axis=1)
    pairs, counts = np.unique(keys, axis=0, return_counts=True)
    return [((pump, hour), n) for (pump, hour), n in zip(pairs.tolist(), counts.tolist(), strict=True)]


def _hour_of(time: datetime | None, now_us: int) -> int:
    """Return the hour a refused reading counts in: its own where that can be, else the present one."""
    now = datetime.fromtimestamp(now_us / 1e6, UTC)
    if time is None or not datetime(2000, 1, 1, tzinfo=UTC) <= time <= now + timedelta(minutes=5):
        time = now
    return int(time.timestamp()) // 3600
