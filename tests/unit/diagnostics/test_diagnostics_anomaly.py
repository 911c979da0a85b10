"""Anomaly detector: training, scoring, persistence and snapshots."""

import io

import numpy as np
import pytest
from esp_diagnostics.detection.anomaly import (
    AnomalyMonitor,
    Detector,
    DetectorInvalid,
    Learning,
    Settings,
    statistics,
    train,
)
from esp_diagnostics.detection.anomaly.training import limits
from hypothesis import given
from hypothesis import strategies as st

MINUTE_US = 60_000_000
NAMES = ("intake", "discharge", "gain", "current", "winding")
HEALTHY_MINUTES = 3 * 1440
REGIME = 50_010
SETTINGS = Settings(settling_s=3600.0)
MIXING = np.array(
    [[1.0, 0, 0, 0, 0], [0.4, 1.0, 0, 0, 0], [-0.6, 1.0, 0.1, 0, 0], [0, 0.5, 0, 1.0, 0], [0, 0, 0, 0.8, 0.6]]
)


def healthy(minutes, seed=1):
    """Return (minutes, 5) of a pump at work: correlated, with a swing of the day."""
    random = np.random.default_rng(seed)
    day = np.sin(np.arange(minutes) * 2 * np.pi / 1440)[:, None]
    return (
        np.array([900.0, 3000.0, 2100.0, 40.0, 60.0])
        + 5.0 * random.normal(size=(minutes, 5)) @ MIXING.T
        + 2 * day
    )


def trained(values, steady=None, regime=None, settings=SETTINGS):
    n = len(values)
    return train(
        values,
        NAMES,
        np.full(n, REGIME) if regime is None else regime,
        np.ones(n, dtype=bool) if steady is None else steady,
        np.arange(n) * MINUTE_US,
        settings,
    )


@pytest.fixture(scope="module")
def detector():
    found = trained(healthy(HEALTHY_MINUTES))
    assert isinstance(found, Detector)
    return found


class Watched:
    """One pump before a watch, minute by minute after the history it was trained on."""

    def __init__(self, detector):
        self.watch = AnomalyMonitor(NAMES)
        self.watch.set_model("P-1", detector)
        self.minute = HEALTHY_MINUTES

    def live(self, values, steady=True, regime=REGIME):
        """Return the verdict on each of the next minutes."""
        verdicts = []
        for row in values:
            self.minute += 1
            verdicts.append(
                self.watch.observe(
                    ["P-1"],
                    np.array([self.minute * MINUTE_US]),
                    row[None],
                    np.array([regime]),
                    np.array([steady]),
                )["P-1"]
            )
        return verdicts


@pytest.fixture
def watched(detector):
    return Watched(detector)


def with_winding_hotter(values, by=12.0):
    return values + np.array([0, 0, 0, 0, by])


def test_a_short_history_reports_its_share():
    found = trained(healthy(12 * 60))

    assert isinstance(found, Learning)
    assert found.share == pytest.approx(0.5, abs=0.01)
    assert found.reason == "12.0 of 24 hours of healthy steady running"


def test_unsteady_rows_are_not_learnt():
    steady = np.arange(HEALTHY_MINUTES) % 200 >= 120

    assert isinstance(trained(healthy(HEALTHY_MINUTES), steady), Learning)


def test_a_constant_history_is_not_trained():
    assert isinstance(trained(np.zeros((HEALTHY_MINUTES, 5))), Learning)


def test_rarely_measured_features_are_excluded():
    values = healthy(HEALTHY_MINUTES)
    values[:, 2] = np.nan
    values[np.arange(HEALTHY_MINUTES) % 60 > 0, 3] = np.nan
    found = trained(values)

    np.testing.assert_array_equal(found.reference.used, [True, True, False, False, True])


def test_regimes_with_little_running_stay_unknown():
    regime = np.full(HEALTHY_MINUTES, REGIME)
    regime[1000:1200] += 1
    regime[2000:2600] += 2

    np.testing.assert_array_equal(
        trained(healthy(HEALTHY_MINUTES), regime=regime).reference.regimes, [REGIME, REGIME + 2]
    )


def test_a_detector_survives_serialization(detector):
    again = Detector.from_bytes(detector.to_bytes())

    assert again.to_bytes() == detector.to_bytes()
    assert again.metrics() == detector.metrics()
    np.testing.assert_array_equal(again.reference.covariance, detector.reference.covariance)


def _pickled():
    buffer = io.BytesIO()
    np.savez(buffer, about=np.array([{"format": 1}], dtype=object))
    return buffer.getvalue()


@pytest.mark.parametrize("body", [b"", b"not a detector", _pickled()], ids=["empty", "text", "pickle"])
def test_invalid_detector_bytes_are_rejected(body):
    with pytest.raises(DetectorInvalid):
        Detector.from_bytes(body)


def test_a_damaged_detector_is_rejected(detector):
    body = detector.to_bytes()

    with pytest.raises(DetectorInvalid):
        Detector.from_bytes(body[: len(body) // 2])


def test_a_detector_of_other_features_is_rejected(detector):
    with pytest.raises(DetectorInvalid, match="other features"):
        AnomalyMonitor(("intake", "discharge")).set_model("P-1", detector)


@given(st.integers(50, 2000), st.sampled_from([0.005, 0.02, 0.1]))
def test_limits_leave_the_configured_share_above(n, share):
    random = np.random.default_rng(n)
    distances, sums = random.chisquare(5, n), random.exponential(1, n)
    distance, greatest = limits(distances, sums, share)
    above = np.mean((distances > distance) | (sums > greatest))

    assert above <= share + 1.0 / n
    assert above >= share - 2.0 / n


@given(st.integers(0, 2**32 - 1), st.lists(st.booleans(), min_size=5, max_size=5))
def test_missing_features_give_the_marginal_distance(seed, there):
    random = np.random.default_rng(seed)
    factor = random.normal(size=(5, 5)) + 2 * np.eye(5)
    covariance, gap, known = factor @ factor.T, random.normal(size=5), np.array(there)
    parts = statistics.contributions_to_distance(gap[None], np.linalg.inv(covariance)[None], known[None])[0]
    left = covariance[np.ix_(known, known)]

    assert (parts[~known] == 0).all()
    assert parts.sum() == pytest.approx(gap[known] @ np.linalg.solve(left, gap[known]), rel=1e-6, abs=1e-9)


def test_statistics_do_not_depend_on_the_reporting_interval():
    signal = np.repeat(np.random.default_rng(3).normal(size=30), 60)
    ends = []
    for every in (1, 6):
        state = statistics.RunningStatistics.start(1, 1)
        for second in range(0, len(signal) * 10, every * 10):
            statistics.smooth(
                state, signal[second // 10 : second // 10 + every].mean()[None, None], second, 600.0
            )
        ends.append(float(state.smoothed[0, 0]))

    assert ends[0] == pytest.approx(ends[1], abs=0.02)


def test_healthy_running_rarely_alarms(watched):
    verdicts = watched.live(healthy(2 * 1440, seed=2))

    assert np.mean([verdict.alarmed for verdict in verdicts]) < 0.02
    assert not any(verdict.learning for verdict in verdicts)


def test_a_step_alarms_soon_with_start_and_contributions(watched):
    watched.live(healthy(600, seed=2))
    onset = watched.minute + 1
    verdicts = watched.live(with_winding_hotter(healthy(60, seed=3)))
    found = [verdict.alarmed for verdict in verdicts].index(True)

    assert found <= 15
    assert onset * MINUTE_US <= verdicts[found].since_us <= (onset + 12) * MINUTE_US
    assert verdicts[-1].contributions[0][0] == "winding"
    assert sum(share for _, share in verdicts[-1].contributions) == pytest.approx(1.0, abs=1e-6)


def test_an_alarm_lasts_as_long_as_the_fault(watched):
    watched.live(with_winding_hotter(healthy(60, seed=3)))
    lasting = watched.live(with_winding_hotter(healthy(2 * 1440, seed=4)))
    after = watched.live(healthy(600, seed=5))

    assert all(verdict.alarmed for verdict in lasting)
    assert after[0].alarmed, "hysteresis"
    assert not after[-1].alarmed
    assert after[-1].since_us is None


def test_a_slow_ramp_is_detected(watched):
    ramp = np.linspace(0, 12, 600)[:, None] * np.array([0, 0, 0, 0, 1.0])

    assert watched.live(healthy(600, seed=3) + ramp)[-1].alarmed


def test_a_single_outlier_does_not_alarm(watched):
    values = healthy(100, seed=3)
    values[50] *= 100

    assert not any(verdict.alarmed for verdict in watched.live(values))


def test_missing_channels_do_not_alarm_and_others_stay_monitored(watched):
    values = healthy(1440, seed=3)
    values[100:, :3] = np.nan

    assert not any(verdict.alarmed for verdict in watched.live(values))
    values = with_winding_hotter(healthy(60, seed=4))
    values[:, :3] = np.nan
    assert watched.live(values)[-1].alarmed


def test_starts_and_changes_are_not_scored_until_settled(watched):
    off = watched.live(np.zeros((90, 5)), steady=False)
    settling = watched.live(with_winding_hotter(healthy(59, seed=3), by=40.0))
    settled = watched.live(healthy(200, seed=4))

    assert all(verdict.learning and not verdict.alarmed for verdict in off + settling)
    assert not any(verdict.learning or verdict.alarmed for verdict in settled[1:])


def test_a_short_gauge_dropout_does_not_stop_scoring(watched):
    watched.live(healthy(100, seed=3))
    watched.live(np.full((5, 5), np.nan), steady=False)

    assert not watched.live(healthy(1, seed=4))[0].learning


def test_a_change_to_a_known_regime_settles_first():
    regime = np.where(np.arange(HEALTHY_MINUTES) < 1440, REGIME + 1, REGIME)
    watched = Watched(trained(healthy(HEALTHY_MINUTES), regime=regime))
    watched.live(healthy(100, seed=3))
    verdicts = watched.live(healthy(100, seed=4), regime=REGIME + 1)

    assert all(verdict.learning for verdict in verdicts[:59])
    assert not any(verdict.learning for verdict in verdicts[61:])


def test_an_unknown_regime_is_not_scored(watched):
    verdicts = watched.live(with_winding_hotter(healthy(200, seed=3)), regime=REGIME + 5)

    assert all(verdict.learning and not verdict.alarmed for verdict in verdicts)


def test_a_pump_without_a_detector_is_not_scored():
    watch = AnomalyMonitor(NAMES)
    told = watch.observe(["P-9"], np.array([1]), np.zeros((1, 5)), np.array([REGIME]), np.array([True]))

    assert told["P-9"].learning
    assert not told["P-9"].alarmed


def test_an_older_reading_changes_nothing(watched):
    before = watched.live(healthy(100, seed=3))[-1]
    late = watched.watch.observe(
        ["P-1"], np.array([5]), np.full((1, 5), 1e6), np.array([REGIME]), np.array([True])
    )["P-1"]

    assert late == before


def test_a_batch_equals_single_readings(detector):
    values = with_winding_hotter(healthy(40, seed=3))
    one_by_one, at_once = Watched(detector), Watched(detector)
    at_once.watch.set_model("P-2", detector)
    last = one_by_one.live(values)[-1]
    times = np.repeat((HEALTHY_MINUTES + 1 + np.arange(40)) * MINUTE_US, 2)
    order = np.random.default_rng(0).permutation(80)
    verdicts = at_once.watch.observe(
        [("P-1", "P-2")[row % 2] for row in order],
        times[order],
        np.repeat(values, 2, axis=0)[order],
        np.full(80, REGIME),
        np.ones(80, dtype=bool),
    )

    assert verdicts == {"P-1": last, "P-2": last}


@pytest.mark.parametrize("model_first", [True, False], ids=["model-first", "snapshot-first"])
def test_state_survives_snapshot_and_restore(detector, model_first):
    before, after = Watched(detector), Watched(detector)
    before.live(with_winding_hotter(healthy(50, seed=3)))
    snapshots = before.watch.snapshot(["P-1", "P-7"])
    after.watch = AnomalyMonitor(NAMES)
    if model_first:
        after.watch.set_model("P-1", detector)
        after.watch.restore(snapshots)
    else:
        after.watch.restore(snapshots)
        after.watch.set_model("P-1", detector)
    after.minute = before.minute

    assert list(snapshots) == ["P-1"]
    assert after.live(healthy(100, seed=4)) == before.live(healthy(100, seed=4))


def test_snapshots_of_other_features_are_ignored(detector, watched):
    watched.live(healthy(10))
    watch = AnomalyMonitor(NAMES[:4])
    watch.restore(watched.watch.snapshot(["P-1"]))
    watch.restore({"P-1": b"something else"})

    assert watch.snapshot(["P-1"]) == {}


def test_a_new_detector_does_not_end_an_alarm(watched):
    since = watched.live(with_winding_hotter(healthy(60, seed=3)))[-1].since_us
    watched.watch.set_model("P-1", trained(healthy(HEALTHY_MINUTES, seed=9)))
    values = with_winding_hotter(healthy(60, seed=4))

    assert watched.live(values[:1])[0].since_us == since
    assert watched.live(values)[-1].since_us == since


def test_a_forgotten_pump_restarts(watched):
    watched.live(with_winding_hotter(healthy(60, seed=3)))
    watched.watch.forget("P-1")

    assert watched.live(healthy(1, seed=4))[0].learning
