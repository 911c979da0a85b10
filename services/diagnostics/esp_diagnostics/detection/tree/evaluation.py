"""Evaluate rules: confidence of each condition from the indicators, and when it becomes a finding.

A term counts from 0 to 1 between its two thresholds. The confidence of a condition is the minimum of its
required terms, times the weighted share of its supporting terms, reduced by the terms against it. Missing
indicators lower the confidence and never count as normal.
"""

from collections.abc import Sequence
from itertools import chain
from typing import Final, NamedTuple

import numpy as np

from esp_diagnostics.detection.tree.findings import SEVERITIES, Evidence, State
from esp_diagnostics.detection.tree.indicators import COLUMN, INDICATORS
from esp_diagnostics.detection.tree.rules import STAGES, Condition, Rules, Term
from esp_diagnostics.detection.tree.table import NEVER, Column, Rows, Table
from esp_diagnostics.physics.arrays import Bools, Floats

COUNTS: Final = 0.3
"""Minimum share of a term to be listed as evidence."""

EXPLAINED: Final = 0.75
"""Share of its confidence that a symptom loses to a certain cause."""

MARGIN: Final = 0.02
"""Maximum difference of confidences at which conditions of a family share the lead."""


def memory(conditions: int) -> dict[str, Column]:
    """Return the columns that track delays and hysteresis of findings."""
    return {
        "confidence": Column("f8", 0.0, (conditions,)),
        "above_us": Column("i8", NEVER, (conditions,)),
        "below_us": Column("i8", NEVER, (conditions,)),
        "open": Column("?", 0, (conditions,)),
    }


class Evaluation(NamedTuple):
    """Evaluation of m pumps and c conditions: confidences, raised and cleared findings; each (m, c)."""

    confidence: Floats
    raised: Bools
    cleared: Bools


class _Terms(NamedTuple):
    """Terms as columns: indicators, owning conditions, and thresholds (P, terms)."""

    terms: tuple[Term, ...]
    column: np.ndarray
    condition: np.ndarray
    owners: np.ndarray
    starts: np.ndarray
    weight: Floats
    begins: Floats
    full: Floats


class RuleEvaluator:
    """Evaluate rules for many pumps at once; `parameters` is (P, parameters) in the order of the rules."""

    def __init__(self, rules: Rules, parameters: Floats) -> None:
        self.conditions: Sequence[Condition] = tuple(rules.conditions.values())
        self.names = tuple(rules.conditions)
        self._place = {name: place for place, name in enumerate(rules.parameters)}
        # One row suffices as long as no pump has overrides.
        same = len(parameters) > 0 and bool((parameters == parameters[0]).all())
        self._shared = same or not len(parameters)
        self._parameters = parameters[:1] if same else parameters
        self._require = self._laid_out([condition.require for condition in self.conditions])
        self._support = self._laid_out([condition.support for condition in self.conditions])
        self._against = self._laid_out([condition.against for condition in self.conditions])
        self._limits = {
            name: self._amounts([getattr(condition, name) for condition in self.conditions])
            for name in ("raise_above", "clear_below", "delay_min", "clear_min", "settle_h")
        }
        states = [[state.label in condition.states for state in State] for condition in self.conditions]
        self._in_state = np.array(states, dtype=np.bool_).reshape(len(self.conditions), len(State))
        self._stages = {
            stage: np.array([i for i, condition in enumerate(self.conditions) if condition.stage == stage])
            for stage in STAGES[1:]
            if any(condition.stage == stage for condition in self.conditions)
        }
        families = [condition.family or condition.name for condition in self.conditions]
        self._kin = np.array([[a == b for b in families] for a in families], dtype=np.bool_)
        self._explains = np.array(
            [[b in condition.explains for b in self.names] for condition in self.conditions], dtype=np.bool_
        )

    def evaluate(
        self,
        table: Table,
        at: Rows,
        time_us: np.ndarray,
        state: np.ndarray,
        indicators: Floats,
    ) -> Evaluation:
        """Return confidences and changed findings of pumps `at`; `indicators` (m, all)."""
        rows = np.zeros(len(at), dtype=np.intp) if self._shared else at
        certain, unknown = self._confidence(rows, indicators)
        masked = ~self._in_state[:, state].T
        settle_h = self._limits["settle_h"][rows]
        settling = (settle_h > 0) & (indicators[:, [COLUMN["settling"]]] > 0)
        waiting = settling | (indicators[:, [COLUMN["since_change"]]] < settle_h)
        # Conditions that cannot be evaluated now keep their state: missing data neither raise nor clear them.
        held = masked | waiting | (unknown & table["open"][at])
        confidence = np.where(held, table["confidence"][at] * table["open"][at], certain)
        confidence = self._without_symptoms(confidence)
        table["confidence"][at] = confidence
        return self._mature(table, at, rows, time_us, confidence, held)

    def evidence(
        self, row: int, condition: int, indicators: Floats
    ) -> tuple[tuple[Evidence, ...], tuple[Evidence, ...], tuple[Evidence, ...]]:
        """Return evidence for and against a condition of a pump, and missing evidence."""
        row = 0 if self._shared else row
        supporting: list[Evidence] = []
        missing: list[Evidence] = []
        against: list[Evidence] = []
        for group, holding in (
            (self._require, supporting),
            (self._support, supporting),
            (self._against, against),
        ):
            for place in np.flatnonzero(group.condition == condition).tolist():
                value = float(indicators[group.column[place]])
                share = _share(value, group.begins[row, place], group.full[row, place])
                piece = _evidence(group.terms[place], value, float(group.full[row, place]))
                if np.isnan(value):
                    missing.append(piece)
                elif share >= COUNTS:
                    holding.append(piece)
                elif holding is supporting:
                    against.append(piece)
        return tuple(supporting), tuple(against), tuple(missing)

    def severity(self, row: int, condition: int, indicators: Floats) -> str:
        """Return the present severity of a condition of a pump."""
        row = 0 if self._shared else row
        known = self.conditions[condition]
        worst = known.severity
        for step in known.worse:
            value = indicators[COLUMN[step.indicator]]
            limit = self._amount(row, step.beyond)
            if (value < limit if step.below else value > limit) and _rank(step.severity) > _rank(worst):
                worst = step.severity
        return worst

    def stages(self, confidence: Floats) -> list[list[tuple[int, float]]]:
        """Return, for each of m pumps, the most likely condition of each stage with its confidence."""
        best = []
        for members in self._stages.values():
            mine = confidence[:, members]
            first = mine.argmax(axis=1)
            best.append(zip(members[first].tolist(), mine.max(axis=1).tolist(), strict=True))
        return [list(stages) for stages in zip(*best, strict=True)]

    def path(self, stages: Sequence[tuple[int, float]], masked: str | None) -> list[str]:
        """Return the stages and their results as text; `masked`: reason for stages not evaluated."""
        steps = []
        for name, (condition, confidence) in zip(self._stages, stages, strict=True):
            label = name.replace("_", " ")
            if confidence >= COUNTS:
                steps.append(f"{label}: {self.names[condition]} {confidence:.2f}")
            else:
                steps.append(f"{label}: {masked if masked and name in MASKABLE else 'no finding'}")
        return steps

    def _confidence(self, rows: Rows, indicators: Floats) -> tuple[Floats, Bools]:
        n = len(self.conditions)
        missing_share = self._value("missing_share", rows)
        missing_required = self._value("missing_required", rows)
        required, known = _shares(self._require, rows, indicators)
        required = np.where(known, required, missing_required[:, None])
        least = _by_condition(np.minimum, required, self._require, np.ones((len(rows), n)))
        unknown = _by_condition(
            np.logical_or, ~known, self._require, np.zeros((len(rows), n), dtype=np.bool_)
        )
        holds, there = _shares(self._support, rows, indicators)
        weight = self._support.weight
        zero = np.zeros((len(rows), n))
        got = _by_condition(np.add, np.where(there, holds, 0.0) * weight, self._support, zero)
        wanted = np.where(there, 1.0, missing_share[:, None]) * weight
        asked = _by_condition(np.add, wanted, self._support, zero)
        # Without supporting terms the required ones decide.
        supported = np.where(asked > 0, got / np.where(asked > 0, asked, 1.0), 1.0)
        opposing, known_opposing = _shares(self._against, rows, indicators)
        doubt = 1.0 - np.where(known_opposing, opposing, 0.0) * self._against.weight
        left = _by_condition(np.multiply, doubt, self._against, np.ones((len(rows), n)))
        # Without known required terms and without support a condition is not considered.
        some = _by_condition(np.logical_or, known, self._require, got > 0) | (got > 0)
        return least * supported * left * some, unknown

    def _without_symptoms(self, confidence: Floats) -> Floats:
        """Reduce the confidence of conditions that a more likely cause explains."""
        likely = np.where(confidence >= 0.5, confidence, 0.0)
        cause = np.max(likely[:, :, None] * self._explains[None], axis=1, initial=0.0)
        return np.asarray(confidence * (1.0 - EXPLAINED * cause))

    def _mature(
        self, table: Table, at: Rows, rows: Rows, time_us: np.ndarray, confidence: Floats, held: Bools
    ) -> Evaluation:
        limits = {name: values[rows] for name, values in self._limits.items()}
        now = time_us[:, None]
        opened = table["open"][at]
        best = np.max(np.where(self._kin[None], confidence[:, None, :], 0.0), axis=2)
        leads = confidence >= best - MARGIN
        above = ~held & (confidence >= limits["raise_above"]) & leads
        below = ~held & (confidence < limits["clear_below"])
        lapsed = ~held & ((confidence < limits["clear_below"]) | ~leads)
        above_us = np.where(above & (table["above_us"][at] == NEVER), now, table["above_us"][at])
        above_us = np.where(lapsed & ~opened, NEVER, above_us)
        below_us = np.where(below & (table["below_us"][at] == NEVER), now, table["below_us"][at])
        below_us = np.where(~held & ~below, NEVER, below_us)
        ripe = above & (above_us != NEVER) & (now - above_us >= limits["delay_min"] * 60e6)
        raised = ripe & ~opened
        over = opened & (below_us != NEVER) & (now - below_us >= limits["clear_min"] * 60e6)
        # A new leader of a family replaces the open finding of the family.
        succeeded = opened & ~raised & ~leads & _any_kin(raised, self._kin)
        cleared = (over | succeeded) & ~raised
        table["open"][at] = (opened | raised) & ~cleared
        table["above_us"][at] = np.where(cleared, NEVER, above_us)
        table["below_us"][at] = np.where(cleared, NEVER, below_us)
        return Evaluation(confidence, raised, cleared)

    def _laid_out(self, by_condition: Sequence[Sequence[Term]]) -> _Terms:
        terms = tuple(chain.from_iterable(by_condition))
        owner = np.array([i for i, mine in enumerate(by_condition) for _ in mine], dtype=np.intp)
        owners, starts = np.unique(owner, return_index=True)
        return _Terms(
            terms,
            np.array([COLUMN[term.indicator] for term in terms], dtype=np.intp),
            owner,
            owners,
            starts,
            np.array([term.weight for term in terms]),
            self._amounts([term.begins for term in terms]),
            self._amounts([term.full for term in terms]),
        )

    def _amounts(self, amounts: Sequence[float | str]) -> Floats:
        """Return (P, len(amounts)): numbers, or parameters by pump."""
        pumps = len(self._parameters)
        columns = [
            self._parameters[:, self._place[amount]]
            if isinstance(amount, str)
            else np.full(pumps, float(amount))
            for amount in amounts
        ]
        return np.column_stack(columns) if columns else np.zeros((pumps, 0))

    def _amount(self, row: int, amount: float | str) -> float:
        return float(self._parameters[row, self._place[amount]]) if isinstance(amount, str) else amount

    def _value(self, name: str, rows: Rows) -> Floats:
        return np.asarray(self._parameters[rows, self._place[name]])


MASKABLE: Final = ("no_flow", "residual", "trend")


def _shares(group: _Terms, rows: Rows, indicators: Floats) -> tuple[Floats, Bools]:
    """Return how far each term holds (m, terms), and which are known."""
    value = indicators[:, group.column]
    begins, full = group.begins[rows], group.full[rows]
    share = np.clip((value - begins) / np.where(full == begins, 1e-9, full - begins), 0.0, 1.0)
    return share, ~np.isnan(value)


def _share(value: float, begins: float, full: float) -> float:
    return float(np.clip((value - begins) / (full - begins or 1e-9), 0.0, 1.0))


def _by_condition(how: np.ufunc, values: np.ndarray, group: _Terms, otherwise: np.ndarray) -> np.ndarray:
    """Return (m, conditions): terms reduced with `how`, `otherwise` for conditions without terms."""
    together = otherwise.copy()
    if len(group.owners):
        together[:, group.owners] = how.reduceat(values, group.starts, axis=1)
    return together


def _any_kin(raised: Bools, kin: Bools) -> Bools:
    return np.asarray((raised[:, None, :] & kin[None]).any(axis=2))


def _rank(severity: str) -> int:
    return SEVERITIES.index(severity)


def _evidence(term: Term, value: float, full: float) -> Evidence:
    unit, meaning = INDICATORS[term.indicator]
    return Evidence(term.indicator, term.says or meaning, None if np.isnan(value) else value, unit, full)
