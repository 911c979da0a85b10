"""The Skoltech Anomaly Benchmark (https://github.com/waico/SKAB): its files, and two ways to be judged by it.

Leaderboard: fit to the first 400 rows of each file, judge the rest, all files pooled. Conformal: the same,
but the threshold comes from healthy rows of the other files, so that a share of healthy samples is kept.
"""

import csv
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from esp_diagnostics.domain.anomaly import Detector, Settings, Watch, train

from evaluation.scoring import Labelled, Score, score

FITTED = 400
"""Rows of each file to fit to; by the leaderboard's rules."""

SETTINGS = Settings(smoothing_s=10.0, follow_s=60.0, minimum_hours=0.05, minimum_regime_hours=0.05, blocks=5)
"""Seconds instead of hours: a run of the benchmark's rig is 20 minutes long."""


@dataclass(frozen=True, slots=True)
class Run:
    """One file: name, `values` (n, 8), `anomalous` (n,)."""

    name: str
    values: np.ndarray
    anomalous: np.ndarray
    names: tuple[str, ...]


def load(folder: Path) -> list[Run]:
    """Return the labelled runs under a folder, by name; those without labels are left out."""
    runs = [_read(path, str(path.relative_to(folder))) for path in sorted(folder.rglob("*.csv"))]
    return [run for run in runs if run is not None]


def _read(path: Path, name: str) -> Run | None:
    with path.open(newline="") as file:
        rows = list(csv.reader(file, delimiter=";"))
    names = rows[0]
    if "anomaly" not in names:
        return None
    sensors = [
        place for place, column in enumerate(names) if column not in ("datetime", "anomaly", "changepoint")
    ]
    values = np.array([[float(row[place]) for place in sensors] for row in rows[1:]])
    anomalous = np.array([float(row[names.index("anomaly")]) > 0 for row in rows[1:]])
    return Run(name, values, anomalous, tuple(names[place] for place in sensors))


def watched(runs: list[Run], settings: Settings) -> tuple[np.ndarray, np.ndarray]:
    """Return scores and alarms (runs, longest) after the fitted rows; NaN and false behind a run's end."""
    watch = Watch(runs[0].names)
    longest = max(len(run.values) for run in runs)
    for run in runs:
        watch.set_model(run.name, _fitted(run, settings))
    scores = np.full((len(runs), longest - FITTED), np.nan)
    alarms = np.zeros(scores.shape, dtype=bool)
    for second in range(FITTED, longest):
        live = [run for run in runs if second < len(run.values)]
        n = len(live)
        verdicts = watch.observe(
            [run.name for run in live],
            np.full(n, (second + 1) * 1_000_000),
            np.array([run.values[second] for run in live]),
            np.zeros(n, dtype=np.int64),
            np.ones(n, dtype=bool),
        )
        for row, run in enumerate(runs):
            if run.name in verdicts:
                scores[row, second - FITTED] = verdicts[run.name].score
                alarms[row, second - FITTED] = verdicts[run.name].alarmed
    return scores, alarms


def _fitted(run: Run, settings: Settings) -> Detector:
    detector = train(
        run.values[:FITTED],
        run.names,
        np.zeros(FITTED, dtype=np.int64),
        np.ones(FITTED, dtype=bool),
        (np.arange(FITTED) + 1) * 1_000_000,
        settings,
    )
    assert isinstance(detector, Detector), detector
    return detector


def judged(runs: list[Run], settings: Settings) -> list[Labelled]:
    """Return each run's judged rows with their alarms."""
    _, alarms = watched(runs, settings)
    return [
        Labelled(alarmed[: len(run.values) - FITTED], run.anomalous[FITTED:], 1.0)
        for run, alarmed in zip(runs, alarms, strict=True)
    ]
