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
from esp_common.contracts.channels import MASK_NAMES
from esp_common.contracts.readings import Int64Array, ObjectArray, Readings

from esp_ingest.domain.frozen import FrozenTracker
from esp_ingest.domain.merge import Masks, Merged, Outcome, merge
from esp_ingest.domain.readings import Quarantined, Reason
from esp_ingest.domain.registry import Registry
from esp_ingest.domain.scaling import to_scaled, to_units
from esp_ingest.domain.screen import Accepted, Screened, as_datetime
from esp_ingest.domain.verdicts import Refusal
from esp_ingest.store.batch import MASKS, Batch, Conflicts, FlushCounts, Tally

LATE_AFTER_US: Final = 5 * 60 * 1_000_000
"""Age from which an arriving reading counts as late in its pump's quality."""

_HOUR_US: Final = 3_600_000_000
_CONFLICT: Final = "contradicts the value of the same pump and time that came first"


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
        """Return how many readings are refused whole, by reason."""
        return Counter(reason for reason, channel in self._refusals() if channel is None)

    def channel_reasons(self) -> Counter[Reason]:
        """Return how many channels are refused of readings that are kept, by reason."""
        return Counter(reason for reason, channel in self._refusals() if channel is not None)

    def _refusals(self) -> Iterator[tuple[Reason, str | None]]:
        yield from ((row.reason, row.channel) for row in self.quarantined if row.rest is None)
        yield from ((each.reason, each.channel) for each in self.screened.unlisted)

    def contrary(self, conflicts: Conflicts) -> list[Quarantined]:
        """Return the channels of the readings that contradicting rows were made of, refused."""
        masks = np.zeros(len(self.batch), dtype=np.int32)
        masks[conflicts.positions] = conflicts.masks
        # What a reading contradicts within the flush is refused already.
        of_reading = masks[self.merged.row] & ~self.merged.conflicts
        rows = _conflicting(self.registry, self.screened, of_reading)
        return list({row.id: row for row in rows}.values())

    def announcements(self, conflicts: Conflicts) -> list[Announcement]:
        """Return what to publish of the batch, by field and partition: as stored, so without `conflicts`."""
        batch = self.batch if not len(conflicts) else self.batch.without(conflicts)
        rows = np.flatnonzero(batch.measures())
        if not len(rows):
            return []
        numbers, which = np.unique(batch.pump_no[rows], return_inverse=True)
        pumps = [self.registry.by_no[number] for number in numbers.tolist()]
        places = [(pump.field_id, topology.partition(pump.pump_id)) for pump in pumps]
        codes = {place: code for code, place in enumerate(dict.fromkeys(places))}
        of_row = np.array([codes[place] for place in places])[which]
        order = np.argsort(of_row, kind="stable")
        ends = np.cumsum(np.bincount(of_row)).tolist()
        names = np.array([pump.pump_id for pump in pumps], dtype=object)[which[order]]
        bodies = _streams(batch, rows[order], names, ends)
        return [
            Announcement(f"telemetry.{place[0]}", place[1], bodies[code]) for place, code in codes.items()
        ]


def _streams(batch: Batch, rows: Int64Array, pump_ids: ObjectArray, ends: list[int]) -> list[bytes]:
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
    masks = Masks(accepted.fault_mask, accepted.refused_mask, accepted.clamped_mask)
    scaled = to_scaled(accepted.values)
    merged = merge(accepted.pump_no, accepted.time_us, scaled, accepted.running, accepted.trip_code, masks)
    batch = Batch(
        merged.pump_no,
        merged.time_us,
        merged.scaled,
        merged.running,
        merged.trip_code,
        merged.masks.fault,
        frozen.judge(merged.pump_no, merged.time_us, merged.scaled, merged.running),
        merged.masks.refused,
        merged.masks.clamped,
    )
    quarantined = [each.row for each in screened.rejected] + list(screened.summaries.values())
    quarantined += _conflicting(registry, screened, merged.conflicts)
    whole = FlushCounts(
        counts.worker,
        counts.messages + len(screened.counts),
        counts.readings + int(screened.counts.sum()),
        counts.merged + int(np.count_nonzero(merged.outcome == Outcome.MERGED)),
        counts.duplicates + int(np.count_nonzero(merged.outcome == Outcome.DUPLICATE)),
    )
    tallies = list(_tallies(screened, merged, now_us))
    return Flush(registry, screened, merged, batch, quarantined, tallies, whole)


def _conflicting(
    registry: Registry, screened: Screened, masks: npt.NDArray[np.int32]
) -> Iterator[Quarantined]:
    """Yield a refusal for each channel that accepted readings carry and the (n,) `masks` name."""
    accepted = screened.accepted
    for reading in np.flatnonzero(masks).tolist():
        mask = int(masks[reading]) & accepted.measured(reading)
        pump_id = registry.by_no[int(accepted.pump_no[reading])].pump_id
        number, time_us = int(accepted.number[reading]), int(accepted.time_us[reading])
        for bit, channel in enumerate(MASK_NAMES):
            if mask >> bit & 1:
                refusal = Refusal(Reason.CONFLICT, f"{channel} {_CONFLICT}")
                yield screened.quarantined_channel(number, pump_id, time_us, channel, refusal)


def _tallies(screened: Screened, merged: Merged, now_us: int) -> Iterator[Tally]:
    """Count what leaves no row, or says nothing of its fault, by pump and hour."""
    accepted = screened.accepted
    found: dict[tuple[int, int], Counter[str]] = {}
    late = accepted.time_us < now_us - LATE_AFTER_US
    noticed: Mapping[str, npt.NDArray[np.bool_]] = {
        "late": late & (merged.outcome == Outcome.FIRST),
        "duplicates": merged.outcome == Outcome.DUPLICATE,
        "conflicts": merged.conflicts != 0,
    }
    for kind, where in noticed.items():
        for key, count in _by_hour(accepted, where):
            found.setdefault(key, Counter())[kind] += count
    refused = [(each.pump_no, each.row.time, each.row.channel) for each in screened.rejected]
    refused += [(each.pump_no, each.time, each.channel) for each in screened.unlisted]
    for pump, moment, channel in refused:
        if pump is not None and channel is None:
            found.setdefault((pump, _hour_of(moment, now_us)), Counter())["rejected"] += 1
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
