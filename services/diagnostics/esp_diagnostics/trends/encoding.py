"""Encode trends as JSON columns, CSV or Arrow."""

from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
from esp_common.contracts import arrow
from esp_common.contracts.channels import CHANNEL_INDEX, CHANNELS
from pyarrow import csv

from esp_diagnostics.physics.arrays import Floats
from esp_diagnostics.trends.resolution import Trend

JSON: Final = "application/json"
CSV: Final = "text/csv"
ARROW: Final = arrow.MEDIA_TYPE

EXTRA_DECIMALS: Final = 2
"""Decimals of an average beyond those of its channel; more would be noise."""

_DECIMALS: Final = tuple(int(np.ceil(-np.log10(channel.resolution))) for channel in CHANNELS)


def to_json(trend: Trend) -> bytes:
    """Encode as an object of columns: `time`, and for each channel its unit and one array per statistic."""
    plan = trend.plan
    document = {
        "pump_id": trend.pump_id,
        "from": plan.span.start,
        "to": plan.span.end,
        "resolution": plan.resolution,
        "source": plan.source.value,
        "bucket_s": plan.bucket_s,
        "points": len(trend),
        "time": list(trend.times),
        **trend.state,
        "channels": {
            name: {
                "unit": CHANNELS[CHANNEL_INDEX[name]].unit,
                **{statistic: _rounded(name, values) for statistic, values in columns.items()},
            }
            for name, columns in trend.channels.items()
        },
    }
    return orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_UTC_Z)


def to_csv(trend: Trend) -> bytes:
    """Encode as a table with header: `time`, then for each channel its reading or mean, and its extremes."""
    table = _table(trend)
    # RFC 3339 with fractional seconds; Arrow's default contains a space.
    times = pc.strftime(table["time"], format="%Y-%m-%dT%H:%M:%SZ")
    sink = pa.BufferOutputStream()
    csv.write_csv(table.set_column(0, "time", times), sink, csv.WriteOptions(quoting_style="needed"))
    return sink.getvalue().to_pybytes()  # type: ignore[no-any-return]


def to_arrow(trend: Trend) -> bytes:
    """Encode as an Arrow IPC stream with the columns of the CSV; pump and plan are in the schema metadata."""
    plan = trend.plan
    about = {"pump_id": trend.pump_id, "resolution": plan.resolution, "source": plan.source.value}
    table = _table(trend).replace_schema_metadata(about)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()  # type: ignore[no-any-return]


WRITERS: Final[Mapping[str, Callable[[Trend], bytes]]] = {JSON: to_json, CSV: to_csv, ARROW: to_arrow}
"""Encoders by media type."""


def _table(trend: Trend) -> Any:
    columns = {"time": pa.array(trend.times, pa.timestamp("us", tz="UTC"))}
    columns |= {name: pa.array(values) for name, values in trend.state.items()}
    for name, statistics in trend.channels.items():
        for statistic, values in statistics.items():
            # Readings and means share a name, so that a dashboard's column stays the same at any resolution.
            label = name if statistic in ("value", "avg") else f"{name}_{statistic}"
            columns[label] = pa.array(_rounded(name, values), from_pandas=True)
    return pa.table(columns)


def _rounded(name: str, values: Floats) -> Floats:
    return np.round(values, _DECIMALS[CHANNEL_INDEX[name]] + EXTRA_DECIMALS)
