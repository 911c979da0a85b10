"""Anomaly detector on independent data: a simulated field, and SKAB if available."""

import os
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from evaluation import anomaly, skab
from evaluation.scoring import Labelled, score

pytestmark = pytest.mark.slow

SKAB = Path(os.environ.get("SKAB_FOLDER", anomaly.SKAB))
needs_skab = pytest.mark.skipif(
    not SKAB.is_dir(), reason=f"the benchmark's files are not at {SKAB} (SKAB_FOLDER says where)"
)


def labelled(alarmed, anomalous, counted=None):
    flags = [
        None if text is None else np.array([sign == "x" for sign in text])
        for text in (alarmed, anomalous, counted)
    ]
    return Labelled(flags[0], flags[1], 10.0, flags[2])


def test_scores_count_samples_events_and_delays():
    said = score([labelled("x..xx.x.", "..xxxx.."), labelled("....", ".xx.")])

    assert said.f1 == pytest.approx(4 / (4 + 6))
    assert (said.far, said.far_before, said.far_after) == pytest.approx((2 / 6, 1 / 3, 1 / 3))
    assert said.mar == pytest.approx(4 / 6)
    assert (said.events, said.found, said.false_episodes) == (2, 1, 2)
    assert said.delays_s == (10.0,)


def test_masked_samples_are_not_counted():
    said = score([labelled("x...", "..xx", ".xxx")])

    assert (said.far, said.mar, said.false_episodes) == (0.0, 1.0, 1)


@pytest.fixture(scope="module")
def outcomes():
    """Return what is said of eight pumps with faults, on a field the settings were not chosen on."""
    plan = anomaly.Plan((111,), 8, timedelta(days=2), timedelta(hours=18), timedelta(hours=8))
    judged = anomaly.judge(*anomaly.lived(plan, 111, protected=False), plan, anomaly.Settings())
    return [outcome for outcome in judged if outcome.case.fault not in anomaly.OF_THE_DRIVE]


def test_most_simulated_faults_are_detected(outcomes):
    said = score([outcome.labelled for outcome in outcomes])

    assert said.events >= 6
    assert said.found >= said.events - 1


def test_healthy_simulated_running_rarely_alarms(outcomes):
    assert score([outcome.labelled for outcome in outcomes]).far < 0.02


@pytest.fixture(scope="module")
def benchmark_runs():
    return skab.load(SKAB)


@needs_skab
def test_skab_score_by_the_leaderboard_rules(benchmark_runs):
    runs, healthy = benchmark_runs
    said = score([judged.above for judged in skab.judge(runs, healthy, skab.SETTINGS)])

    assert said.f1 >= 0.78
    assert said.far < 0.1355
    assert said.found == said.events


def test_settings_of_a_file_are_chosen_on_the_other_files():
    many = [labelled("xxxxx", "..xxx"), labelled("xxxxx", "..xxx"), labelled(".....", "..xxx")]
    few = [labelled("..x..", "..xxx"), labelled("..x..", "..xxx"), labelled("..xxx", "..xxx")]
    by_f1 = [settings for settings, _ in skab.chosen_by_the_others([many, few])]
    bounded = [settings for settings, _ in skab.chosen_by_the_others([many, few], 0.5)]
    quiet = [said for _, said in skab.chosen_by_the_others([many, few], 0.0)]

    assert by_f1 == [skab.CANDIDATES[1], skab.CANDIDATES[1], skab.CANDIDATES[0]]
    assert bounded == [skab.CANDIDATES[1], skab.CANDIDATES[1], skab.CANDIDATES[1]]
    assert quiet == few


@needs_skab
def test_training_samples_are_not_scored(benchmark_runs):
    runs, healthy = benchmark_runs
    judged = skab.judge(runs[:1], healthy[:2], skab.SETTINGS)

    assert len(judged[0].above.alarmed) == len(runs[0].values) - skab.FITTED
