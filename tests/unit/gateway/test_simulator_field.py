"""What a simulated field sends: repeatable, as its gateways report, in the shape the platform imports."""

import json
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import numpy as np
import pytest
from esp_common.contracts.channels import CHANNEL_INDEX, CHANNEL_NAMES, CHANNELS, Group
from esp_gateway.simulator.drive import Trip
from esp_gateway.simulator.faults import Fault, Order
from esp_gateway.simulator.field import build_field
from esp_gateway.simulator.gateways import IGNORED_TAG, VENDOR_TAGS, Style
from esp_gateway.simulator.gauge import instruments

START = datetime(2026, 11, 1, tzinfo=UTC)
STATE = {"pump_id", "time", "running", "trip_code"}


@pytest.fixture(scope="module")
def sent():
    """Return what each gateway of a field of 50 sends in twenty minutes."""
    field = build_field(11)
    batches = {}
    for minute in range(1, 21):
        for batch in field.step(START + timedelta(minutes=minute)):
            batches.setdefault(batch.gateway_id, []).extend(batch.readings)
    return batches


def test_the_same_seed_gives_the_same_bytes():
    def bytes_of(seed):
        field = build_field(seed, pumps=20)
        field.inject("SIM-002", Fault.GAS_INTERFERENCE, START)
        batches = [field.step(START + timedelta(seconds=10 * scan)) for scan in range(1, 20)]
        return json.dumps([[batch.gateway_id, batch.readings] for step in batches for batch in step]).encode()

    assert bytes_of(4) == bytes_of(4)
    assert bytes_of(4) != bytes_of(5)


def test_columns_do_not_depend_on_how_the_span_is_cut():
    whole = build_field(4, pumps=10).columns(START, START + timedelta(hours=1), 10)
    field = build_field(4, pumps=10)
    parts = list(field.chunks(START, START + timedelta(hours=1), 10, hours=0.25))

    np.testing.assert_array_equal(np.concatenate([part.values for part in parts]), whole.values)
    np.testing.assert_array_equal(np.concatenate([part.time_us for part in parts]), whole.time_us)


def test_columns_are_ordered_and_within_the_catalogues_limits():
    readings = build_field(4, pumps=10).columns(START, START + timedelta(hours=1), 10)
    low, high = (np.array([getattr(channel, end) for channel in CHANNELS]) for end in ("low", "high"))
    values = readings.values

    assert len(readings) == 3600
    assert (np.diff(readings.time_us) >= 0).all()
    assert list(readings.pump_id[:10]) == [f"SIM-{number:03d}" for number in range(1, 11)]
    assert ((values >= low) | np.isnan(values)).all()
    assert ((values <= high) | np.isnan(values)).all()


def test_a_live_step_goes_on_from_history():
    field = build_field(4, pumps=10, style=Style.PERIODIC)
    history = field.columns(START, START + timedelta(hours=1), 10)
    [batch] = field.step(START + timedelta(hours=1, seconds=10))

    assert batch.readings[0]["intake_pressure_psi"] == pytest.approx(history.values[-10, 0], abs=3)


def test_assets_describe_every_pump_once():
    assets = build_field(11, pumps=50).assets()
    pumps, gateways = assets["pumps"], assets["gateways"]

    assert [gateway["gateway_id"] for gateway in gateways] == [f"gw-0{number}" for number in range(1, 6)]
    assert [pump for gateway in gateways for pump in gateway["pumps"]] == [pump["pump_id"] for pump in pumps]
    assert {well["well_id"] for well in assets["wells"]} == {pump["well_id"] for pump in pumps}
    assert len({pump["model"] for pump in pumps}) >= 3
    assert any(pump["model"] == "REDA AN550" for pump in pumps)
    assert [tag_map["gateway_id"] for tag_map in assets["tag_maps"]] == ["gw-05"]
    assert {tag["channel"] for tag in assets["tag_maps"][0]["tags"].values() if tag} == set(CHANNEL_NAMES)
    json.dumps(assets)


def test_a_periodic_gateway_sends_every_scan(sent):
    readings = sent["gw-01"]

    assert len(readings) == 10 * (1 + 19 * 6)
    assert readings[0]["time"] == "2026-11-01T00:01:00Z"
    assert all(STATE <= set(reading) <= STATE | set(CHANNEL_NAMES) for reading in readings)


def test_gauge_and_drive_report_apart_at_the_same_instant(sent):
    gauge_channels = {channel.name for channel in CHANNELS if channel.group is Group.GAUGE}
    by_key = {}
    for reading in sent["gw-02"]:
        by_key.setdefault((reading["pump_id"], reading["time"]), []).append(set(reading) - STATE)

    assert all(len(parts) == 2 for parts in by_key.values())
    assert all(gauge == gauge_channels and not drive & gauge_channels for gauge, drive in by_key.values())


def test_reports_by_exception_are_sparse_but_never_silent_for_long():
    field = build_field(11, pumps=10, style=Style.BY_EXCEPTION)
    batches = [batch for hour in (1, 2, 3) for batch in field.step(START + timedelta(hours=hour))]
    readings = [reading for batch in batches for reading in batch.readings]
    values = sum(len(set(reading) - STATE) for reading in readings)
    seen = [
        datetime.fromisoformat(reading["time"])
        for reading in readings
        if reading["pump_id"] == "SIM-003" and "intake_temp_c" in reading
    ]

    assert values < 0.1 * 2 * 360 * 10 * len(CHANNEL_NAMES)
    assert max(b - a for a, b in pairwise(seen)) <= timedelta(minutes=20, seconds=10)


def test_vendor_tags_convert_back_to_the_catalogues_units(sent):
    reading = sent["gw-05"][0]
    factors = {"kPa": 6.894757293168361, "degF": 1.8, "W": 1000.0, "uA": 1000.0, "kohm": 1000.0}

    assert IGNORED_TAG in reading
    assert not set(reading) & set(CHANNEL_NAMES)
    for channel, tag in VENDOR_TAGS.items():
        if tag.name in reading and tag.unit in factors:
            back = (reading[tag.name] - (32.0 if tag.unit == "degF" else 0.0)) / factors[tag.unit]
            limits = CHANNELS[CHANNEL_INDEX[channel]]
            assert limits.low <= back <= limits.high
            assert round(back, 3) == pytest.approx(round(back, 2), abs=6e-3)


def test_readings_carry_the_gauges_resolution(sent):
    pressures = {reading["intake_pressure_psi"] for reading in sent["gw-01"]}

    assert all(round(pressure, 1) == pressure for pressure in pressures)


def test_rates_come_from_well_tests_days_apart_or_a_meter():
    measured_by = instruments(np.random.default_rng(1), 30)
    times = np.repeat(START.timestamp() + 600.0 * np.arange(13 * 144)[:, None], 30, axis=1)
    values = np.ones((*times.shape, len(CHANNEL_NAMES)))

    measured_by.hide_untested(values, times, 600.0)
    rates = ~np.isnan(values[..., CHANNEL_INDEX["flow_rate_bpd"]])
    tests = (~np.isnan(values[..., CHANNEL_INDEX["water_cut_pct"]])).sum(axis=0)

    assert rates[:, measured_by.has_meter].all()
    assert (rates[:, ~measured_by.has_meter].sum(axis=0) == tests[~measured_by.has_meter]).all()
    assert tests.min() >= 1
    assert tests.max() <= 4


def test_a_stop_and_a_start_run_their_sequence():
    field = build_field(4, pumps=10, interval_s=10)
    field.order("SIM-003", Order.STOP, START + timedelta(minutes=10))
    field.order("SIM-003", Order.START, START + timedelta(minutes=40))
    readings = field.columns(START, START + timedelta(hours=3), 10)
    values = readings.values.reshape(-1, 10, len(CHANNEL_NAMES))[:, 2]
    running, trips = readings.running.reshape(-1, 10)[:, 2], readings.trip_code.reshape(-1, 10)[:, 2]
    frequency = values[:, CHANNEL_INDEX["frequency_hz"]]
    intake = values[:, CHANNEL_INDEX["intake_pressure_psi"]]
    stopped = slice(66, 234)

    assert set(running[stopped]) == {0}
    assert set(trips[stopped]) == {Trip.OPERATOR}
    assert (values[stopped, CHANNEL_INDEX["motor_current_a"]] == 0).all()
    assert intake[230] > intake[50] + 20
    assert 0 < frequency[242] < frequency[247] < frequency[50] - 5
    assert frequency[-1] == pytest.approx(frequency[50], abs=0.1)
    assert trips[-1] == Trip.NONE
    assert intake[-1] < intake[230] - 20


def test_what_cannot_be_injected_is_refused():
    field = build_field(4, pumps=10)

    with pytest.raises(ValueError, match="severity"):
        field.inject("SIM-001", Fault.SCALE, START, 1.5)
    with pytest.raises(KeyError, match="SIM-099"):
        field.inject("SIM-099", Fault.SCALE, START)


def test_a_cleared_pump_recovers():
    field = build_field(4, pumps=10)
    field.inject("SIM-001", Fault.LOST_COOLING, START, 0.4)
    hot = field.columns(START, START + timedelta(hours=2), 60).values[-10, CHANNEL_INDEX["motor_temp_c"]]
    field.clear("SIM-001")
    well = field.columns(START + timedelta(hours=2), START + timedelta(hours=5), 60)

    assert well.values[-10, CHANNEL_INDEX["motor_temp_c"]] < hot - 4
