"""Build assessments from the columns of the monitor."""

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from esp_common.contracts.channels import CHANNEL_NAMES
from esp_common.contracts.readings import TRIP_CODE_ABSENT

from esp_diagnostics.detection.tree import indicators, signals
from esp_diagnostics.detection.tree.evaluation import Evaluation, RuleEvaluator
from esp_diagnostics.detection.tree.findings import (
    INSUFFICIENT_DATA,
    Assessment,
    Evidence,
    Hypothesis,
    State,
    Transition,
)
from esp_diagnostics.detection.tree.latest import LatestValues
from esp_diagnostics.detection.tree.signals import PLACE, Physics
from esp_diagnostics.detection.tree.spec import PumpSpec
from esp_diagnostics.detection.tree.table import NEVER, Rows, Table
from esp_diagnostics.physics.arrays import Bools, Floats

MIN_LISTED_CONFIDENCE: Final = 0.2
"""Minimum confidence of a listed hypothesis."""

MAX_LISTED: Final = 5
HOUR_US: Final = 3_600_000_000

CORE: Final = ("intake_pressure", "pressure_gain", "current", "active_power", "winding_rise")
"""Signals required for a sufficient assessment."""

POINT: Final = (
    *("pump_rate_bpd", "measured_rate_bpd", "virtual_rate_bpd", "virtual_sigma_bpd", "fraction_of_min"),
    *("fraction_of_best", "fraction_of_max", "shut_off_share", "void_fraction", "turpin", "cooling_ft_s"),
    "load",
)
RESIDUALS: Final = ("head_residual", "power_residual", "flow_residual")
INSUFFICIENT_DATA_ACTION: Final = (
    "Check gauge, drive and gateway for missing data; a baseline needs steady running."
)


class Step(NamedTuple):
    """Evaluation of one reading of each of m pumps."""

    at: Rows
    time_us: np.ndarray
    known: LatestValues
    moved: Bools
    physics: Physics
    indicators: Floats
    evaluation: Evaluation
    learnt: Floats


class Changes(NamedTuple):
    """Changes of a pump over a batch: conditions raised (True) or cleared, and state transitions."""

    findings: Mapping[int, bool]
    transitions: tuple[Transition, ...]


class AssessmentBuilder:
    """Build the assessments of one step. Columns become lists once, because access per cell is slow."""

    def __init__(self, evaluator: RuleEvaluator, table: Table, findings: Table, step: Step) -> None:
        self._evaluator, self._findings, self._step = evaluator, findings, step
        at = step.at
        confidence = step.evaluation.confidence
        self._opened: Bools = findings["open"][at]
        listed = np.logical_or(confidence >= MIN_LISTED_CONFIDENCE, self._opened)
        self._listed_pumps = np.any(listed, axis=1).tolist()
        self._indicators = step.indicators.tolist()
        self._point = np.stack([getattr(step.physics, name) for name in POINT], axis=1).tolist()
        self._residuals = np.stack([getattr(step.physics, name) for name in RESIDUALS], axis=1).tolist()
        core = step.physics.signals[:, [PLACE[name] for name in CORE]]
        self._absent = np.isnan(core)
        self._insufficient = (self._absent.any(axis=1) | (step.learnt < 1.0)).tolist()
        self._values, self._value_us = table["value"][at].tolist(), table["value_us"][at].tolist()
        self._state, self._state_us = table["state"][at].tolist(), table["state_us"][at].tolist()
        self._running, self._trip = table["running"][at].tolist(), table["trip_code"][at].tolist()
        self._time_us, self._learnt = step.time_us.tolist(), step.learnt.tolist()
        self._gauge_bad = step.known.gauge_bad.tolist()
        self._stages = evaluator.stages(confidence)

    def build(self, spec: PumpSpec, place: int, changes: Changes) -> Assessment:
        """Return the assessment of the pump at `place` of the step."""
        names = self._evaluator.names
        state, running, code = State(self._state[place]), self._running[place], self._trip[place]
        listed = self._listed_pumps[place]
        return Assessment(
            pump_id=spec.pump_id,
            time_us=self._time_us[place],
            state=state.label,
            state_since_us=self._state_us[place],
            gauge_fault=self._gauge_bad[place],
            hypotheses=self._hypotheses(place, state) if listed or self._insufficient[place] else (),
            raised=tuple(names[i] for i, is_raised in changes.findings.items() if is_raised),
            cleared=tuple(names[i] for i, is_raised in changes.findings.items() if not is_raised),
            path=self._path(place, state),
            features=_named(indicators.NAMES, self._indicators[place]),
            operating_point=_named(POINT, self._point[place]),
            residuals=_named(RESIDUALS, self._residuals[place]),
            transitions=changes.transitions,
            open=tuple(names[i] for i in np.flatnonzero(self._opened[place])) if listed else (),
            running=None if running < 0 else running == 1,
            trip_code=None if code == TRIP_CODE_ABSENT else code,
            learning=self._learnt[place],
            channels={
                name: (value, at_us)
                for name, value, at_us in zip(
                    CHANNEL_NAMES, self._values[place], self._value_us[place], strict=True
                )
                if value == value
            },
        )

    def _hypotheses(self, place: int, state: State) -> tuple[Hypothesis, ...]:
        found = [self._hypothesis(place, i) for i in self._listed(place)]
        if self._insufficient[place] and state is not State.OFF:
            found.append(self._insufficient_data(place))
        return tuple(found)

    def _listed(self, place: int) -> list[int]:
        """Return the most likely conditions and all findings, most likely first."""
        confidence, opened = self._step.evaluation.confidence[place], self._opened[place]
        ranked: list[int] = np.argsort(-(confidence + opened * 1e-6), kind="stable").tolist()
        likely = [i for i in ranked if confidence[i] >= MIN_LISTED_CONFIDENCE][:MAX_LISTED]
        return [i for i in ranked if opened[i] or i in likely]

    def _hypothesis(self, place: int, condition: int) -> Hypothesis:
        row, shown = int(self._step.at[place]), self._step.indicators[place]
        supporting, against, missing = self._evaluator.evidence(row, condition, shown)
        rule = self._evaluator.conditions[condition]
        since = int(self._findings["above_us"][row, condition])
        return Hypothesis(
            rule.name,
            float(self._step.evaluation.confidence[place, condition]),
            self._evaluator.severity(row, condition, shown),
            rule.action,
            supporting,
            against,
            missing,
            self._time_us[place] if since == NEVER else since,
        )

    def _insufficient_data(self, place: int) -> Hypothesis:
        """Return the hypothesis of insufficient data, with the missing data as evidence."""
        absent = [name for name, gone in zip(CORE, self._absent[place], strict=True) if gone]
        learnt = self._learnt[place]
        missing = [Evidence(name, "not measured", None, signals.SIGNALS[name], 0.0) for name in absent]
        if learnt < 1.0:
            missing.append(Evidence("baseline", "share of the required healthy history", learnt, "", 1.0))
        confidence = max(len(absent) / len(CORE), 1.0 - learnt)
        return Hypothesis(
            INSUFFICIENT_DATA,
            confidence,
            "info",
            INSUFFICIENT_DATA_ACTION,
            (),
            (),
            tuple(missing),
            self._time_us[place],
        )

    def _path(self, place: int, state: State) -> tuple[str, ...]:
        since_h = (self._time_us[place] - self._state_us[place]) / HOUR_US
        masked = None if state is State.RUNNING else f"not evaluated while {state.label}"
        return (
            "gauge: unreliable" if self._gauge_bad[place] else "gauge: good",
            f"state: {state.label} for {since_h:.1f} h",
            f"baseline: {self._learnt[place]:.0%} learnt",
            *self._evaluator.path(self._stages[place], masked),
        )


def _named(names: Sequence[str], values: Sequence[Any]) -> dict[str, float]:
    """Return values by name, without missing ones; NaN does not equal itself."""
    return {name: value for name, value in zip(names, values, strict=True) if value == value}
