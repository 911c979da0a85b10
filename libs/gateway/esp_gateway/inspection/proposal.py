"""Propose a map for a file, and the gateway's tag map that goes with it."""

from collections import Counter
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from statistics import median
from typing import Any, Final

import yaml
from esp_common.contracts.channels import RUNNING, TRIP_CODE
from esp_common.contracts.units import TYPICAL, make_tag
from esp_common.contracts.words import parse_flag, parse_whole, status_text
from esp_common.errors import InvalidInput

from esp_gateway.inspection.guesses import number_format, time_column, zone_in
from esp_gateway.inspection.likeness import match
from esp_gateway.inspection.sample import Sample, take_sample
from esp_gateway.numbers import NumberFormat

PUMP_PLACEHOLDER: Final = "CHANGE-ME"
_OTHER_UNITS: Final = (
    "degF",
    "bar",
    "kPa",
    "MPa",
    "m3/day",
    "m3/h",
    "kV",
    "W",
    "hp",
    "kohm",
    "uA",
    "fraction",
    "K",
)
_PUMP_NAMES: Final = frozenset(
    {"pump", "pump_id", "pumpid", "well", "well_id", "wellid", "wellname", "asset"}
)


@dataclass
class Proposal:
    """`document`: the map. `tags`: of the gateway's tag map, empty if none is needed. `remarks`: to check."""

    document: dict[str, Any]
    tags: dict[str, dict[str, Any]] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)

    def text(self, gateway_id: str) -> str:
        """Return the proposal as YAML: the map, and the tag map as comments below it."""
        parts = [f"# {remark}" for remark in self.remarks]
        parts.append(yaml.safe_dump(self.document, sort_keys=False, allow_unicode=True, width=110).rstrip())
        if self.tags:
            assets = {"tag_maps": [{"gateway_id": gateway_id, "tags": self.tags}]}
            dumped = yaml.safe_dump(assets, sort_keys=False, allow_unicode=True, width=108).rstrip()
            parts.append("# The platform converts: register these tags, with `esp-ingest assets import`:")
            parts += [f"#   {line}" for line in dumped.splitlines()]
        return "\n".join(parts)


def propose(path: Path, pump_id: str | None) -> Proposal:
    """Return a map for `path`, as its beginning suggests it; raises NotFound or InvalidInput."""
    sample = take_sample(path)
    if not sample.rows:
        raise InvalidInput(f"{path}: no rows below its header", fix="inspect a file that has some")
    columns = {name: sample.texts(name) for name in sample.header if name}
    plain = number_format(columns.values())
    found = time_column(columns, plain)
    if found is None:
        raise InvalidInput(
            f"{path}: no column of times among {', '.join(map(repr, sample.header))}",
            fix="write a map by hand; its time.format may be a strptime format",
        )
    time, format_, times, remark = found
    numbers = number_format(values for name, values in columns.items() if name != time)
    proposal = Proposal({}, remarks=[*sample.remarks, *([f"{time}: {remark}"] if remark else [])])
    document = proposal.document
    document |= _pump(sample, pump_id, proposal)
    document["time"] = {"column": time} | ({"format": format_} if format_ else {})
    if all(each.tzinfo is None for each in times):
        document["time"]["timezone"] = _zone(time, sample, proposal)
    document |= sample.layout
    if numbers.decimal != ".":
        document["decimal"] = numbers.decimal
    if numbers.thousands:
        document["thousands"] = numbers.thousands
    document["columns"] = {}
    _match_columns(sample, {time, document.get("pump_column")}, proposal)
    if not document["columns"]:
        raise InvalidInput(f"{path}: no column is like a channel", fix="write a map by hand")
    return proposal


def _pump(sample: Sample, pump_id: str | None, proposal: Proposal) -> dict[str, str]:
    for name in sample.header:
        if pump_id is None and name.casefold().replace(" ", "_") in _PUMP_NAMES:
            return {"pump_column": name}
    if pump_id is None:
        proposal.remarks.append("pump_id: name the pump whose file this is")
    return {"pump_id": pump_id or PUMP_PLACEHOLDER}


def _zone(time: str, sample: Sample, proposal: Proposal) -> str:
    zone = zone_in(f"{time} {sample.units.get(time, '')}")
    if zone is None:
        proposal.remarks.append(
            "timezone: the file names none; UTC is assumed, local time is e.g. Europe/Oslo"
        )
    return zone or "UTC"


def _match_columns(sample: Sample, known: set[str | None], proposal: Proposal) -> None:
    taken: set[str] = set()
    columns: dict[str, str] = proposal.document["columns"]
    for name in sample.header:
        if not name or name in known:
            continue
        found = match(name, sample.units.get(name) or None, taken)
        if found is None:
            proposal.remarks.append(f"{name}: like no channel, not sent")
            continue
        taken.add(found.channel)
        columns[name] = name if found.needs_tag else found.channel
        if found.needs_tag:
            proposal.tags[name] = {"channel": found.channel, "unit": found.unit}
        if found.remark:
            proposal.remarks.append(f"{name}: {found.channel}; {found.remark}")
        if found.unit is None and found.channel in TYPICAL:
            _remark_on_unit(sample, name, found.channel, proposal)
        _remark_on_values(sample, name, found.channel, proposal)


def _remark_on_unit(sample: Sample, name: str, channel: str, proposal: Proposal) -> None:
    """Remark on values that are unusual in the channel's own unit and usual in another one."""
    document = proposal.document
    numbers = NumberFormat(document.get("decimal", "."), document.get("thousands"))
    found = [numbers.parse(str(value)) for value in sample.texts(name)]
    values = [value for value in found if value is not None and isfinite(value) and not _is_code(value)]
    low, high = TYPICAL[channel]
    if not values or low <= median(values) <= high:
        return
    for unit in _OTHER_UNITS:
        try:
            factor, offset = make_tag(channel, unit)
        except InvalidInput:
            continue
        if low <= median(values) * factor + offset <= high:
            proposal.remarks.append(f"{name}: {median(values):g} would be usual in {unit}; is it that?")
            return


def _is_code(value: float) -> bool:
    """Return whether the value is a gauge's failure code: 0, 32 °F, 94,906.9 psi."""
    return abs(value) < 0.005 or value == 32 or abs(value - 94_906.9) < 0.05


def _remark_on_values(sample: Sample, name: str, channel: str, proposal: Proposal) -> None:
    texts = [value for value in sample.texts(name) if isinstance(value, str)]
    statuses = Counter(text for value in texts if (text := status_text(value)))
    if statuses:
        said = ", ".join(f"{text} ({count})" for text, count in statuses.most_common(5))
        proposal.remarks.append(
            f"{name}: status texts {said} are sent and refused; list them in missing to leave them out"
        )
    if channel in (RUNNING, TRIP_CODE):
        parse = parse_flag if channel == RUNNING else parse_whole
        words = sorted({text for text in texts if parse(text) is None and not status_text(text)})
        if words:
            proposal.remarks.append(
                f"{name}: give states for {', '.join(words[:10])}, as {{{name}: {{word: true}}}}"
            )
