"""The score of a pump's hour: bounded, monotone, and explained by its shares."""

from dataclasses import fields, replace

import pytest
from esp_ingest.domain.quality import WEIGHTS, HourCounts, assess
from hypothesis import given
from hypothesis import strategies as st

GOOD = HourCounts(
    readings=360,
    flagged=0,
    checked=360,
    contradictory=0,
    windows=3,
    duplicates=0,
    late=0,
    rejected=0,
    conflicts=0,
    expected_interval_s=10,
)
counts = st.builds(
    HourCounts,
    **{field.name: st.integers(0, 5000) for field in fields(HourCounts)[:9]},
    observed_s=st.floats(0, 3600),
    expected_interval_s=st.none() | st.floats(0.1, 86_400),
)


def test_weights_add_up() -> None:
    assert sum(WEIGHTS.values()) == pytest.approx(1)


@given(counts)
def test_shares_and_score_stay_in_their_range(hour: HourCounts) -> None:
    quality = assess(hour)
    shares = [
        quality.completeness,
        quality.validity,
        quality.uniqueness,
        quality.timeliness,
        quality.consistency,
    ]
    assert all(share is None or 0 <= share <= 1 for share in shares)
    assert 0 <= quality.score <= 100


@pytest.mark.parametrize("what", ["flagged", "duplicates", "late", "rejected", "conflicts", "contradictory"])
def test_more_trouble_never_scores_higher(what: str) -> None:
    scores = [assess(replace(GOOD, **{what: n})).score for n in (0, 90, 180, 360)]
    assert scores[0] == 100.0
    assert scores == sorted(scores, reverse=True)
    assert scores[-1] < 100


def test_a_silent_hour_scores_nothing_and_judges_only_completeness() -> None:
    quality = assess(replace(GOOD, readings=0, checked=0, windows=0))
    assert (quality.score, quality.completeness, quality.validity, quality.consistency) == (0, 0, None, None)


@pytest.mark.parametrize(("flagged", "readings"), [(360, 360), (0, 150)])
def test_a_lying_gauge_or_a_half_silent_pump_alone_falls_below_80(flagged: int, readings: int) -> None:
    assert assess(replace(GOOD, flagged=flagged, readings=readings, checked=readings)).score < 80


def test_a_pump_that_stood_still_is_not_inconsistent() -> None:
    assert assess(replace(GOOD, checked=0)).score == 100
