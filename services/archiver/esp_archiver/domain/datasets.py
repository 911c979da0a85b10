"""What is archived: the columns of each dataset, their units, and the form of its Parquet files."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

import pyarrow as pa
from esp_common.contracts.channels import CHANNELS

SCHEMA_VERSION: Final = 1
"""Of all datasets: columns may be added under it, never renamed or removed."""

FAULT_CHANNELS: Final = "fault_channels"
FROZEN_CHANNELS: Final = "frozen_channels"
REFUSED_MASK: Final = "refused_mask"
CLAMPED_MASK: Final = "clamped_mask"
ADDED_COLUMNS: Final = (REFUSED_MASK, CLAMPED_MASK)
"""Columns that files written before them lack. In a content hash they count only where they have a value."""

_TIME: Final = pa.timestamp("us", "UTC")


class Dataset(StrEnum):
    """What is archived, each by UTC day: readings, the audit log, findings that are over."""

    TELEMETRY = "telemetry"
    AUDIT = "audit"
    FINDINGS = "findings"


@dataclass(frozen=True, slots=True)
class Form:
    """A dataset's columns; `sorted_by` is the order of its rows, `partitioned` whether by field as well."""

    schema: pa.Schema
    sorted_by: tuple[str, ...]
    partitioned: bool = False


def _schema(columns: Mapping[str, Any]) -> pa.Schema:
    return pa.schema(list(columns.items()))


def _telemetry() -> pa.Schema:
    channels = [pa.field(c.name, pa.float64(), metadata={"unit": c.unit}) for c in CHANNELS]
    names = pa.list_(pa.string())
    return pa.schema(
        [
            pa.field("pump_id", pa.string(), nullable=False),
            pa.field("time", _TIME, nullable=False),
            *channels,
            pa.field("running", pa.bool_()),
            pa.field("trip_code", pa.int32()),
            pa.field(FAULT_CHANNELS, names),
            pa.field(FROZEN_CHANNELS, names),
            pa.field(REFUSED_MASK, pa.int32()),
            pa.field(CLAMPED_MASK, pa.int32()),
        ]
    )


_AUDIT: Final = _schema(
    {
        "seq": pa.int64(),
        "time": _TIME,
        **dict.fromkeys(
            ("id", "service", "actor_id", "actor_kind", "action", "object", "outcome"), pa.string()
        ),
        "status": pa.int32(),
        "source_address": pa.string(),
        "trace_id": pa.string(),
        "count": pa.int32(),
        "detail": pa.string(),
        "hash": pa.string(),
    }
)
_FINDINGS: Final = _schema(
    {
        **dict.fromkeys(
            ("finding_id", "pump_id", "field_id", "condition", "kind", "severity", "peak_severity"),
            pa.string(),
        ),
        "confidence": pa.float64(),
        **dict.fromkeys(("onset", "raised_at", "noticed_at", "updated_at", "cleared_at"), _TIME),
        **dict.fromkeys(("rule_version", "evidence", "path", "action"), pa.string()),
    }
)

FORMS: Final[Mapping[Dataset, Form]] = {
    Dataset.TELEMETRY: Form(_telemetry(), ("pump_id", "time"), partitioned=True),
    Dataset.AUDIT: Form(_AUDIT, ("seq",)),
    Dataset.FINDINGS: Form(_FINDINGS, ("cleared_at", "finding_id")),
}

UNITS: Final = json.dumps({channel.name: channel.unit for channel in CHANNELS})
"""Unit of each channel, as files of readings say it."""


def writer_options(form: Form) -> dict[str, Any]:
    """Return pyarrow's options for a dataset's files.

    Channels have few different values in a day, so a dictionary of them takes a third of what splitting
    their bytes does; times are differences. Pages bear checksums, without which a flipped byte is data.
    """
    columns = [field for field in form.schema if not pa.types.is_timestamp(field.type)]
    times = [field.name for field in form.schema if pa.types.is_timestamp(field.type)]
    dictionary = [
        f"{field.name}.list.element" if pa.types.is_list(field.type) else field.name
        for field in columns
        if not pa.types.is_boolean(field.type)
    ]
    return {
        "compression": "zstd",
        "compression_level": 3,
        "use_dictionary": dictionary,
        "column_encoding": dict.fromkeys(times, "DELTA_BINARY_PACKED"),
        "write_page_index": True,
        "write_page_checksum": True,
    }
