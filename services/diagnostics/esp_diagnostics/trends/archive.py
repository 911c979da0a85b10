"""Read archived readings from the archiver, over the broker."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

import orjson
import pyarrow as pa
from esp_common import topology
from esp_common.errors import BrokerUnavailable, Unavailable, Unroutable
from esp_common.messaging import Requester

from esp_diagnostics.trends.resolution import Span
from esp_diagnostics.trends.store import Row

REQUEST_TIMEOUT_S: Final = 20.0
_STATE: Final = ("time", "running", "trip_code", "fault_channels")
_FIX: Final = "use resolution=auto, which does not need readings of that age, or retry later"


class ArchiveReader:
    """Request readings from the archiver."""

    def __init__(self, requester: Requester) -> None:
        self._requester = requester

    async def readings(self, pump_id: str, span: Span, channels: Sequence[str], limit: int) -> list[Row]:
        """Return up to `limit` archived readings, oldest first, in the columns of `History.readings`.

        Raise Unavailable if the archiver does not respond or cannot read: an incomplete trend would mislead.
        """
        request = {
            "pump_id": pump_id,
            "from": span.start.isoformat(),
            "to": span.end.isoformat(),
            "channels": list(channels),
            "limit": limit,
        }
        try:
            answer = await self._requester.request(
                topology.COMMANDS, topology.ARCHIVER_READ, orjson.dumps(request), timeout_s=REQUEST_TIMEOUT_S
            )
        except (BrokerUnavailable, Unroutable) as error:
            raise Unavailable("the archiver does not respond", fix=_FIX) from error
        if answer.startswith(b"{"):
            raise Unavailable(f"the archive cannot be read: {orjson.loads(answer)['problem']}", fix=_FIX)
        table = pa.ipc.open_stream(answer).read_all()
        columns = [table.column(name).to_pylist() for name in (*_STATE, *channels)]
        return list(zip(*columns, strict=True))


def merge_readings(archived: Sequence[Row], stored: Sequence[Row], limit: int) -> list[Any]:
    """Return the readings of both, oldest first, up to `limit`; archived ones win over stored duplicates."""
    by_time: dict[datetime, Row] = {row[0]: row for row in stored} | {row[0]: row for row in archived}
    return [by_time[time] for time in sorted(by_time)[:limit]]
