"""The Skoltech Anomaly Benchmark (https://github.com/waico/SKAB): its files, and two ways to be judged by it.

Leaderboard: fit to the first 400 rows of each file, judge the rest, all files pooled, sample by sample.
Conformal: the same with the alarms that the platform would raise, persistence and hysteresis included, and
the share of healthy samples that may be alarmed said beforehand. No label has a part in either: limits come
from the recording without anomalies, cut into runs that are fitted and judged like the others.
"""

import csv
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from math import inf
from pathlib import Path

import numpy as np
from esp_diagnostics.detection.anomaly import AnomalyMonitor, Detector, Settings, train
from esp_diagnostics.detection.anomaly.training import limits
from evaluation.scoring import HEADER, Labelled, Score, score

FITTED = 400
"""Rows of each file to fit to; by the leaderboard's rules."""

RUN = 1150
"""Rows of a run that is cut from the recording without anomalies, about as many as the others have."""

RUNS_APART = 575

SETTINGS = Settings(
    smoothing_s=10.0,
    follow_s=60.0,
    false_alarm_share=0.05,
    minimum_hours=0.05,
    minimum_regime_hours=0.05,
    settling_s=0.0,
    slack=inf,
    margin=1.0,
)
"""A run is 20 minutes of a rig whose water warms and cools: seconds instead of hours, no sums."""

LEADERS_FAR = 0.1355
"""Of the leaderboard's best with F1 0.78."""

CANDIDATES = tuple(
    replace(SETTINGS, smoothing_s=smoothing, follow_s=follow, false_alarm_share=share)
    for smoothing, follow, share in product((10.0, 20.0), (60.0, 90.0), (0.03, 0.05, 0.1))
)
"""What is chosen from when the settings of a file are to be chosen by the others."""


@dataclass(frozen=True, slots=True)
class Run:
    """One file: `values` (n, sensors), `anomalous` (n,)."""

    name: str
    sensors: tuple[str, ...]
    values: np.ndarray
    anomalous: np.ndarray


def load(folder: Path) -> tuple[list[Run], list[Run]]:
    """Return the labelled runs under a folder, and runs cut from recordings without labels, all healthy."""
    labelled, healthy = [], []
    for path in sorted(folder.rglob("*.csv")):
        with path.open(newline="") as file:
            columns, *rows = csv.reader(file, delimiter=";")
        if "Pressure" not in columns:
            continue
        run = _run(str(path.relative_to(folder)), columns, rows)
        if "anomaly" in columns:
            labelled.append(run)
        else:
            healthy.extend(_cut(run))
    return labelled, healthy


def _run(name: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Run:
    places = {column: place for place, column in enumerate(columns)}
    sensors = tuple(column for column in columns if column not in ("datetime", "anomaly", "changepoint"))
    values = np.array([[float(row[places[sensor]]) for sensor in sensors] for row in rows])
    label = places.get("anomaly")
    anomalous = [label is not None and float(row[label]) > 0 for row in rows]
    return Run(name, sensors, values, np.array(anomalous))


def _cut(run: Run) -> Iterator[Run]:
    for start in range(0, len(run.values) - RUN, RUNS_APART):
        rows = slice(start, start + RUN)
        yield Run(f"{run.name}:{start}", run.sensors, run.values[rows], run.anomalous[rows])


@dataclass(frozen=True, slots=True)
class Judged:
    """A run after its fitted rows: `above` the threshold sample by sample, and `alarmed`."""

    above: Labelled
    alarmed: Labelled


def judge(runs: Sequence[Run], healthy: Sequence[Run], settings: Settings) -> list[Judged]:
    """Fit each run, take the limits from the healthy ones, and return what is said of the rest of each."""
    detectors = calibrated([_fitted(run, settings) for run in runs], healthy, settings)
    scores, alarms = _watched(runs, detectors)
    return [
        Judged(
            Labelled(scores[row, : len(truth)] > 1.0, truth, 1.0),
            Labelled(alarms[row, : len(truth)], truth, 1.0),
        )
        for row, truth in enumerate(run.anomalous[FITTED:] for run in runs)
    ]


def calibrated(detectors: Sequence[Detector], healthy: Sequence[Run], settings: Settings) -> list[Detector]:
    """Return detectors with the limits that leave `false_alarm_share` of the healthy runs' samples above."""
    fitted = [_fitted(run, settings) for run in healthy]
    large = 1e12
    distances, sums = (
        _watched(healthy, [replace(d, distance_limit=first, sum_limit=second) for d in fitted])[0]
        for first, second in ((large, large**2), (large**2, large))
    )
    told = ~np.isnan(distances)
    distance, greatest = limits(distances[told] * large, sums[told] * large, settings.false_alarm_share)
    return [replace(d, distance_limit=distance, sum_limit=greatest) for d in detectors]


def _fitted(run: Run, settings: Settings) -> Detector:
    detector = train(
        run.values[:FITTED],
        run.sensors,
        np.zeros(FITTED, dtype=np.int64),
        np.ones(FITTED, dtype=bool),
        np.arange(1, FITTED + 1) * 1_000_000,
        settings,
    )
    assert isinstance(detector, Detector), f"{run.name}: {detector}"
    return detector


def _watched(runs: Sequence[Run], detectors: Sequence[Detector]) -> tuple[np.ndarray, np.ndarray]:
    """Return scores and alarms (runs, seconds) after the fitted rows; NaN and false behind a run's end."""
    watch = AnomalyMonitor(runs[0].sensors)
    for run, detector in zip(runs, detectors, strict=True):
        watch.set_model(run.name, detector)
    longest = max(len(run.values) for run in runs)
    scores = np.full((len(runs), longest - FITTED), np.nan)
    alarms = np.zeros(scores.shape, dtype=bool)
    for second in range(FITTED, longest):
        live = [row for row, run in enumerate(runs) if second < len(run.values)]
        verdicts = watch.observe(
            [runs[row].name for row in live],
            np.full(len(live), (second + 1) * 1_000_000),
            np.array([runs[row].values[second] for row in live]),
            np.zeros(len(live), dtype=np.int64),
            np.ones(len(live), dtype=bool),
        )
        for row in live:
            verdict = verdicts[runs[row].name]
            scores[row, second - FITTED], alarms[row, second - FITTED] = verdict.score, verdict.alarmed
    return scores, alarms


def chosen_by_the_others(
    every: Sequence[Sequence[Labelled]], most_far: float = 1.0
) -> list[tuple[Settings, Labelled]]:
    """Return for each run the settings with the best F1 on the other files, and what they say of it.

    `every`: what each of CANDIDATES says of each run. Of those settings whose FAR on the other files is at
    most `most_far`; where that is none, the one with the lowest.
    """
    found = []
    for left_out in range(len(every[0])):
        others = [score([run for row, run in enumerate(said) if row != left_out]) for said in every]
        best = max(range(len(every)), key=lambda place: _worth(others[place], most_far))
        found.append((CANDIDATES[best], every[best][left_out]))
    return found


def _worth(said: Score, most_far: float) -> tuple[bool, float]:
    """Return what orders settings, the best last."""
    allowed = said.far <= most_far
    return allowed, said.f1 if allowed else -said.far


def report(folder: Path) -> Iterator[str]:
    """Yield the lines of the benchmark's part of the evaluation."""
    runs, healthy = load(folder)
    if not runs or not healthy:
        yield f"SKAB: no labelled files and recording without anomalies under {folder}; left out"
        return
    yield f"SKAB, {len(runs)} labelled files; limits from {len(healthy)} runs of the healthy recording"
    yield f"| protocol | {HEADER} |"
    yield "|" + "---|" * (HEADER.count("|") + 2)
    leaderboard = [judged.above for judged in judge(runs, healthy, SETTINGS)]
    yield _line("leaderboard", score(leaderboard))
    if len(runs) > 1:
        every = [[judged.above for judged in judge(runs, healthy, settings)] for settings in CANDIDATES]
        for what, most_far in (("F1", 1.0), (f"F1 at FAR <= {LEADERS_FAR:.2%}", LEADERS_FAR)):
            chosen = [run for _, run in chosen_by_the_others(every, most_far)]
            yield _line(f"leaderboard, settings chosen by the other files' {what}", score(chosen))
    for share in (0.05, 0.02, 0.01, 0.005):
        said = judge(runs, healthy, replace(SETTINGS, false_alarm_share=share))
        yield _line(f"conformal, {share:.1%}", score([judged.alarmed for judged in said]))
    yield from _spread(score([run]) for run in leaderboard)


def _line(protocol: str, said: Score) -> str:
    return f"| {protocol} | {said.row()} |"


def _spread(scores: Iterable[Score]) -> Iterator[str]:
    listed = list(scores)
    for name in ("f1", "far", "mar"):
        values = np.array([getattr(one, name) for one in listed])
        low, middle, high = np.quantile(values, (0.0, 0.5, 1.0))
        yield f"{name.upper()} by file: {low:.2f} to {high:.2f}, median {middle:.2f}"
