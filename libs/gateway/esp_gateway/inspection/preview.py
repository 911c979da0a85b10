"""Show the first readings of a file as the platform would store them."""

from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from esp_common.contracts.channels import CHANNEL_INDEX, CHANNELS
from esp_common.contracts.units import make_tag

from esp_gateway.mapping import FileMap, Mapped
from esp_gateway.records import open_records
from esp_gateway.replay import complaint, mapped_records


def preview(
    path: Path, file_map: FileMap, tags: Mapping[str, Mapping[str, Any]], count: int
) -> Iterator[str]:
    """Yield a line for each of the first `count` records, converted by `tags`, with its problems."""
    records = open_records(path, file_map.file_columns(), file_map.layout())
    for line, mapped in islice(mapped_records(records, file_map), count):
        said = complaint(mapped, file_map.numbers)
        time = mapped.time.isoformat().replace("+00:00", "Z") if mapped.time else "no time"
        values = "  ".join(_stored(name, value, tags) for name, value in _values(mapped))
        yield f"line {line}: {time}  {mapped.pump}  {values}{f'  ! {said}' if said else ''}"


def _values(mapped: Mapped) -> Iterator[tuple[str, Any]]:
    for name, value in mapped.values.items():
        if not isinstance(value, str):
            yield name, value


def _stored(name: str, value: Any, tags: Mapping[str, Mapping[str, Any]]) -> str:
    tag = tags.get(name)
    channel = str(tag["channel"]) if tag else name
    if channel not in CHANNEL_INDEX or isinstance(value, bool):
        return f"{channel}={value}"
    factor, offset = make_tag(channel, tag.get("unit") if tag else None)
    known, stored = CHANNELS[CHANNEL_INDEX[channel]], value * factor + offset
    raw = f" (from {value:g} {tag['unit']})" if tag and tag.get("unit") else ""
    beyond = "" if known.low <= stored <= known.high else " (beyond its limits: refused, or a gauge's code)"
    return f"{channel}={stored:.7g}{raw}{beyond}"
