"""How well the tree tells the simulator's faults apart, how soon, and how often it cries wolf.

Every case is a well of its own, designed at random from its seed: a healthy history from which the baseline
is learnt, then one fault, as a step or a ramp, to one severity. Thresholds were set on seeds 1-10; what is
reported comes from seeds 101-120.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta

import numpy as np
from esp_common.contracts.channels import CHANNELS, Group
from esp_common.contracts.readings import Readings
from esp_diagnostics.detection.tree import Assessment, PumpSpec, Rules, TreeMonitor, default_rules
from esp_diagnostics.detection.tree.findings import GAUGE_FAILURE, INSUFFICIENT_DATA
from esp_diagnostics.physics.curve import Polynomial, PumpCurve
from esp_diagnostics.physics.pumps import Installed
from esp_gateway.simulator.faults import Fault, GaugeFailure, Injection, Order
from esp_gateway.simulator.field import Field
from esp_gateway.simulator.gauge import _CODES, GAUGE, instruments
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
NONE = "nothing"

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


def cases(seeds: Sequence[int], faults: Sequence[Fault] = tuple(Fault), *, quick: bool = False) -> list[Case]:
    """Return every fault at every severity, as step and as ramp, on a well of each seed.

    `quick`: at full severity and as a step alone.
    """
    found = []
    gauges = list(GaugeFailure)
    for fault in faults:
        severities = (1.0,) if fault in ALL_OR_NOTHING else LEAST.get(fault, SEVERITIES)
        onsets = (False,) if fault in ALL_OR_NOTHING or quick else (False, True)
        severities = severities[-1:] if quick else severities
        found.extend(
            Case(seed, fault, severity, ramp, gauges[number % len(gauges)])
            for number, seed in enumerate(seeds)
            for severity in severities
            for ramp in onsets
        )
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


@dataclass
class Outcome:
    """What the tree said of a case; times in minutes after the onset."""

    case: Case
    final: str = NONE
    ranked: tuple[str, ...] = ()
    first: str = NONE
    delay_min: float | None = None
    raised: tuple[str, ...] = ()


def run_cases(
    listed: Sequence[Case], rules: Rules, *, protected: bool, step_min: float = 10.0
) -> list[Outcome]:
    """Return what the tree says of each case, at the end and on the way there."""
    field = field_of(listed, protected=protected)
    monitor = TreeMonitor(specs_of(field, [case.fault.value for case in listed]), rules)
    for _, readings in feed(field, START, ONSET, timedelta(hours=2)):
        monitor.observe(readings, *masks(readings))
    outcomes = {pump_id: Outcome(case) for pump_id, case in zip(field.pump_ids, listed, strict=True)}
    for until, readings in feed(field, ONSET, ONSET + WATCHED, timedelta(minutes=step_min)):
        for assessment in monitor.observe(readings, *masks(readings)):
            _note(outcomes[assessment.pump_id], assessment, (until - ONSET).total_seconds() / 60.0)
    return list(outcomes.values())


def _note(outcome: Outcome, assessment: Assessment, minutes: float) -> None:
    names = [hypothesis.condition for hypothesis in assessment.hypotheses]
    outcome.ranked = tuple(name for name in names if name != INSUFFICIENT_DATA)
    outcome.final = next((name for name in names if name in assessment.open), NONE)
    if assessment.raised and outcome.first == NONE:
        outcome.first = next(name for name in (*names, *assessment.raised) if name in assessment.raised)
    if outcome.case.fault.value in assessment.raised and outcome.delay_min is None:
        outcome.delay_min = minutes
    outcome.raised = (*outcome.raised, *assessment.raised)


@dataclass(frozen=True)
class Scores:
    """How right the tree was; `table` counts (fault, answer)."""

    outcomes: Sequence[Outcome]

    @property
    def table(self) -> Counter[tuple[str, str]]:
        """Count each answer at the end of each fault's cases."""
        return Counter((outcome.case.fault.value, outcome.final) for outcome in self.outcomes)

    def f1(self) -> dict[str, float]:
        """Return each fault's F1 of the answers at the end."""
        table = self.table
        scores = {}
        for fault in dict.fromkeys(outcome.case.fault.value for outcome in self.outcomes):
            right = table[fault, fault]
            asked = sum(count for (truth, _), count in table.items() if truth == fault)
            said = sum(count for (_, answer), count in table.items() if answer == fault)
            scores[fault] = 2.0 * right / (asked + said) if asked + said else 0.0
        return scores

    def macro_f1(self) -> float:
        """Return the mean F1 over faults."""
        return float(np.mean(list(self.f1().values())))

    def top3(self, fault: str | None = None) -> float:
        """Return the share of cases whose fault is among the first three hypotheses at the end."""
        mine = [o for o in self.outcomes if fault in (None, o.case.fault.value)]
        return float(np.mean([o.case.fault.value in o.ranked[:3] for o in mine]))

    def delay_min(self, fault: str) -> float:
        """Return the median time from the onset of a step to the right finding (min)."""
        steps = [o for o in self.outcomes if o.case.fault.value == fault and not o.case.ramp]
        return float(np.median([np.inf if o.delay_min is None else o.delay_min for o in steps]))

    def first_right(self, fault: str) -> float:
        """Return the share of a fault's cases whose first finding was the right one."""
        return float(np.mean([o.first == fault for o in self.outcomes if o.case.fault.value == fault]))

    def gauge_as_well(self) -> int:
        """Return how many gauge faults were found to be something in the well."""
        gauges = [o for o in self.outcomes if o.case.fault is Fault.GAUGE_FAILURE]
        return sum(bool(set(o.raised) - {GAUGE_FAILURE}) for o in gauges)


def judge_faults(
    seeds: Sequence[int], rules: Rules, faults: Sequence[Fault] = tuple(Fault), *, quick: bool = False
) -> Scores:
    """Return the scores on wells of `seeds`, drives not tripping, so that each fault is seen to its end."""
    listed = cases(seeds, faults, quick=quick)
    watched = [case for case in listed if case.fault is not Fault.CYCLING]
    cycling = [case for case in listed if case.fault is Fault.CYCLING]
    outcomes = run_cases(watched, rules, protected=False) if watched else []
    return Scores([*outcomes, *(run_cases(cycling, rules, protected=True) if cycling else [])])


@dataclass(frozen=True)
class Healthy:
    """What was raised on healthy pumps: (pump, condition, hours after the start)."""

    pump_days: float
    raised: Sequence[tuple[str, str, float]]
    gauge_windows: int

    @property
    def false(self) -> list[tuple[str, str, float]]:
        """Return the findings that are not of the gauge, whose faults were real."""
        return [found for found in self.raised if found[1] != GAUGE_FAILURE]

    def per_pump_month(self) -> float:
        """Return false findings in 30 days of a pump."""
        return len(self.false) / self.pump_days * 30.0


def judge_healthy(
    seeds: Sequence[int], rules: Rules, days: float, wells: int = 3, busy: float = 1.0
) -> Healthy:
    """Watch healthy pumps through starts, new frequencies and chokes, well tests, gaps and gauge faults.

    `busy`: how much more of all that happens than usual.
    """
    listed = [
        Case(seed, Fault.PUMP_WEAR, SEVERITIES[number % 3], ramp=number % 2 == 1)
        for seed in seeds
        for number in range(wells)
    ]
    field = field_of(listed, protected=True)
    field._schedule.injections.clear()
    random = np.random.default_rng(seeds[0])
    life = [_Life.drawn(random, days, busy, field, pump) for pump in range(len(listed))]
    monitor = TreeMonitor(specs_of(field, ["healthy"] * len(listed)), rules)
    raised = []
    end = START + timedelta(days=days)
    for until, readings in feed(field, START, end, timedelta(hours=1)):
        for pump, one in enumerate(life):
            one.spoil(readings, pump, len(life), field)
        for assessment in monitor.observe(readings, *masks(readings)):
            hours = (until - START).total_seconds() / 3600.0
            raised.extend((assessment.pump_id, name, hours) for name in assessment.raised)
    return Healthy(days * len(listed), raised, sum(len(one.gauge) for one in life))


@dataclass
class _Life:
    """What happens to a healthy pump: windows (start, end, kind) in hours, and changes of its choke."""

    gauge: list[tuple[float, float, GaugeFailure]]
    gaps: list[tuple[float, float, Group]]
    chokes: list[tuple[float, float]]
    held: np.ndarray | None = None

    @classmethod
    def drawn(cls, random: np.random.Generator, days: float, busy: float, field: Field, pump: int) -> "_Life":
        """Draw a life: some stops and settings as orders to the drive, the rest as windows."""
        pump_id, hours = field.pump_ids[pump], days * 24.0

        def moments(per_month: float) -> list[float]:
            return sorted(
                random.uniform(20.0, hours, random.poisson(busy * per_month * days / 30.0)).tolist()
            )

        for at in moments(3.0):
            field.order(pump_id, Order.STOP, START + timedelta(hours=at))
            field.order(pump_id, Order.START, START + timedelta(hours=at + random.uniform(0.3, 12.0)))
        base = float(field.wells.set_frequency_hz[pump])
        for at in moments(4.0):
            wanted = float(np.clip(base + random.uniform(-3.0, 3.0), 40.0, 60.0))
            field.order(pump_id, Order.FREQUENCY, START + timedelta(hours=at), wanted)
        kinds, groups = list(GaugeFailure), list(Group)
        return cls(
            [(at, at + random.uniform(0.5, 12.0), kinds[random.integers(len(kinds))]) for at in moments(1.5)],
            [(at, at + random.uniform(0.2, 8.0), groups[random.integers(3)]) for at in moments(4.0)],
            [(at, random.uniform(0.8, 1.2)) for at in moments(2.0)],
        )

    def spoil(self, readings: Readings, pump: int, pumps: int, field: Field) -> None:
        """Change a pump's readings of an hour as its windows have it; turn its choke when due."""
        rows = slice(pump, None, pumps)
        hours = (readings.time_us[rows] / 1e6 - START.timestamp()) / 3600.0
        values = readings.values[rows]
        for begins, ends, group in self.gaps:
            inside = (hours >= begins) & (hours < ends)
            values[np.ix_(inside, [c.group is group for c in CHANNELS])] = np.nan
        for begins, ends, kind in self.gauge:
            inside = np.flatnonzero((hours >= begins) & (hours < ends))
            if len(inside):
                self._fail(values, inside, kind)
        for at, share in self.chokes:
            if hours[0] <= at < hours[0] + 1.0:
                opening = float(np.clip(field.wells.choke_pct[pump] * share, 20.0, 100.0))
                field.wells.choke_psi_per_bpd2[pump] *= (field.wells.choke_pct[pump] / opening) ** 2
                field.wells.choke_pct[pump] = np.round(opening)

    def _fail(self, values: np.ndarray, inside: np.ndarray, kind: GaugeFailure) -> None:
        channels, code = _CODES.get(kind, (list(GAUGE), np.nan))
        if kind is GaugeFailure.FROZEN:
            if self.held is None:
                self.held = values[inside[0], GAUGE].copy()
            values[np.ix_(inside, GAUGE)] = self.held
        else:
            values[np.ix_(inside, channels)] = code


def report(*, quick: bool = False) -> Iterator[str]:
    """Yield the lines of the tree's evaluation."""
    rules, seeds = default_rules(), JUDGED_ON[:2] if quick else JUDGED_ON
    yield f"## The tree, rules {rules.version}, wells of seeds {seeds[0]}-{seeds[-1]}"
    scores = judge_faults(seeds, rules, quick=quick)
    yield "| fault | cases | F1 | in the first 3 | first finding right | step to finding, min | taken for |"
    yield "|---|---|---|---|---|---|---|"
    for fault, f1 in scores.f1().items():
        answers = {answer: n for (truth, answer), n in scores.table.items() if truth == fault}
        wrong = ", ".join(f"{answer} {n}" for answer, n in sorted(answers.items()) if answer != fault)
        yield (
            f"| {fault} | {sum(answers.values())} | {f1:.2f} | {scores.top3(fault):.2f} "
            f"| {scores.first_right(fault):.2f} | {scores.delay_min(fault):.0f} | {wrong} |"
        )
    yield f"Macro-F1 {scores.macro_f1():.3f}; in the first three {scores.top3():.3f}."
    yield f"Gauge faults taken for a well's: {scores.gauge_as_well()}."
    healthy = judge_healthy(seeds, rules, days=2.0 if quick else 15.0)
    found = Counter(name for _, name, _ in healthy.false)
    yield (
        f"Healthy, with starts, settings, chokes, gaps and {healthy.gauge_windows} gauge faults: "
        f"{len(healthy.false)} false findings in {healthy.pump_days:.0f} pump days, "
        f"{healthy.per_pump_month():.2f} a pump month ({dict(found)})."
    )
