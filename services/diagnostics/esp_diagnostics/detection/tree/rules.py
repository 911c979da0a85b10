"""Rules of the tree as data."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from esp_common.errors import InvalidInput

from esp_diagnostics.detection.tree.findings import State

STAGES: Final = ("gauge", "electrical", "no_flow", "residual", "trend", "operation")
"""Stages of the tree, in order."""

STATES: Final = tuple(state.label for state in State)


class RulesInvalid(InvalidInput):
    """Rules that fail validation."""

    code, title = "rules-invalid", "Invalid rules"


@dataclass(frozen=True, slots=True)
class Parameter:
    """Number that an engineer may set, for all pumps or for one, between `low` and `high`."""

    name: str
    default: float
    unit: str
    low: float
    high: float
    help: str


@dataclass(frozen=True, slots=True)
class Term:
    """Evidence: an indicator that starts to count at `begins` and counts in full at `full`.

    Each is a number or the name of a parameter; `full` below `begins` means that low values count.
    """

    indicator: str
    begins: float | str
    full: float | str
    weight: float = 1.0
    says: str = ""


@dataclass(frozen=True, slots=True)
class Worse:
    """Bound of an indicator beyond which a condition is more severe."""

    indicator: str
    beyond: float | str
    below: bool
    severity: str


@dataclass(frozen=True, slots=True)
class Condition:
    """Condition of a pump and its evidence.

    All of `require` must hold, `support` adds up by weight, `against` deducts. Only the most likely condition
    of a `family` can become a finding; conditions that it `explains` are treated as its symptoms.
    """

    name: str
    title: str
    stage: str
    family: str
    states: tuple[str, ...]
    severity: str
    action: str
    raise_above: float | str
    clear_below: float | str
    delay_min: float | str
    clear_min: float | str
    settle_h: float | str
    require: tuple[Term, ...]
    support: tuple[Term, ...]
    against: tuple[Term, ...]
    worse: tuple[Worse, ...]
    explains: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Rules:
    """Validated rules; `text` is their source."""

    version: str
    text: str
    parameters: Mapping[str, Parameter]
    conditions: Mapping[str, Condition]
