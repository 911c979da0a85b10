"""Key figures against hand-computed values."""

from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from esp_diagnostics.kpis import formulas, scoring
from esp_diagnostics.kpis.formulas import Intervals, Life, StateInterval
from hypothesis import given
from hypothesis import strategies as st

START = datetime(2026, 6, 1, tzinfo=UTC)
HOUR_S = 3600.0


def at(hours: float) -> datetime:
    return START + timedelta(hours=hours)


def spell(state: str, begin: float, end: float | None, trip_code: int | None = None) -> StateInterval:
    return StateInterval(state, at(begin), None if end is None else at(end), trip_code)


STORY = [
    spell("running", -10, 4),
    spell("off", 4, 6, 27),
    spell("starting", 6, 6.5),
    spell("running", 6.5, 12),
    spell("unknown", 12, 18),
    spell("running", 18, 20),
    spell("off", 20, 21, 0),
    spell("running", 21, None),
]


def test_uptime_is_relative_to_known_time() -> None:
    ran = formulas.running(STORY, at(0), at(24))
    assert ran.up_s / HOUR_S == pytest.approx(15)
    assert ran.down_s / HOUR_S == pytest.approx(3)
    assert ran.uptime == pytest.approx(15 / 18)
    assert ran.known == pytest.approx(18 / 24)


def test_starts_follow_standstill_and_trips_have_a_code() -> None:
    ran = formulas.running(STORY, at(0), at(24))
    assert (ran.starts, ran.trips) == (2, 1)
    assert ran.mean_time_between_trips_days == pytest.approx(15 / 24)
    later = formulas.running(STORY[3:], at(8), at(20))
    assert (later.starts, later.trips) == (0, 0)
    assert later.mean_time_between_trips_days is None


def test_uptime_is_none_without_known_time() -> None:
    assert formulas.running([], at(0), at(24)).uptime is None
    assert formulas.running([spell("unknown", 0, None)], at(0), at(24)).known == 0


def test_a_field_sums_its_pumps() -> None:
    one = formulas.running([spell("running", 0, None)], at(0), at(24))
    other = formulas.running([spell("off", 0, 12), spell("unknown", 12, None)], at(0), at(24))
    both = formulas.total_running([one, other])
    assert both.uptime == pytest.approx(24 / 36)
    assert both.known == pytest.approx(36 / 48)


def test_mean_life_includes_censored_pumps() -> None:
    lives = [Life(400, True), Life(700, True), Life(300, False), Life(600, False)]
    found = formulas.mean_life(lives)
    assert found.days == pytest.approx(1000)
    assert (found.failures, found.censored, found.exposure_days) == (2, 2, 2000)
    # 2T/χ²: χ²(0.95; 6) = 12.592, χ²(0.05; 4) = 0.711 in any table.
    assert found.low_days == pytest.approx(4000 / 12.592, rel=1e-3)
    assert found.high_days == pytest.approx(4000 / 0.711, rel=1e-3)


def test_mean_life_without_failures_has_only_a_lower_bound() -> None:
    found = formulas.mean_life([Life(300, False)])
    assert (found.days, found.high_days, found.failures) == (None, None, 0)
    assert found.low_days == pytest.approx(300 / -np.log(0.05))
    assert formulas.mean_life([]).low_days is None


def intervals(**columns: Any) -> Intervals:
    n = max(np.size(values) for values in columns.values())
    given = {
        "inside_s": HOUR_S,
        "running_share": 1.0,
        "rate_bpd": 2400.0,
        "rate_measured": 1.0,
        "power_kw": 50.0,
        "power_measured": 1.0,
        **columns,
    }
    return Intervals(**{name: np.broadcast_to(np.asarray(v, dtype=float), n) for name, v in given.items()})


def test_production_and_energy_of_an_uninterrupted_day() -> None:
    made = formulas.output(intervals(inside_s=np.full(24, HOUR_S)))
    assert made.produced_bbl == pytest.approx(2400)
    assert made.energy_kwh == pytest.approx(1200)
    assert made.kwh_per_bbl == pytest.approx(0.5)
    assert made.co2e_kg(0.4) == pytest.approx(480)
    assert made.deferred_bbl == 0


def test_standstill_defers_the_usual_rate() -> None:
    share = [1, 1, 1, 0.5, 0, 0]
    made = formulas.output(
        intervals(running_share=share, rate_bpd=[2400, 2400, 2640, 2400, np.nan, np.nan], rate_measured=share)
    )
    assert made.usual_bpd == 2400
    assert made.deferred_bbl == pytest.approx(100 * 2.5)
    assert made.produced_bbl == pytest.approx(100 + 100 + 110 + 50)


def test_a_rate_measured_while_stopped_is_not_weighted() -> None:
    made = formulas.output(intervals(running_share=[0.5], rate_bpd=[1200], rate_measured=[1.0]))
    assert made.produced_bbl == pytest.approx(50)


def test_energy_per_barrel_uses_intervals_with_both_known() -> None:
    made = formulas.output(intervals(rate_bpd=[2400, np.nan], power_kw=[50, 80]))
    assert made.energy_kwh == pytest.approx(130)
    assert made.kwh_per_bbl == pytest.approx(0.5)
    assert formulas.output(intervals(rate_bpd=[np.nan])).kwh_per_bbl is None


def test_intervals_before_the_span_only_determine_the_usual_rate() -> None:
    made = formulas.output(intervals(inside_s=[0, HOUR_S], running_share=[1, 0], rate_bpd=[2400, np.nan]))
    assert (made.produced_bbl, made.energy_kwh) == (0, pytest.approx(50))
    assert made.deferred_bbl == pytest.approx(100)


def test_a_pump_that_never_ran_defers_nothing() -> None:
    made = formulas.output(intervals(running_share=[0.0], rate_bpd=[np.nan]))
    assert (made.usual_bpd, made.deferred_bbl) == (None, 0)


def test_a_field_sums_production_of_its_pumps() -> None:
    one = formulas.output(intervals(rate_bpd=[2400]))
    other = formulas.output(intervals(rate_bpd=[1200], power_kw=[np.nan]))
    both = formulas.total_output([one, other])
    assert both.produced_bbl == pytest.approx(150)
    assert both.kwh_per_bbl == pytest.approx(0.5)
    assert both.usual_bpd == pytest.approx(3600)


POINT = {"fraction_of_min": 1.2, "fraction_of_max": 0.8, "cooling_ft_s": 2.0, "load": 0.7}


def test_a_healthy_pump_scores_100() -> None:
    health = scoring.health_score("running", [], POINT, gauge_fault=False, anomaly=0.5)
    assert (health.score, health.terms) == (100, ())


def test_points_of_the_terms_add_up_to_the_deduction() -> None:
    found = [("scale", "medium", 0.8), ("phase_unbalance", "low", 1.0)]
    point = {**POINT, "fraction_of_min": 0.85, "load": 1.3}
    health = scoring.health_score("running", found, point, gauge_fault=True, anomaly=2.0)
    assert health.score is not None
    assert sum(term.points for term in health.terms) == pytest.approx(100 - health.score, abs=0.1)
    points = [term.points for term in health.terms]
    assert points == sorted(points, reverse=True)
    terms = {term.term for term in health.terms}
    assert terms == {
        "finding scale",
        "finding phase_unbalance",
        "gauge",
        "anomaly",
        "below range",
        "motor load",
    }


def test_unknown_terms_are_listed_without_deduction() -> None:
    health = scoring.health_score("running", [], {"load": 0.5}, gauge_fault=False, anomaly=None)
    assert health.score == 100
    assert {term.term for term in health.terms if term.value is None} == {
        *("above range", "below range", "cooling", "anomaly")
    }


@pytest.mark.parametrize("state", ["unknown", "running", "off"])
def test_a_pump_without_data_has_no_score(state: str) -> None:
    health = scoring.health_score(state, [], {}, gauge_fault=False, anomaly=None)
    assert health == scoring.Health(None, ())


def test_a_stopped_pump_is_not_scored_by_its_operating_point() -> None:
    health = scoring.health_score("off", [], {"fraction_of_min": 0.0}, gauge_fault=False, anomaly=0.0)
    assert health.score == 100


@given(
    st.lists(
        st.tuples(
            st.just("x"), st.sampled_from(["info", "low", "medium", "high", "critical"]), st.floats(0, 1)
        ),
        max_size=8,
    ),
    st.floats(0, 50),
    st.floats(0, 3),
)
def test_health_stays_in_range_and_falls_with_each_finding(
    found: list[tuple[str, str, float]], anomaly: float, fraction: float
) -> None:
    point = {"fraction_of_min": fraction, "fraction_of_max": fraction, "load": fraction}
    health = scoring.health_score("running", found, point, gauge_fault=False, anomaly=anomaly)
    worse = scoring.health_score(
        "running", [*found, ("y", "high", 0.5)], point, gauge_fault=False, anomaly=anomaly
    )
    assert health.score is not None
    assert worse.score is not None
    assert 0 <= worse.score <= health.score <= 100
    assert len(scoring.as_row(health)) == len(health.terms)
