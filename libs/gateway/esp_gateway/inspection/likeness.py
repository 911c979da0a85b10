"""Guess channel and unit from a column's name."""

import re
import unicodedata
from collections.abc import Sequence
from typing import Final, NamedTuple

from esp_common.contracts.channels import CHANNEL_INDEX, RUNNING, TRIP_CODE
from esp_common.contracts.units import ImplausibleUnit, make_tag
from esp_common.errors import InvalidInput

_TEMPERATURE: Final = r"(temp|temperatur\w*|t)"

PATTERNS: Final[Sequence[tuple[str, str]]] = (
    (TRIP_CODE, r"\b(trip|fault|alarm|error)( (code|cause|no|nr|reason|id))?\b"),
    (RUNNING, r"\b(run|running|on off|start stop|status|state|motor on|pump on)\b"),
    ("insulation_resistance_mohm", r"\b(insul\w*|megger|isolation\w*|resistance|rins)\b"),
    ("leakage_current_ma", r"\b(leak\w*|ground current|earth\w*|cl)\b"),
    ("vibration_y_g", r"\b(vib\w*|accel\w*) ?\w* ?y\b|\b(vy|y vib\w*)\b|\baccel\w*2"),
    ("vibration_x_g", r"\b(vib\w*|accel\w*|vx)"),
    ("drive_temp_c", rf"\b(drive|vsd|vfd|heat ?sink|inverter|cabinet)\b.*\b{_TEMPERATURE}"),
    (
        "wellhead_temp_c",
        rf"\b(well ?head|wh|tubing|flow ?line|surface)\b.*\b{_TEMPERATURE}|\b(wht|tht|flt)\b",
    ),
    (
        "intake_temp_c",
        rf"\b(intake|int|inlet|fluid|suction)\b.*\b{_TEMPERATURE}|\b{_TEMPERATURE} (int|intake|inlet|fluid)\b"
        r"|\b(ti|pit|it)\b",
    ),
    (
        "motor_temp_c",
        rf"\b(motor|mot|winding|wicklung\w*)\b.*\b{_TEMPERATURE}|\b{_TEMPERATURE} (mot|motor|winding)\b"
        r"|\b(tm|mt|mwt)\b",
    ),
    ("discharge_pressure_psi", r"\b(discharge|disch|pdp|pd|pdis|press\w* (dis|out))\b"),
    ("casing_pressure_psi", r"\b(casing|annul\w*|chp|csg)\b"),
    ("wellhead_pressure_psi", r"\b(well ?head|tubing|tbg)\b.*\bpress|\b(whp|thp|ftp|wellhead)\b"),
    ("intake_pressure_psi", r"\b(pip|pi|intake|suction|press\w* (int|intake|in))\b"),
    ("power_factor", r"\b(power factor|pf|cos ?phi)\b"),
    ("active_power_kw", r"\b(power|kw|leistung|puissance|potencia)\b"),
    ("motor_load_pct", r"\b(load|auslastung)\b"),
    ("water_cut_pct", r"\b(water ?cut|wc|bsw|bs w|wcut)\b"),
    ("choke_pct", r"\b(choke|bean)\b"),
    ("flow_rate_bpd", r"\b(flow|rate|debit|bfpd|blpd|liquid|qliq|durchfluss|volume flow\w*)"),
    ("frequency_hz", r"\b(freq\w*|hz|frequenz|speed)\b"),
    ("current_a_a", r"\b(current|amps?|strom|i) ?(ph|phase)? ?(a|l1)\b|\bphase a (current|amps?)\b"),
    ("current_b_a", r"\b(current|amps?|strom|i) ?(ph|phase)? ?(b|l2)\b|\bphase b (current|amps?)\b"),
    ("current_c_a", r"\b(current|amps?|strom|i) ?(ph|phase)? ?(c|l3)\b|\bphase c (current|amps?)\b"),
    ("motor_current_a", r"\b(current|amps?|ampere|strom|courant|corriente|intensite)\b"),
    ("motor_voltage_v", r"\b(volts?|voltage|spannung|tension|voltaje)\b"),
    ("intake_pressure_psi", r"\b(press\w*|druck|presion)\b"),
    ("motor_temp_c", r"\b(temp\w*)\b"),
)
"""Patterns of column names, the clearest first."""

_IN_BRACKETS: Final = re.compile(r"\s*[(\[{]([^()\[\]{}]{1,20})[)\]}]\s*$")
_SEPARATED: Final = re.compile(r"[,;:/]\s*([^\s,;:/]{1,12})\s*$|[_\s]([A-Za-z°%Ωµ][\w°%Ωµ/*³²]{0,11})\s*$")


class Match(NamedTuple):
    """The likely channel of a column; `unit` None means the channel's own."""

    channel: str
    unit: str | None
    needs_tag: bool
    remark: str


def split_unit(header: str) -> tuple[str, str | None]:
    """Return name and unit of a header: `Motor Temp (°C)`, `PIP [psi]`, `Flow, m3/d`, `Amps_A`."""
    if found := _IN_BRACKETS.search(header):
        return header[: found.start()].strip(), found.group(1).strip()
    if (found := _SEPARATED.search(header)) and _is_unit(found.group(1) or found.group(2)):
        return header[: found.start()].strip(" ,;:/"), found.group(1) or found.group(2)
    return header.strip(), None


def match(header: str, unit: str | None, taken: set[str]) -> Match | None:
    """Return the likeliest channel of a column among those not `taken`, or None."""
    name, stated = split_unit(header)
    unit = unit or stated
    if header in CHANNEL_INDEX or header in (RUNNING, TRIP_CODE):
        return Match(header, None, False, "")
    # "Motor Volts" has its unit as its name.
    return _match_words(_words(name), unit, taken) or _match_words(_words(header), unit, taken)


def _match_words(words: str, unit: str | None, taken: set[str]) -> Match | None:
    for channel, pattern in PATTERNS:
        if channel in taken or not re.search(pattern, words):
            continue
        if channel in (RUNNING, TRIP_CODE):
            found = Match(channel, None, False, "") if unit is None else None
        else:
            found = _with_unit(channel, unit)
        if found:
            return found
    return None


def _with_unit(channel: str, unit: str | None) -> Match | None:
    if unit is None:
        return Match(channel, None, False, "no unit in the file: the channel's own is assumed")
    try:
        conversion = make_tag(channel, unit)
    except ImplausibleUnit as error:
        return Match(channel, None, False, f"unit {unit}: {error.fix}")
    except InvalidInput:  # of another dimension: another channel
        return None
    return Match(channel, unit, conversion != (1.0, 0.0), "")


def _is_unit(text: str) -> bool:
    for channel in CHANNEL_INDEX:
        try:
            make_tag(channel, text)
        except InvalidInput:
            continue
        return True
    return False


def _words(name: str) -> str:
    """Return a name as plain lower-case words, for `TEMP_MOT`, `MotorTemp` and `Débit` alike."""
    text = unicodedata.normalize("NFKD", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name))
    plain = "".join(each for each in text if not unicodedata.combining(each))
    return " ".join(re.sub(r"[^a-z0-9]+", " ", plain.casefold()).split())
