"""How well the tree tells the simulator's faults apart, how soon, and how often it cries wolf.

Every case is a well of its own, designed at random from its seed: a healthy history from which the baseline
is learnt, then one fault, as a step or a ramp, to one severity. Thresholds were set on seeds 1-10; what is
reported comes from seeds 101-120.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta

import numpy as np
from esp_common.contracts.readings import Readings
from esp_diagnostics.domain.curve import Polynomial, PumpCurve
from esp_diagnostics.domain.diagnosis import Monitor, PumpSpec, Rules, default_rules
from esp_diagnostics.domain.pumps import Installed
from esp_gateway.simulator.faults import Fault, GaugeFailure, Injection, Order
from esp_gateway.simulator.field import Field
from esp_gateway.simulator.gauge import instruments
from esp_gateway.simulator.wells import Wells, design_wells, draw_models

START = datetime(2026, 11, 1, tzinfo=UTC)
HISTORY = timedelta(hours=14)
ONSET = START + HISTORY
WATCHED = timedelta(hours=12)
RAMP = timedelta(hours=5)
INTERVAL_S = 60.0
TUNED_ON = range(1, 11)
JUDGED_ON = range(101, 121)
SEVERITIES = (0.5, 0.75, 1.0)
LEAST = {
    Fault.DEADHEAD: (0.97, 0.985, 1.0),
    Fault.PUMP_OFF: (0.85, 0.92, 1.0),
    Fault.DOWNTHRUST: (0.8, 0.9, 1.0),
    Fault.CYCLING: (0.75, 0.9, 1.0),
}
"""Severities from which the cause is that condition: a valve half closed is a restriction, an inflow halved
is a loss of inflow, and an underload limit below the load trips nothing."""

WELLS_OF_A_SEED = 8

ALL_OR_NOTHING = {Fault.STUCK_AT_START, Fault.WRONG_ROTATION}
"""The simulator has these fully or not at all, and at a start."""


@dataclass(frozen=True)
class Case:
    """One fault of one well."""

    seed: int
    fault: Fault
    severity: float
    ramp: bool
    gauge: GaugeFailure = GaugeFailure.FROZEN


def cases(seeds: Sequence[int], faults: Sequence[Fault] = tuple(Fault)) -> list[Case]:
    """Return every fault at every severity, as step and as ramp, on a well of each seed."""
    found = []
    gauges = list(GaugeFailure)
    for fault in faults:
        severities = (1.0,) if fault in ALL_OR_NOTHING else LEAST.get(fault, SEVERITIES)
        onsets = (False,) if fault in ALL_OR_NOTHING else (False, True)
        for number, seed in enumerate(seeds):
            for severity in severities:
                for ramp in onsets:
                    found.append(Case(seed, fault, severity, ramp, gauges[number % len(gauges)]))
    return found


def field_of(listed: Sequence[Case], *, protected: bool) -> Field:
    """Return a field with a well for each case, the faults injected; every well on its own severity."""
    models, parts, which = [], [], {}
    for seed in dict.fromkeys(case.seed for case in listed):
        random = np.random.default_rng(seed)
        drawn = draw_models(random, WELLS_OF_A_SEED)
        which[seed] = len(models)
        models.extend(drawn)
        parts.append(design_wells(random, drawn))
    everything = Wells(
        **{
            item.name: np.concatenate([getattr(p, item.name) for p in parts], axis=-1)
            for item in fields(Wells)
        }
    )
    index = np.array([which[case.seed] + _well(case) for case in listed])
    random = np.random.default_rng(listed[0].seed)
    measured_by = instruments(random, len(listed))
    # Each pump had its weekly well test once in its history.
    measured_by.test_phase_s = START.timestamp() + 60.0 * random.integers(120, 420, len(listed))
    measured_by.test_period_s = np.full(len(listed), 7 * 86_400.0)
    field = Field(
        listed[0].seed,
        [models[place] for place in index],
        everything.take(index),
        measured_by,
        style=None,
        interval_s=INTERVAL_S,
        protected=protected,
    )
    field.pump_ids = [f"CASE-{number:05d}" for number in range(len(listed))]
    for number, case in enumerate(listed):
        _inject(field, number, case)
    return field


def _well(case: Case) -> int:
    """Return which of a seed's wells a case is of: another one for each fault, severity and onset."""
    severities = LEAST.get(case.fault, SEVERITIES)
    return (list(Fault).index(case.fault) + 3 * severities.index(case.severity) + case.ramp) % WELLS_OF_A_SEED


def _inject(field: Field, number: int, case: Case) -> None:
    ramp_s = RAMP.total_seconds() if case.ramp else 0.0
    field._schedule.injections.append(
        Injection(number, case.fault, ONSET.timestamp(), case.severity, ramp_s, case.gauge)
    )
    if case.fault in ALL_OR_NOTHING:
        field.order(field.pump_ids[number], Order.STOP, ONSET)
        field.order(field.pump_ids[number], Order.START, ONSET + timedelta(minutes=10))


def specs_of(field: Field, groups: Sequence[str]) -> list[PumpSpec]:
    """Return what the platform would know of the field's pumps: nameplates alone.

    `groups`: what field each is of, so that the cases of one fault are no neighbours of another's.
    """
    wells = field.wells
    return [
        PumpSpec(
            pump_id,
            groups[i],
            Installed(
                PumpCurve(
                    model.model,
                    Polynomial(model.head_ft),
                    model.min_bpd,
                    model.max_bpd,
                    Polynomial(model.brake_hp),
                    gas_handler=model.gas_handler,
                ),
                int(wells.stages[i]),
            ),
            float(wells.rated_kw[i]),
            float(wells.rated_current_a[i]),
            float(wells.rated_voltage_v[i]),
            60.0,
            float(wells.depth_ft[i]),
            INTERVAL_S,
        )
        for i, (pump_id, model) in enumerate(zip(field.pump_ids, field._models, strict=True))
    ]


def feed(
    field: Field, start: datetime, end: datetime, step: timedelta
) -> Iterator[tuple[datetime, Readings]]:
    """Yield the field's readings piece by piece, each with its end."""
    while start < end:
        until = min(start + step, end)
        yield until, field.columns(start, until, INTERVAL_S)
        start = until


def masks(readings: Readings) -> tuple[np.ndarray, np.ndarray]:
    """Return empty masks: the tree has to see gauge faults by itself."""
    none = np.zeros(len(readings), dtype=np.int32)
    return none, none.copy()
