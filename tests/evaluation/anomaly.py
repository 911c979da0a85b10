"""How well the detector of anomalies does on the simulator, on pumps it was not tuned on.

Every pump of a field has days of healthy history to be trained on, in which its frequency was changed and
back; then days of healthy running to be judged, with a stop and start, a known or a new frequency, or
nothing; then a fault, as a step or a ramp. Settings were chosen on seeds 1 and 2.
"""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from time import process_time
from typing import NamedTuple

import numpy as np
from esp_diagnostics.detection.anomaly import AnomalyMonitor, Detector, Settings, train
from esp_diagnostics.detection.tree import FEATURES, PumpSpec, TreeMonitor, default_rules
from esp_diagnostics.detection.tree.findings import GAUGE_FAILURE
from esp_diagnostics.physics.curve import Polynomial, PumpCurve
from esp_diagnostics.physics.pumps import Installed
from esp_gateway.simulator.faults import Fault, Order
from esp_gateway.simulator.field import Field, build_field
from evaluation import skab
from evaluation.scoring import HEADER, Labelled, Score, score

START = datetime(2026, 11, 1, tzinfo=UTC)
DAY = timedelta(days=1)
INTERVAL_S = 120.0
SKAB = Path(__file__).parents[3] / "shared" / "data" / "skab"

WATCHED = tuple(fault for fault in Fault if fault is not Fault.SUPPLY_FLUCTUATION)
"""A swinging supply is left out: it hits the neighbours too, which have faults of their own here."""

AT_A_START = {Fault.STUCK_AT_START, Fault.WRONG_ROTATION}
OF_THE_DRIVE = {Fault.CYCLING}
"""Takes a drive that trips; without protection nothing happens."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How large the evaluation is: fields by their seeds, pumps in each, how long they learn and are judged.

    `tripping`: of how many of the fields it is told too how they do with drives that trip, the first ones.
    """

    seeds: tuple[int, ...]
    pumps: int
    learnt: timedelta
    healthy: timedelta
    faulty: timedelta
    tripping: int = 3


FULL = Plan((101, 102, 103), 40, 4 * DAY, 2 * DAY, DAY)
QUICK = Plan((101,), 14, 2.5 * DAY, DAY, 0.5 * DAY)
TOLD_EVERY_H = 0.5
"""Hours between two looks at what the tree has found."""


class History(NamedTuple):
    """Features of a field's pumps: times (T,), matrix (T, n, k), steady and regime (T, n).

    `found` (T, n): whether the tree raised a finding, other than of the gauge, since it was last looked at.
    """

    times_us: np.ndarray
    matrix: np.ndarray
    steady: np.ndarray
    regime: np.ndarray
    found: np.ndarray

    def until(self, moment: datetime) -> "History":
        """Return what was before a moment."""
        return History(*(column[self.times_us < moment.timestamp() * 1e6] for column in self))

    def since(self, moment: datetime) -> "History":
        """Return what was from a moment on."""
        return History(*(column[self.times_us >= moment.timestamp() * 1e6] for column in self))


@dataclass(frozen=True, slots=True)
class Case:
    """A pump and the fault it gets, None for none."""

    pump_id: str
    fault: Fault | None
    severity: float
    ramp: timedelta


@dataclass(frozen=True, slots=True)
class Outcome:
    """One pump's days after training, sample by sample, and what the alarm named first.

    `by_tree`: whether the tree raised a finding after the onset; `false_by_tree`: how often before it.
    """

    case: Case
    labelled: Labelled
    named: str
    by_tree: bool
    false_by_tree: int


def cases(field: Field, seed: int) -> list[Case]:
    """Return what each pump gets: faults in turn, half of them steps, at three severities."""
    found = []
    for number, pump_id in enumerate(field.pump_ids):
        fault = WATCHED[(number + 7 * seed) % len(WATCHED)] if number < len(WATCHED) else None
        severity = 1.0 if fault in AT_A_START else (0.5, 0.75, 1.0)[(number + seed) % 3]
        ramp = timedelta(hours=6 * ((number // 2 + seed) % 2) * (fault not in AT_A_START))
        found.append(Case(pump_id, fault, severity, ramp))
    return found


def lived(plan: Plan, seed: int, *, protected: bool) -> tuple[list[Case], History]:
    """Return the faults of one field's pumps, and the features of what happened."""
    field = build_field(seed, plan.pumps, interval_s=INTERVAL_S, protected=protected)
    listed = cases(field, seed)
    onset = START + plan.learnt + plan.healthy
    _operate(field, plan, np.random.default_rng(seed))
    for case in listed:
        if case.fault is not None:
            field.inject(case.pump_id, case.fault, onset, case.severity, case.ramp)
        if case.fault in AT_A_START:
            _restart(field, case.pump_id, onset)
    return listed, _features(field, onset + plan.faulty)


def _operate(field: Field, plan: Plan, random: np.random.Generator) -> None:
    """Give the orders of a healthy life."""
    for number, pump_id in enumerate(field.pump_ids):
        usual = float(field.wells.set_frequency_hz[number])
        _run_at(field, pump_id, usual - 1.5, START + DAY * random.uniform(0.4, 0.8), 18.0, usual)
        judged = START + plan.learnt + DAY * random.uniform(0.05, 0.4)
        if number % 4 == 0:
            _restart(field, pump_id, judged)
        elif number % 4 == 1:
            _run_at(field, pump_id, usual - 1.5, judged, 12.0, usual)
        elif number % 4 == 2:
            _run_at(field, pump_id, usual + 2.0, judged, 12.0, usual)


def _run_at(field: Field, pump_id: str, hertz: float, at: datetime, hours: float, usual_hertz: float) -> None:
    field.order(pump_id, Order.FREQUENCY, at, hertz)
    field.order(pump_id, Order.FREQUENCY, at + timedelta(hours=hours), usual_hertz)


def _restart(field: Field, pump_id: str, at: datetime) -> None:
    field.order(pump_id, Order.STOP, at)
    field.order(pump_id, Order.START, at + timedelta(minutes=40))


def _features(field: Field, end: datetime) -> History:
    """Return the features of every pump at every scan from the start on, as the monitor gives them."""
    monitor = TreeMonitor(specs(field), default_rules())
    n, parts = len(field.pump_ids), []
    for readings in field.chunks(START, end, INTERVAL_S, TOLD_EVERY_H):
        none = np.zeros(len(readings), dtype=np.int32)
        assessments = monitor.observe(readings, none, none)
        found = np.zeros((len(readings) // n, n), dtype=bool)
        of_a_well = {each.pump_id for each in assessments if set(each.raised) - {GAUGE_FAILURE}}
        found[-1] = [pump_id in of_a_well for pump_id in field.pump_ids]
        rows = monitor.features()
        order = np.argsort(rows.reading)
        parts.append(
            History(
                readings.time_us[::n],
                rows.matrix[order].reshape(-1, n, len(FEATURES)),
                rows.steady[order].reshape(-1, n),
                rows.regime[order].reshape(-1, n),
                found,
            )
        )
    return History(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


def specs(field: Field) -> list[PumpSpec]:
    """Return what the platform would know of the pumps: their nameplates."""
    found = []
    for plate in field.assets()["pumps"]:
        curve = plate["curve"]
        installed = Installed(
            PumpCurve(
                plate["model"],
                Polynomial(tuple(curve["head_ft_per_stage"])),
                curve["min_bpd"],
                curve["max_bpd"],
                Polynomial(tuple(curve["bhp_per_stage"])),
            ),
            plate["stages"],
        )
        found.append(
            PumpSpec(
                plate["pump_id"],
                "sim",
                installed,
                motor_rated_kw=plate["motor_rated_kw"],
                motor_rated_current_a=plate["motor_rated_current_a"],
                motor_rated_voltage_v=plate["motor_rated_voltage_v"],
                motor_rated_frequency_hz=plate["motor_rated_frequency_hz"],
                setting_depth_ft=plate["setting_depth_ft"],
                expected_interval_s=INTERVAL_S,
            )
        )
    return found


def judge(listed: Sequence[Case], history: History, plan: Plan, settings: Settings) -> list[Outcome]:
    """Train each pump on the first days, watch the rest, and return what was said."""
    watch = AnomalyMonitor(FEATURES)
    past = history.until(START + plan.learnt)
    for number, case in enumerate(listed):
        detector = train(
            past.matrix[:, number],
            FEATURES,
            past.regime[:, number],
            past.steady[:, number],
            past.times_us,
            settings,
        )
        if isinstance(detector, Detector):
            watch.set_model(case.pump_id, detector)
    return _watched(watch, listed, history.since(START + plan.learnt), plan)


def _watched(watch: AnomalyMonitor, listed: Sequence[Case], later: History, plan: Plan) -> list[Outcome]:
    ids = [case.pump_id for case in listed]
    shape = (len(later.times_us), len(ids))
    alarmed, learning = np.zeros(shape, dtype=bool), np.zeros(shape, dtype=bool)
    named = dict.fromkeys(ids, "")
    onset_us = (START + plan.learnt + plan.healthy).timestamp() * 1e6
    for scan, time_us in enumerate(later.times_us):
        times = np.full(len(ids), time_us)
        verdicts = watch.observe(ids, times, later.matrix[scan], later.regime[scan], later.steady[scan])
        for number, pump_id in enumerate(ids):
            verdict = verdicts[pump_id]
            alarmed[scan, number], learning[scan, number] = verdict.alarmed, verdict.learning
            if verdict.alarmed and time_us >= onset_us and not named[pump_id]:
                named[pump_id] = ", ".join(name for name, _ in verdict.contributions[:3])
    after = later.times_us >= onset_us
    return [
        Outcome(
            case,
            Labelled(
                alarmed[:, number],
                after & (case.fault not in (None, Fault.GAUGE_FAILURE)),
                INTERVAL_S,
                later.steady[:, number] & ~learning[:, number],
            ),
            named[case.pump_id],
            bool(later.found[after, number].any()),
            int(later.found[~after, number].sum()),
        )
        for number, case in enumerate(listed)
    ]


def report(plan: Plan, settings: Settings | None = None, skab_folder: Path = SKAB) -> Iterator[str]:
    """Yield the lines of the detector's evaluation: the simulator, then SKAB where it is at hand."""
    settings = settings or Settings()
    for protected in (False, True):
        outcomes = [
            outcome
            for seed in plan.seeds[: plan.tripping if protected else None]
            for outcome in judge(*lived(plan, seed, protected=protected), plan, settings)
            if protected or outcome.case.fault not in OF_THE_DRIVE
        ]
        yield from _lines(outcomes, "drives trip" if protected else "drives do not trip")
    yield _speed(settings)
    if skab_folder.is_dir():
        yield from skab.report(skab_folder)
    else:
        yield f"SKAB: not at {skab_folder}; left out"


def _lines(outcomes: Sequence[Outcome], what: str) -> Iterator[str]:
    said = score([outcome.labelled for outcome in outcomes])
    hours = sum(_healthy_hours(outcome.labelled) for outcome in outcomes)
    running = sum(_share_judged(outcome.labelled) for outcome in outcomes) / len(outcomes)
    yield f"Simulator, {len(outcomes)} pumps, {what}"
    yield f"| {HEADER} | recall | false episodes a pump-month |"
    yield "|" + "---|" * (HEADER.count("|") + 3)
    months = hours / 24.0 / 30.4
    yield f"| {said.row()} | {said.found / said.events:.3f} | {said.false_episodes / months:.2f} |"
    yield f"{running:.0%} of samples judged; the rest off, settling or of a regime not yet learnt"
    events = [outcome for outcome in outcomes if outcome.labelled.anomalous.any()]
    either = sum(outcome.by_tree or bool(outcome.named) for outcome in events)
    false = sum(outcome.false_by_tree for outcome in outcomes)
    yield f"Detector or tree: {either} of {len(events)} events; before them the tree raised {false} findings"
    for fault, of_it in _by_fault(outcomes):
        yield f"  {fault.value}: {_told(of_it)}"


def _by_fault(outcomes: Sequence[Outcome]) -> Iterator[tuple[Fault, list[Outcome]]]:
    for fault in WATCHED:
        of_it = [outcome for outcome in outcomes if outcome.case.fault is fault]
        if of_it:
            yield fault, of_it


def _told(outcomes: Sequence[Outcome]) -> str:
    if outcomes[0].case.fault is Fault.GAUGE_FAILURE:
        alarmed = sum(bool(outcome.named) for outcome in outcomes)
        return f"{alarmed} of {len(outcomes)} alarmed, none should be"
    said: Score = score([outcome.labelled for outcome in outcomes])
    delays = ", ".join(f"{delay / 60:.0f}" for delay in said.delays_s)
    named = next((outcome.named for outcome in outcomes if outcome.named), "nothing")
    by_tree = sum(outcome.by_tree for outcome in outcomes)
    found = f"{said.found} of {said.events} found, after {delays or '-'} min, naming {named}"
    return f"{found}; by the tree {by_tree}"


def _healthy_hours(labelled: Labelled) -> float:
    return float(np.sum(labelled.counting() & ~labelled.anomalous) * labelled.interval_s / 3600.0)


def _share_judged(labelled: Labelled) -> float:
    return float(np.mean(labelled.counting()))


def _speed(settings: Settings, pumps: int = 50, scans: int = 300) -> str:
    """Return what a reading costs in batches of so many pumps, with a detector of all features."""
    random = np.random.default_rng(1)
    n, k = 2000, len(FEATURES)
    times = np.arange(n) * 60_000_000
    noise = random.normal(10.0, 1.0, (n, k))
    detector = train(noise, FEATURES, np.zeros(n, int), np.ones(n, bool), times, settings)
    if not isinstance(detector, Detector):
        return f"speed: {detector.reason}"
    watch, ids = AnomalyMonitor(FEATURES), [f"pump-{number}" for number in range(pumps)]
    for pump_id in ids:
        watch.set_model(pump_id, detector)
    readings = random.normal(10.0, 1.0, (scans, pumps, k))
    started = process_time()
    for scan in range(scans):
        now = np.full(pumps, times[-1] + (scan + 1) * 10_000_000)
        watch.observe(ids, now, readings[scan], np.zeros(pumps, int), np.ones(pumps, bool))
    each = (process_time() - started) / scans / pumps
    return f"Speed: {each * 1e6:.0f} µs of CPU a reading, in batches of {pumps} pumps"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one small field")
    parser.add_argument("--skab", type=Path, default=SKAB, help="folder with the benchmark's CSV files")
    asked = parser.parse_args()
    for line in report(QUICK if asked.quick else FULL, skab_folder=asked.skab):
        print(line, flush=True)
