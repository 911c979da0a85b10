"""Which readings and channels are kept, which refused and why: the rules that worker and API share."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import numpy as np
from esp_common.contracts.readings import (
    RUNNING_ABSENT,
    TRIP_CODE_ABSENT,
    FloatMatrix,
    Int8Array,
    Int32Array,
    Int64Array,
)

from esp_ingest.domain.blocks import IDENTITY, fill_columns, names_of
from esp_ingest.domain.decode import Decoded
from esp_ingest.domain.identity import Pumps, judge_identity, judge_time
from esp_ingest.domain.keep import keep_body, keep_reading, quarantine_id
from esp_ingest.domain.readings import Quarantined, Reason
from esp_ingest.domain.registry import Registry
from esp_ingest.domain.values import judge_values
from esp_ingest.domain.verdicts import Refusal, Verdicts

MAX_CHANNEL_LENGTH: Final = 100
"""Longest name that quarantine lists as the channel; the payload has the whole name."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Rejected:
    """A refusal: of reading `index` of body number `body`, whole (`row.channel` is None) or of one channel.

    `pump_no` is None where the pump is not known or not this gateway's. `row`: what quarantine keeps.
    """

    body: int
    index: int
    pump_no: int | None
    row: Quarantined


@dataclass(frozen=True, slots=True)
class Accepted:
    """n readings with a channel left, as columns; `number` is each one's number in the `Decoded`.

    Masks: a bit for each of `MASK_NAMES`. A refused channel is not measured in `values`.
    """

    number: Int64Array
    pump_no: Int32Array
    time_us: Int64Array
    values: FloatMatrix
    running: Int8Array
    trip_code: Int32Array
    fault_mask: Int32Array
    refused_mask: Int32Array
    clamped_mask: Int32Array

    def __len__(self) -> int:
        """Return n."""
        return len(self.number)

    def measured(self, position: int) -> int:
        """Return the mask of the channels that a reading carries."""
        flags = np.append(
            ~np.isnan(self.values[position]),
            (
                self.running[position] != RUNNING_ABSENT,
                self.trip_code[position] != TRIP_CODE_ABSENT,
            ),
        )
        return int(flags @ (1 << np.arange(len(flags))))


@dataclass(frozen=True, slots=True)
class Screened:
    """The outcome of screening m bodies: what passed, and what was refused and why.

    `counts`: (m,) readings in each body, refused ones too (an undecodable body counts as one).
    `rejected`, by body and index: `.row` has channel, reason, detail, id (= the HTTP error_id) and payload.
    """

    decoded: Decoded
    registry: Registry
    counts: Int64Array
    accepted: Accepted
    rejected: Sequence[Rejected]

    def quarantined(
        self, number: int, pump_id: str | None, time_us: int, reason: Reason, detail: str
    ) -> Quarantined:
        """Return the quarantine row of reading `number`, refused whole."""
        sent = self.decoded.sent(number)
        return self._row(number, pump_id, time_us, Refusal(reason, detail), sent, None)

    def quarantined_channel(
        self, number: int, pump_id: str | None, time_us: int, channel: str, refusal: Refusal
    ) -> Quarantined:
        """Return the quarantine row of one channel of reading `number`."""
        sent = self.decoded.sent(number)
        names = refusal.names
        if names is None:
            tags = self.registry.tag_maps.get(self.decoded.gateway_of(number))
            names = tuple(names_of(channel, sent, tags))
        wanted = IDENTITY.union(names)
        part = {name: value for name, value in sent.items() if name in wanted}
        return self._row(number, pump_id, time_us, refusal, part, channel[:MAX_CHANNEL_LENGTH])

    def _row(
        self,
        number: int,
        pump_id: str | None,
        time_us: int,
        refusal: Refusal,
        sent: dict[str, Any],
        channel: str | None,
    ) -> Quarantined:
        body = self.decoded.bodies[int(self.decoded.body_of[number])]
        payload = keep_reading(sent)
        if payload is None:
            payload = keep_body(body.content, body.content_type)
        return Quarantined(
            quarantine_id(body.gateway_id, payload),
            body.gateway_id,
            body.message_id,
            pump_id,
            as_datetime(time_us),
            refusal.reason,
            refusal.detail,
            payload,
            channel,
        )


def as_datetime(time_us: int) -> datetime | None:
    """Return the moment, or None beyond what a datetime can hold, as `NO_TIME` is."""
    try:
        return _EPOCH + timedelta(microseconds=time_us)
    except OverflowError:
        return None


def screen(decoded: Decoded, registry: Registry, now_us: int) -> Screened:
    """Split the readings of `decoded` into accepted, without their refused channels, and rejected.

    `now_us`: microseconds since 1970 UTC, for bodies not judged before. Pure; O(readings · channels).
    """
    verdicts = Verdicts(len(decoded))
    columns = fill_columns(decoded, registry, verdicts)
    pumps = Pumps.find(decoded, columns, registry)
    judge_identity(decoded, registry, columns, pumps, verdicts)
    judge_time(columns.time_us, decoded.clock(now_us), verdicts)
    faults, clamped = judge_values(columns, verdicts)
    keep = np.flatnonzero(~verdicts.refused)
    accepted = Accepted(
        keep,
        pumps.pump_no[keep],
        columns.time_us[keep],
        columns.values[keep],
        columns.running[keep],
        columns.trip_code[keep],
        faults[keep],
        verdicts.refused_mask[keep],
        clamped[keep],
    )
    rejected = list(_rejected_bodies(decoded))
    outcome = Screened(decoded, registry, decoded.counts, accepted, rejected)
    found = _Found(outcome, list(columns.pump_ids), columns.pump_code, columns.time_us, pumps)
    rejected.extend(found.readings(verdicts))
    rejected.extend(found.channels(verdicts))
    rejected.sort(key=lambda each: (each.body, each.index))
    return outcome


def _rejected_bodies(decoded: Decoded) -> Iterable[Rejected]:
    for fault in decoded.faults:
        body = decoded.bodies[fault.body]
        payload = keep_body(fault.content, body.content_type)
        id_ = quarantine_id(body.gateway_id, payload)
        row = Quarantined(
            id_, body.gateway_id, body.message_id, None, None, fault.reason, fault.detail, payload
        )
        yield Rejected(fault.body, fault.index, None, row)


@dataclass(frozen=True, slots=True)
class _Found:
    """Who and when the screened readings are of, to make rows of what is refused."""

    outcome: Screened
    pump_ids: list[str]
    pump_code: Int64Array
    time_us: Int64Array
    pumps: Pumps

    def readings(self, verdicts: Verdicts) -> Iterable[Rejected]:
        for number, (reason, detail) in verdicts.reasons.items():
            pump_id, time_us = self._pump_id(number), int(self.time_us[number])
            row = self.outcome.quarantined(number, pump_id, time_us, reason, detail)
            yield self._rejected(number, row)

    def channels(self, verdicts: Verdicts) -> Iterable[Rejected]:
        for number, refusals in verdicts.channels.items():
            if verdicts.refused[number]:
                continue
            pump_id, time_us = self._pump_id(number), int(self.time_us[number])
            for channel, refusal in refusals.items():
                row = self.outcome.quarantined_channel(number, pump_id, time_us, channel, refusal)
                yield self._rejected(number, row)

    def _rejected(self, number: int, row: Quarantined) -> Rejected:
        decoded = self.outcome.decoded
        known = int(self.pumps.pump_no[number]) if self.pumps.allowed[number] else None
        return Rejected(int(decoded.body_of[number]), int(decoded.index_of[number]), known, row)

    def _pump_id(self, number: int) -> str | None:
        code = int(self.pump_code[number])
        return self.pump_ids[code].replace("\0", "\\u0000") if code >= 0 else None
