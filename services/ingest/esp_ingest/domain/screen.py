"""Which readings and channels are kept, which refused and why: the rules that worker and API share."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import groupby
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
from esp_ingest.domain.decode import Decoded, Fault
from esp_ingest.domain.identity import Pumps, judge_identity, judge_time
from esp_ingest.domain.keep import keep_body, keep_reading, quarantine_id
from esp_ingest.domain.readings import UNKNOWN, Quarantined, Reason
from esp_ingest.domain.registry import Registry
from esp_ingest.domain.summary import summarize
from esp_ingest.domain.values import judge_values
from esp_ingest.domain.verdicts import Refusal, Verdicts

MAX_CHANNEL_LENGTH: Final = 100
"""Longest name that quarantine lists as the channel; the payload has the whole name."""

MAX_REFUSALS_PER_BODY: Final = 100
"""Refusals of one body that get quarantine rows of their own; one summary row stands for the others."""

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
class Refused:
    """A refusal without its quarantine row, which `make_row` builds; members as of `Rejected`."""

    body: int
    index: int
    pump_no: int | None
    time: datetime | None
    channel: str | None
    reason: Reason
    make_row: Callable[[], Quarantined]


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
    `unlisted`: refusals beyond the limit of their body; `summaries`, by body: the row that stands for them.
    """

    decoded: Decoded
    registry: Registry
    counts: Int64Array
    accepted: Accepted
    rejected: Sequence[Rejected]
    unlisted: Sequence[Refused]
    summaries: Mapping[int, Quarantined]

    @property
    def has_unknown(self) -> bool:
        """Whether a newer registry might accept more."""
        listed = any(each.row.reason in UNKNOWN for each in self.rejected)
        return listed or any(each.reason in UNKNOWN for each in self.unlisted)

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


def screen(
    decoded: Decoded, registry: Registry, now_us: int, max_refusals: int = MAX_REFUSALS_PER_BODY
) -> Screened:
    """Split the readings of `decoded` into accepted, without their refused channels, and rejected.

    `now_us`: microseconds since 1970 UTC, for bodies not judged before. `max_refusals`: refusals of one body
    that are listed; one summary row stands for the others. Pure; O(readings · channels).
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
    rejected: list[Rejected] = []
    unlisted: list[Refused] = []
    summaries: dict[int, Quarantined] = {}
    outcome = Screened(decoded, registry, decoded.counts, accepted, rejected, unlisted, summaries)
    found = _Found(outcome, list(columns.pump_ids), columns.pump_code, columns.time_us, pumps)
    refused = [*_refused_bodies(decoded), *found.readings(verdicts), *found.channels(verdicts)]
    refused.sort(key=lambda each: (each.body, each.index))
    for body, group in groupby(refused, key=lambda each: each.body):
        of_body = list(group)
        listed, rest = of_body[:max_refusals], of_body[max_refusals:]
        rejected.extend(Rejected(each.body, each.index, each.pump_no, each.make_row()) for each in listed)
        if rest:
            unlisted.extend(rest)
            summaries[body] = summarize(decoded.bodies[body], [(each.reason, each.channel) for each in rest])
    return outcome


def _refused_bodies(decoded: Decoded) -> Iterator[Refused]:
    for fault in decoded.faults:
        row = partial(_row_of_fault, decoded, fault)
        yield Refused(fault.body, fault.index, None, None, None, fault.reason, row)


def _row_of_fault(decoded: Decoded, fault: Fault) -> Quarantined:
    body = decoded.bodies[fault.body]
    payload = keep_body(fault.content, body.content_type)
    id_ = quarantine_id(body.gateway_id, payload)
    return Quarantined(id_, body.gateway_id, body.message_id, None, None, fault.reason, fault.detail, payload)


@dataclass(frozen=True, slots=True)
class _Found:
    """Who and when the screened readings are of, to make rows of what is refused."""

    outcome: Screened
    pump_ids: list[str]
    pump_code: Int64Array
    time_us: Int64Array
    pumps: Pumps

    def readings(self, verdicts: Verdicts) -> Iterable[Refused]:
        for number, (reason, detail) in verdicts.reasons.items():
            pump_id, time_us = self._pump_id(number), int(self.time_us[number])
            row = partial(self.outcome.quarantined, number, pump_id, time_us, reason, detail)
            yield self._refused(number, reason, None, row)

    def channels(self, verdicts: Verdicts) -> Iterable[Refused]:
        for number, refusals in verdicts.channels.items():
            if verdicts.refused[number]:
                continue
            pump_id, time_us = self._pump_id(number), int(self.time_us[number])
            for channel, refusal in refusals.items():
                row = partial(self.outcome.quarantined_channel, number, pump_id, time_us, channel, refusal)
                yield self._refused(number, refusal.reason, channel, row)

    def _refused(
        self, number: int, reason: Reason, channel: str | None, row: Callable[[], Quarantined]
    ) -> Refused:
        decoded = self.outcome.decoded
        known = int(self.pumps.pump_no[number]) if self.pumps.allowed[number] else None
        place = int(decoded.body_of[number]), int(decoded.index_of[number])
        return Refused(*place, known, as_datetime(int(self.time_us[number])), channel, reason, row)

    def _pump_id(self, number: int) -> str | None:
        code = int(self.pump_code[number])
        return self.pump_ids[code].replace("\0", "\\u0000") if code >= 0 else None
