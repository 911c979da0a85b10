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
from esp_common.contracts.readings import Int64Array, Readings

from esp_ingest.domain.frozen import FrozenTracker
from esp_ingest.domain.merge import Merged, Outcome, merge
from esp_ingest.domain.readings import Quarantined, Reason
from esp_ingest.domain.registry import Registry
from esp_ingest.domain.scaling import to_scaled, to_units
from esp_ingest.domain.screen import Accepted, Screened, as_datetime
from esp_ingest.store.batch import Batch, FlushCounts, Tally

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
        return [self._announce(key, rows[keep[rows]]) for key, rows in self._groups() if keep[rows].any()]

    def _groups(self) -> Iterator[tuple[tuple[str, int], Int64Array]]:
        numbers, which = np.unique(self.batch.pump_no, return_inverse=True)
        groups: dict[tuple[str, int], list[int]] = {}
        for place, number in enumerate(numbers.tolist()):
            pump = self.registry.by_no[number]
            groups.setdefault((pump.field_id, topology.partition(pump.pump_id)), []).append(place)
        for key, places in groups.items():
            yield key, np.flatnonzero(np.isin(which, places))

    def _announce(self, key: tuple[str, int], rows: Int64Array) -> Announcement:
        field_id, partition = key
        batch = self.batch
        names = [self.registry.by_no[number].pump_id for number in batch.pump_no[rows].tolist()]
        readings = Readings(
            np.array(names, dtype=object),
            batch.time_us[rows],
            to_units(batch.scaled[rows]),
            batch.running[rows],
            batch.trip_code[rows],
        )
        body = arrow.encode(readings, fault_mask=batch.fault_mask[rows], frozen_mask=batch.frozen_mask[rows])
        return Announcement(f"telemetry.{field_id}", partition, body)


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
