"""Parse rules of the tree from YAML and report every problem."""

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from importlib.resources import files
from typing import Any, Final

import yaml

from esp_diagnostics.detection.tree.findings import SEVERITIES
from esp_diagnostics.detection.tree.indicators import INDICATORS
from esp_diagnostics.detection.tree.rules import (
    STAGES,
    STATES,
    Condition,
    Parameter,
    Rules,
    RulesInvalid,
    Term,
    Worse,
)

MAX_TEXT_LENGTH: Final = 200_000

REQUIRED_PARAMETERS: Final = (
    "start_mask_min",
    "change_mask_min",
    "unknown_after_min",
    "setpoint_step_hz",
    "choke_step_pct",
    "regime_hz",
    "regime_choke_pct",
    "baseline_h",
    "baseline_adapt_days",
    "smoothing_min",
    "settle_h",
    "carry_min",
    "gauge_still_min",
    "supply_swing_pct",
    "missing_share",
    "missing_required",
    "raise_above",
    "clear_below",
    "delay_min",
    "clear_min",
)
"""Parameters used by the state machine and the baselines; every rules file must define them."""

_TOP: Final = ("version", "parameters", "conditions")

_PARAMETER: Final = ("default", "unit", "low", "high", "help")

_CONDITION: Final = (
    *("title", "stage", "family", "states", "severity", "action", "raise_above", "clear_below"),
    *("delay_min", "clear_min", "settle_h", "require", "for", "against", "worse", "explains"),
)

_TERM: Final = ("indicator", "from", "to", "weight", "says")


@lru_cache(maxsize=16)
def load_rules(text: str) -> Rules:
    """Parse rules from YAML; raise RulesInvalid with every problem.

    Parsing takes 0.1 s or more, so the last results are cached.
    """
    return _Reader().read(text)


def default_rules() -> Rules:
    """Return the shipped rules."""
    return load_rules((files(__package__) / "rules.yaml").read_text("utf-8"))


class _Loader(yaml.SafeLoader):
    """YAML loader without aliases, which could expand a short text without bound."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases are not allowed")
        return super().compose_node(parent, index)


class _Reader:
    """Parse a document and collect its problems."""

    def __init__(self) -> None:
        self._problems: list[dict[str, Any]] = []
        self._parameters: dict[str, Parameter] = {}

    def read(self, text: str) -> Rules:
        document = self._document(text)
        version = self._text(document, "version", "version", max_length=60)
        for name, entry in self._entries(document, "parameters"):
            self._parameters[name] = self._parameter(name, entry)
        for name in REQUIRED_PARAMETERS:
            if name not in self._parameters:
                self._problem(f"parameters.{name}", "is missing", "add it, as in the shipped rules")
        found = {name: self._condition(name, entry) for name, entry in self._entries(document, "conditions")}
        if not found:
            self._problem("conditions", "is empty", "define at least one condition")
        for name, condition in found.items():
            for other in condition.explains:
                if other not in found or other == name:
                    self._problem(
                        f"conditions.{name}.explains",
                        f"{other!r} is not another condition",
                        "name another condition",
                    )
        self._finish()
        return Rules(version, text, self._parameters, found)

    def _finish(self) -> None:
        if self._problems:
            first = self._problems[0]
            raise RulesInvalid(
                f"{len(self._problems)} problem(s), first at {first['where']}: {first['what']}",
                fields=self._problems,
                fix="correct the problems in `errors` and send the rules again",
            )

    def _problem(self, where: str, what: str, fix: str) -> None:
        self._problems.append({"where": where, "what": what, "fix": fix})

    def _document(self, text: str) -> Mapping[str, Any]:
        if len(text) > MAX_TEXT_LENGTH:
            self._problem("document", f"has more than {MAX_TEXT_LENGTH} characters", "shorten it")
            self._finish()
        try:
            document = yaml.load(text, _Loader)  # noqa: S506 - a SafeLoader  # nosec B506
        except (yaml.YAMLError, RecursionError) as error:
            self._problem("document", f"is not YAML: {str(error)[:300]}", "correct its syntax")
            self._finish()
        if not isinstance(document, dict):
            self._problem("document", "is not a mapping", "start with `version:`")
            self._finish()
        self._unknown("document", document, _TOP)
        return dict(document)

    def _entries(self, document: Mapping[str, Any], key: str) -> list[tuple[str, Mapping[str, Any]]]:
        entries = document.get(key)
        if not isinstance(entries, dict):
            self._problem(key, "is not a mapping of names", "write `name: {...}` entries")
            return []
        good: list[tuple[str, Mapping[str, Any]]] = []
        for name, entry in entries.items():
            if isinstance(name, str) and isinstance(entry, dict):
                good.append((name, entry))
            else:
                self._problem(f"{key}.{name}", "is not a mapping", "write `name: {...}`")
        return good

    def _unknown(self, where: str, entry: Mapping[Any, Any], known: Sequence[str]) -> None:
        for key in entry:
            if key not in known:
                self._problem(f"{where}.{key}", "is unknown", f"use one of: {', '.join(known)}")

    def _text(self, entry: Mapping[str, Any], key: str, where: str, max_length: int = 500) -> str:
        value = entry.get(key)
        if not isinstance(value, str) or not 0 < len(value.strip()) <= max_length:
            self._problem(where, f"is not text of 1 to {max_length} characters", "write it in quotes")
            return ""
        return value.strip()

    def _number(self, value: Any, where: str) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            self._problem(where, f"{str(value)[:40]!r} is not a number", "write a finite number")
            return math.nan
        return float(value)

    def _amount(self, value: Any, where: str) -> float | str:
        """Return a number, or the name of a parameter written as `$name`."""
        if isinstance(value, str) and value.startswith("$"):
            if value[1:] not in self._parameters:
                self._problem(where, f"{value[:60]!r} is not a parameter", "define it under parameters")
            return value[1:]
        return self._number(value, where)

    def _parameter(self, name: str, entry: Mapping[str, Any]) -> Parameter:
        where = f"parameters.{name}"
        self._unknown(where, entry, _PARAMETER)
        default, low, high = (self._number(entry.get(k), f"{where}.{k}") for k in ("default", "low", "high"))
        if not low <= default <= high and not math.isnan(low + default + high):
            self._problem(
                where, f"{default:g} is not between {low:g} and {high:g}", "correct the default or the bounds"
            )
        unit = entry.get("unit", "")
        return Parameter(name, default, str(unit), low, high, self._text(entry, "help", f"{where}.help"))

    def _choice(self, value: Any, where: str, choices: Sequence[str]) -> str:
        if value not in choices:
            self._problem(where, f"{str(value)[:40]!r} is unknown", f"use one of: {', '.join(choices)}")
            return choices[0]
        return str(value)

    def _list(self, entry: Mapping[str, Any], key: str, where: str) -> list[Any]:
        value = entry.get(key, [])
        if not isinstance(value, list):
            self._problem(f"{where}.{key}", "is not a list", "write `- ...` entries")
            return []
        return value

    def _condition(self, name: str, entry: Mapping[str, Any]) -> Condition:
        where = f"conditions.{name}"
        self._unknown(where, entry, _CONDITION)
        amounts = {
            key: self._amount(entry.get(key, f"${key}"), f"{where}.{key}")
            for key in ("raise_above", "clear_below", "delay_min", "clear_min", "settle_h")
        }
        raised, cleared = amounts["raise_above"], amounts["clear_below"]
        if isinstance(raised, float) and isinstance(cleared, float) and cleared >= raised:
            self._problem(f"{where}.clear_below", "is not below raise_above", "leave a gap between the two")
        states = tuple(
            self._choice(value, f"{where}.states", STATES)
            for value in (self._list(entry, "states", where) or ["running"])
        )
        require, support = (self._terms(entry, key, where) for key in ("require", "for"))
        if not require and not support:
            self._problem(where, "has no evidence", "add evidence under require or for")
        return Condition(
            name=name,
            title=self._text(entry, "title", f"{where}.title", 80),
            stage=self._choice(entry.get("stage"), f"{where}.stage", STAGES),
            family=str(entry.get("family", "")),
            states=states,
            severity=self._choice(entry.get("severity"), f"{where}.severity", SEVERITIES),
            action=self._text(entry, "action", f"{where}.action"),
            require=require,
            support=support,
            against=self._terms(entry, "against", where),
            worse=self._worse(entry, where),
            explains=tuple(str(value) for value in self._list(entry, "explains", where)),
            **amounts,
        )

    def _terms(self, entry: Mapping[str, Any], key: str, where: str) -> tuple[Term, ...]:
        terms = []
        for place, term in enumerate(self._list(entry, key, where)):
            here = f"{where}.{key}[{place}]"
            if not isinstance(term, dict):
                self._problem(here, "is not a mapping", "write {indicator: ..., from: ..., to: ...}")
                continue
            self._unknown(here, term, _TERM)
            begins, full = (self._amount(term.get(k), f"{here}.{k}") for k in ("from", "to"))
            if begins == full:
                self._problem(here, "from and to are equal", "leave a gap between them")
            weight = self._number(term.get("weight", 1.0), f"{here}.weight")
            if not 0 < weight <= 10 or (key == "against" and weight > 1):
                self._problem(
                    f"{here}.weight",
                    f"{weight:g} is out of range",
                    "for: above 0, at most 10; against: at most 1",
                )
            indicator = self._choice(term.get("indicator"), f"{here}.indicator", tuple(INDICATORS))
            terms.append(Term(indicator, begins, full, weight, str(term.get("says", ""))))
        return tuple(terms)

    def _worse(self, entry: Mapping[str, Any], where: str) -> tuple[Worse, ...]:
        steps = []
        for place, step in enumerate(self._list(entry, "worse", where)):
            here = f"{where}.worse[{place}]"
            if not isinstance(step, dict) or ("above" in step) == ("below" in step):
                self._problem(
                    here, "needs `indicator`, `severity` and either `above` or `below`", "give one of the two"
                )
                continue
            self._unknown(here, step, ("indicator", "above", "below", "severity"))
            below = "below" in step
            steps.append(
                Worse(
                    self._choice(step.get("indicator"), f"{here}.indicator", tuple(INDICATORS)),
                    self._amount(step["below" if below else "above"], here),
                    below,
                    self._choice(step.get("severity"), f"{here}.severity", SEVERITIES),
                )
            )
        return tuple(steps)
