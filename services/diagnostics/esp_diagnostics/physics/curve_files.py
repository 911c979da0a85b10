"""Parse pump curves from JSON or CSV text; report every problem with its place."""

import csv
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from esp_common.errors import InputProblem, InvalidInput

from esp_diagnostics.physics import units
from esp_diagnostics.physics.curve import InvalidCurve, Polynomial, PumpCurve, RateTable, Shape

UNITS: Final = {"rate": "bpd", "head": "ft", "power": "hp"}
"""Columns of a table with their default units; a column name may give another unit in brackets."""

NUMBERS: Final = (
    *("rated_frequency_hz", "min_bpd", "max_bpd", "best_bpd"),
    *("min_rate", "max_rate", "best_rate"),
)
"""Numeric fields of a curve; those ending in `_rate` are in the rate unit of the table."""

FIELDS: Final = ("model", "gas_handler", *NUMBERS)
POLYNOMIALS: Final = {"head_ft_per_stage": "head", "bhp_per_stage": "power"}
TRUTHS: Final = {True: True, False: False, "true": True, "false": False, "yes": True, "no": False}


class _Cell(NamedTuple):
    """Value as read from the text, with its place."""

    where: str
    value: Any


class _Document(NamedTuple):
    """Curve as read: fields, polynomials and table columns, by the names in the text."""

    fields: Mapping[str, _Cell]
    polynomials: Mapping[str, Sequence[_Cell]]
    columns: Mapping[str, Sequence[_Cell]]


def parse_json(text: str) -> PumpCurve:
    """Parse a pump curve from a JSON object.

    Fields: `model`, `min_bpd`, `max_bpd` (recommended range), optionally `best_bpd`, `rated_frequency_hz`
    (default 60) and `gas_handler`. The curve of one stage is given either by `head_ft_per_stage` and
    optionally `bhp_per_stage` (coefficients of rate in bpd, lowest power first), or by `table`, an object of
    equally long lists `rate`, `head` and optionally `power` (null where unknown). The name of a list may give
    its unit in brackets, as in `rate [m3/d]`; then `min_rate`, `max_rate` and `best_rate` give the range in
    that unit.

    Raise InvalidCurve with every problem and its place.
    """
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidCurve.of(
            [InputProblem("text", f"is not valid JSON ({error})", "correct the syntax there")]
        ) from error
    if not isinstance(content, dict):
        raise InvalidCurve.of(
            [InputProblem("text", "is not an object", 'write {"model": …, "min_bpd": …, …}')]
        )
    table = content.pop("table", {})
    lists = {name: content.pop(name) for name in POLYNOMIALS if content.get(name) is not None}
    if not isinstance(table, dict):
        raise InvalidCurve.of(
            [InputProblem("table", "is not an object", "give a list for each of rate, head, power")]
        )
    return _curve(
        _Document(
            fields={name: _Cell(name, value) for name, value in content.items() if value is not None},
            polynomials={name: _json_cells(name, numbers) for name, numbers in lists.items()},
            columns={name: _json_cells(f"table.{name}", numbers) for name, numbers in table.items()},
        )
    )


def to_document(curve: PumpCurve) -> dict[str, Any]:
    """Return the JSON object of `curve`, as accepted by `parse_json`."""
    fields: dict[str, Any] = {
        "model": curve.model,
        "rated_frequency_hz": curve.rated_frequency_hz,
        "min_bpd": curve.min_bpd,
        "max_bpd": curve.max_bpd,
        "best_bpd": curve.declared_best_bpd,
        "gas_handler": curve.gas_handler,
    }
    head, power = curve.head_ft, curve.brake_hp
    if isinstance(head, Polynomial):
        fields["head_ft_per_stage"] = list(head.coefficients)
        if isinstance(power, Polynomial):
            fields["bhp_per_stage"] = list(power.coefficients)
        return fields
    fields["table"] = {"rate": list(head.rates_bpd), "head": list(head.at_rates)}
    if isinstance(power, RateTable):
        known = dict(zip(power.rates_bpd, power.at_rates, strict=True))
        fields["table"]["power"] = [known.get(rate) for rate in head.rates_bpd]
    return fields


def parse_csv(text: str) -> PumpCurve:
    """Parse a pump curve from CSV text.

    Lines `# field: value` give the fields of `parse_json`. A header names the columns `rate`, `head` and
    optionally `power`, with units in brackets unless they are bpd, ft or hp. Each row holds the values of one
    stage at one rate; power is empty where unknown.

    Raise InvalidCurve with every problem and its line.
    """
    fields: dict[str, _Cell] = {}
    rows: list[tuple[int, list[str]]] = []
    for number, line in enumerate(text.removeprefix("\ufeff").splitlines(), start=1):
        if line.startswith("#"):
            name, _, value = line.removeprefix("#").partition(":")
            fields[name.strip()] = _Cell(f"line {number}", value.strip())
        elif line.strip():
            rows.append((number, next(csv.reader([line], skipinitialspace=True))))
    if not rows:
        raise InvalidCurve.of(
            [InputProblem("text", "has neither header nor rows", "start with a line rate,head,power")]
        )
    (first, header), *body = rows
    if len({name.strip() for name in header}) < len(header):
        raise InvalidCurve.of(
            [InputProblem(f"line {first}", "names a column twice", "name each column once")]
        )
    ragged = [
        InputProblem(
            f"line {number}", f"has {len(row)} values for {len(header)} columns", "complete or shorten it"
        )
        for number, row in body
        if len(row) != len(header)
    ]
    if ragged:
        raise InvalidCurve.of(ragged)
    columns = {
        name: [_Cell(f"line {number}, {name}", row[place].strip()) for number, row in body]
        for place, name in enumerate(name.strip() for name in header)
    }
    return _curve(_Document(fields, {}, columns))


def _json_cells(where: str, numbers: Any) -> list[_Cell]:
    if not isinstance(numbers, list):
        raise InvalidCurve.of([InputProblem(where, "is not a list", "write the numbers as a JSON list")])
    return [_Cell(f"{where}[{place}]", number) for place, number in enumerate(numbers)]


def _curve(document: _Document) -> PumpCurve:
    problems: list[InputProblem] = []
    _check_names(document, problems)
    shapes, rate_factor = _shapes(document, problems)
    numbers = {name: _number(cell, problems) for name, cell in document.fields.items() if name in NUMBERS}
    frequency = numbers.get("rated_frequency_hz")
    low, high, best = (_rate(end, numbers, rate_factor) for end in ("min", "max", "best"))
    for end, value in (("min", low), ("max", high)):
        if value is None and not problems:
            problems.append(
                InputProblem(f"{end}_bpd", "is missing", "give the recommended range, min_bpd and max_bpd")
            )
    handler = _truth(document.fields.get("gas_handler", _Cell("gas_handler", False)), problems)
    model = document.fields.get("model")
    if model is None or not isinstance(model.value, str) or not model.value.strip():
        problems.append(InputProblem("model", "is missing", "name the pump model"))
    if problems or model is None or low is None or high is None:
        raise InvalidCurve.of(problems)
    return PumpCurve(
        model=model.value.strip(),
        head_ft=shapes["head"],
        brake_hp=shapes.get("power"),
        min_bpd=low,
        max_bpd=high,
        declared_best_bpd=best,
        rated_frequency_hz=60.0 if frequency is None else frequency,
        gas_handler=handler,
    )


def _check_names(document: _Document, problems: list[InputProblem]) -> None:
    problems.extend(
        InputProblem(cell.where, f"{name!r} is not a field of a curve", f"use {', '.join(FIELDS)}")
        for name, cell in document.fields.items()
        if name not in FIELDS
    )
    problems.extend(
        InputProblem(document.fields[f"{end}_rate"].where, f"duplicates {end}_bpd", "keep one of the two")
        for end in ("min", "max", "best")
        if {f"{end}_rate", f"{end}_bpd"} <= document.fields.keys()
    )
    if bool(document.polynomials) == bool(document.columns):
        problems.append(
            InputProblem(
                "text",
                "has both polynomials and a table" if document.columns else "has no head",
                "give either head_ft_per_stage or a table of rate and head",
            )
        )


def _shapes(document: _Document, problems: list[InputProblem]) -> tuple[dict[str, Shape], float]:
    """Return head and power, and the factor from the table's rate unit to bpd."""
    if not document.columns:
        return _polynomials(document.polynomials, problems), 1.0
    factors: dict[str, float] = {}
    columns: dict[str, list[float | None]] = {}
    for name, cells in document.columns.items():
        quantity, factor = _column(name, problems)
        if quantity in columns:
            problems.append(
                InputProblem(f"column {name!r}", f"is a second {quantity}", "keep one of the two")
            )
        factors[quantity] = factor
        optional = quantity == "power"
        columns[quantity] = [
            None if optional and cell.value in (None, "") else _number(cell, problems) for cell in cells
        ]
    problems.extend(
        InputProblem("table", f"has no column {quantity}", f"give {quantity}, in {UNITS[quantity]} or [unit]")
        for quantity in ("rate", "head")
        if quantity not in columns
    )
    if len({len(column) for column in columns.values()}) > 1:
        problems.append(InputProblem("table", "has columns of different lengths", "give one value per rate"))
    if problems:
        raise InvalidCurve.of(problems)
    scaled = {
        quantity: [None if value is None else value * factors[quantity] for value in column]
        for quantity, column in columns.items()
    }
    return {
        quantity: _table(scaled["rate"], scaled[quantity])
        for quantity in ("head", "power")
        if any(value is not None for value in scaled.get(quantity, []))
    }, factors["rate"]


def _polynomials(
    polynomials: Mapping[str, Sequence[_Cell]], problems: list[InputProblem]
) -> dict[str, Shape]:
    numbers = {
        POLYNOMIALS[name]: [_number(cell, problems) for cell in cells] for name, cells in polynomials.items()
    }
    if polynomials and "head" not in numbers:
        problems.append(InputProblem("head_ft_per_stage", "is missing", "give head as well as power"))
    if problems:
        raise InvalidCurve.of(problems)
    return {
        quantity: Polynomial(tuple(value for value in values if value is not None))
        for quantity, values in numbers.items()
    }


def _table(rates: Sequence[float | None], values: Sequence[float | None]) -> RateTable:
    known = [
        (rate, value)
        for rate, value in zip(rates, values, strict=True)
        if rate is not None and value is not None
    ]
    return RateTable(tuple(rate for rate, _ in known), tuple(value for _, value in known))


def _column(name: str, problems: list[InputProblem]) -> tuple[str, float]:
    """Return the quantity of a column such as `head [m]`, and the factor to its standard unit."""
    quantity, _, bracket = name.partition("[")
    quantity, unit = quantity.strip().lower(), bracket.rstrip("] ").strip()
    if quantity not in UNITS:
        problems.append(InputProblem(f"column {name!r}", "is unknown", f"use {', '.join(UNITS)}"))
        return quantity, 1.0
    try:
        return quantity, units.factor(unit or UNITS[quantity], UNITS[quantity])
    except InvalidInput as error:
        problems.append(InputProblem(f"column {name!r}", error.detail, error.fix or "use another unit"))
        return quantity, 1.0


def _rate(end: str, numbers: Mapping[str, float | None], rate_factor: float) -> float | None:
    in_table_unit = numbers.get(f"{end}_rate")
    return numbers.get(f"{end}_bpd") if in_table_unit is None else in_table_unit * rate_factor


def _number(cell: _Cell, problems: list[InputProblem]) -> float | None:
    try:
        number = float(cell.value) if not isinstance(cell.value, bool) else math.nan
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if math.isfinite(number):
        return number
    problems.append(
        InputProblem(cell.where, f"{cell.value!r} is not a finite number", "write it like 1.25 or 3e-5")
    )
    return None


def _truth(cell: _Cell, problems: list[InputProblem]) -> bool:
    text = cell.value.lower() if isinstance(cell.value, str) else cell.value
    if isinstance(text, bool | str) and text in TRUTHS:
        return TRUTHS[text]
    problems.append(
        InputProblem(cell.where, f"{cell.value!r} is neither true nor false", "write true or false")
    )
    return False
