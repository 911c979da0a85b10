"""Telling: assessments made of what the monitor keeps in columns."""

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from esp_common.contracts.channels import CHANNEL_NAMES
from esp_common.contracts.readings import TRIP_CODE_ABSENT

from esp_diagnostics.detection.tree import indicators, signals
from esp_diagnostics.detection.tree.findings import (
    INSUFFICIENT_DATA,
    Assessment,
    Evidence,
    Hypothesis,
    State,
    Transition,
)
from esp_diagnostics.detection.tree.judgement import Judge, Judged
from esp_diagnostics.detection.tree.latest import Known
from esp_diagnostics.detection.tree.signals import PLACE, Physics
from esp_diagnostics.detection.tree.spec import PumpSpec
from esp_diagnostics.detection.tree.table import NEVER, Rows, Table
from esp_diagnostics.physics.arrays import Bools, Floats

LISTED_FROM: Final = 0.2
"""Hypotheses less likely than this are not worth a line."""

LISTED: Final = 5
HOUR_US: Final = 3_600_000_000

CORE: Final = ("intake_pressure", "pressure_gain", "current", "active_power", "winding_rise")
"""Signals without which little can be said."""

POINT: Final = (
    *("pump_rate_bpd", "measured_rate_bpd", "virtual_rate_bpd", "virtual_sigma_bpd", "fraction_of_min"),
    *("fraction_of_best", "fraction_of_max", "shut_off_share", "void_fraction", "turpin", "cooling_ft_s"),
    "load",
)
RESIDUALS: Final = ("head_residual", "power_residual", "flow_residual")
LACKING: Final = "Check gauge, drive and gateway for what is missing; a baseline needs steady running."


class Step(NamedTuple):
    """One reading of each of m pumps, seen through."""

    at: Rows
    time_us: np.ndarray
    known: Known
    moved: Bools
    physics: Physics
    indicators: Floats
    judged: Judged
    learnt: Floats


class News(NamedTuple):
    """What happened to a pump over a batch: conditions raised (True) or cleared, and its transitions."""

    findings: Mapping[int, bool]
    transitions: tuple[Transition, ...]


class Teller:
    """Makes the assessments of one step; columns become lists once, since cell by cell is slow."""

    def __init__(self, judge: Judge, table: Table, findings: Table, step: Step) -> None:
        self._judge, self._findings, self._step = judge, findings, step
        at = step.at
        confidence = step.judged.confidence
        self._opened: Bools = findings["open"][at]
        worth = np.logical_or(confidence >= LISTED_FROM, self._opened)
        self._worth = np.any(worth, axis=1).tolist()
        self._indicators = step.indicators.tolist()
        self._point = np.stack([getattr(step.physics, name) for name in POINT], axis=1).tolist()
        self._residuals = np.stack([getattr(step.physics, name) for name in RESIDUALS], axis=1).tolist()
        core = step.physics.signals[:, [PLACE[name] for name in CORE]]
        self._absent = np.isnan(core)
        self._lacks = (self._absent.any(axis=1) | (step.learnt < 1.0)).tolist()
        self._values, self._value_us = table["value"][at].tolist(), table["value_us"][at].tolist()
        self._state, self._state_us = table["state"][at].tolist(), table["state_us"][at].tolist()
        self._running, self._trip = table["running"][at].tolist(), table["trip_code"][at].tolist()
        self._time_us, self._learnt = step.time_us.tolist(), step.learnt.tolist()
        self._gauge_bad = step.known.gauge_bad.tolist()
        self._stages = judge.stages(confidence)

    def tell(self, spec: PumpSpec, place: int, news: News) -> Assessment:
        """Return the assessment of the pump at `place` of the step."""
        names = self._judge.names
        state, said, code = State(self._state[place]), self._running[place], self._trip[place]
        worth = self._worth[place]
        return Assessment(
            pump_id=spec.pump_id,
            time_us=self._time_us[place],
            state=state.label,
            state_since_us=self._state_us[place],
            gauge_fault=self._gauge_bad[place],
            hypotheses=self._hypotheses(place, state) if worth or self._lacks[place] else (),
            raised=tuple(names[i] for i, is_raised in news.findings.items() if is_raised),
            cleared=tuple(names[i] for i, is_raised in news.findings.items() if not is_raised),
            path=self._path(place, state),
            features=_named(indicators.NAMES, self._indicators[place]),
            operating_point=_named(POINT, self._point[place]),
            residuals=_named(RESIDUALS, self._residuals[place]),
            transitions=news.transitions,
            open=tuple(names[i] for i in np.flatnonzero(self._opened[place])) if worth else (),
            running=None if said < 0 else said == 1,
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
        if self._lacks[place] and state is not State.OFF:
            found.append(self._lacking(place))
        return tuple(found)

    def _listed(self, place: int) -> list[int]:
        """Return conditions, likeliest first: a handful, and all that are findings."""
        confidence, opened = self._step.judged.confidence[place], self._opened[place]
        ranked: list[int] = np.argsort(-(confidence + opened * 1e-6), kind="stable").tolist()
        likely = [i for i in ranked if confidence[i] >= LISTED_FROM][:LISTED]
        return [i for i in ranked if opened[i] or i in likely]

    def _hypothesis(self, place: int, condition: int) -> Hypothesis:
        row, shown = int(self._step.at[place]), self._step.indicators[place]
        speaks, against, missing = self._judge.evidence(row, condition, shown)
        rule = self._judge.conditions[condition]
        since = int(self._findings["above_us"][row, condition])
        return Hypothesis(
            rule.name,
            float(self._step.judged.confidence[place, condition]),
            self._judge.severity(row, condition, shown),
            rule.action,
            speaks,
            against,
            missing,
            self._time_us[place] if since == NEVER else since,
        )

    def _lacking(self, place: int) -> Hypothesis:
        """Return the hypothesis that too little is known to say more, with what is missing."""
        absent = [name for name, gone in zip(CORE, self._absent[place], strict=True) if gone]
        learnt = self._learnt[place]
        missing = [Evidence(name, "is not measured", None, signals.SIGNALS[name], 0.0) for name in absent]
        if learnt < 1.0:
            missing.append(Evidence("baseline", "share of the healthy history learnt", learnt, "", 1.0))
        confidence = max(len(absent) / len(CORE), 1.0 - learnt)
        return Hypothesis(
            INSUFFICIENT_DATA, confidence, "info", LACKING, (), (), tuple(missing), self._time_us[place]
        )

    def _path(self, place: int, state: State) -> tuple[str, ...]:
        since_h = (self._time_us[place] - self._state_us[place]) / HOUR_US
        masked = None if state is State.RUNNING else f"not judged while {state.label}"
        return (
            "gauge: not to be believed" if self._gauge_bad[place] else "gauge: good",
            f"state: {state.label} for {since_h:.1f} h",
            f"baseline: {self._learnt[place]:.0%} learnt",
            *self._judge.path(self._stages[place], masked),
        )


def _named(names: Sequence[str], values: Sequence[Any]) -> dict[str, float]:
    """Return values by name without those missing: NaN is what does not equal itself."""
    return {name: value for name, value in zip(names, values, strict=True) if value == value}
