"""Silent pumps, by their own interval, and silent gateways."""

from datetime import UTC, datetime, timedelta

import pytest
from esp_diagnostics.silence.rules import Reporting, Silence, SilencePolicy, find_silent

NOW = datetime(2026, 5, 1, tzinfo=UTC)
POLICY = SilencePolicy(intervals=5, least_s=60, unknown_interval_s=600)


def pump(pump_id: str, age_s: float, interval_s: float | None = 10, **noted: object) -> Reporting:
    return Reporting(pump_id, "north", interval_s, NOW - timedelta(seconds=age_s), **noted)


def found(pumps, gateways=None, returned=None):
    return find_silent(pumps, gateways or {}, returned or {}, POLICY, NOW)


@pytest.mark.parametrize(("interval_s", "after_s"), [(1, 60), (10, 60), (60, 300), (None, 3000)], ids=str)
def test_a_pump_is_silent_after_several_intervals(interval_s, after_s):
    assert found([pump("P-1", after_s, interval_s)]).pumps == {}
    silent = found([pump("P-1", after_s + 1, interval_s)]).pumps
    assert silent == {"P-1": Silence(NOW - timedelta(seconds=after_s + 1), None)}


def test_a_silent_gateway_covers_all_of_its_pumps():
    pumps = [pump("P-1", 61), pump("P-2", 55), pump("P-3", 61, 3600), pump("P-4", 5)]
    seen = found(pumps, {"gw-1": ["P-1", "P-2", "P-3", "P-unknown"], "gw-2": ["P-4"]})
    assert {pump_id: silence.covered_by for pump_id, silence in seen.pumps.items()} == {"P-1": "gw-1"}
    assert seen.gateways == {"gw-1": NOW - timedelta(seconds=55)}


def test_a_silent_pump_of_a_sending_gateway_has_its_own_alert():
    seen = found([pump("P-1", 100), pump("P-2", 5)], {"gw-1": ["P-1", "P-2"]})
    assert (seen.pumps["P-1"].covered_by, seen.gateways) == (None, {})


def test_the_only_pump_of_a_gateway_has_its_own_alert():
    seen = found([pump("P-1", 100)], {"gw-1": ["P-1"]})
    assert (seen.pumps["P-1"].covered_by, seen.gateways) == (None, {})


def test_a_pump_keeps_its_alert_when_its_gateway_becomes_silent():
    own = pump("P-1", 900, silent_since=NOW - timedelta(seconds=900))
    seen = found([own, pump("P-2", 100)], {"gw-1": ["P-1", "P-2"]})
    assert {p: silence.covered_by for p, silence in seen.pumps.items()} == {"P-1": None, "P-2": "gw-1"}
    assert "gw-1" in seen.gateways


def test_the_timeout_of_pumps_restarts_when_their_gateway_returns():
    covered = pump("P-1", 900, silent_since=NOW - timedelta(seconds=900), covered_by="gw-1")
    pumps, gateways = [covered, pump("P-2", 5)], {"gw-1": ["P-1", "P-2"]}
    for back_s, covered_by in ((None, "gw-1"), (60, "gw-1"), (61, None)):
        returned = {} if back_s is None else {"gw-1": NOW - timedelta(seconds=back_s)}
        seen = found(pumps, gateways, returned)
        assert (seen.pumps["P-1"].covered_by, seen.gateways) == (covered_by, {})
