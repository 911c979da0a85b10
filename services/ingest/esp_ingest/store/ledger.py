"""The ledger: the service's own account of every flush, and of what each left to be rolled up."""

from collections.abc import Sequence
from typing import Final

import numpy as np
from esp_common.database import Connection, load_queries

from esp_ingest.store.batch import Batch, FlushCounts, StoreResult, Tally

_QUERIES: Final = load_queries("esp_ingest.store", "ledger.sql")


async def account(
    connection: Connection, batch: Batch, tallies: Sequence[Tally], counts: FlushCounts, result: StoreResult
) -> None:
    """Enter a flush, and the buckets that its rows and tallies have put out of date."""
    hours = [(tally.pump_no, int(tally.hour.timestamp()) // 3600) for tally in tallies]
    noticed = np.array([(pump_no, hour, hour * 60, hour * 60) for pump_no, hour in hours], dtype=np.int64)
    touched = np.hstack([batch.touched(), noticed.reshape(-1, 4).T])
    await connection.execute(
        _QUERIES.account,
        counts.worker,
        counts.messages,
        counts.readings,
        result.stored,
        result.merged,
        result.duplicates,
        result.quarantined,
        result.refused_channels,
        *touched.tolist(),
    )
