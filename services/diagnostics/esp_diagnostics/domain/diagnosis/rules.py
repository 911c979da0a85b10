"""The rules of the tree as data: read from YAML, checked, every problem told."""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files

from esp_common.errors import InvalidInput


class RulesInvalid(InvalidInput):
    """The rules cannot be used."""

    code, title = "rules-invalid", "Invalid rules"


@dataclass(frozen=True, slots=True)
class Parameter:
    """A number that an engineer may set, for all pumps or for one; allowed from `low` to `high`."""

    name: str
    default: float
    unit: str
    low: float
    high: float
    help: str


@dataclass(frozen=True, slots=True)
class Rules:
    """A checked set of rules; `text` is what it was read from."""

    version: str
    text: str
    parameters: Mapping[str, Parameter]


def load_rules(text: str) -> Rules:
    """Return the rules that YAML `text` describes; raise RulesInvalid with every problem in it."""
    raise NotImplementedError


def default_rules() -> Rules:
    """Return the rules shipped with the service."""
    return load_rules((files(__package__) / "rules.yaml").read_text("utf-8"))
