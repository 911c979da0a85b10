import pytest
from esp_common.contracts.channels import CHANNELS
from esp_common.contracts.units import TYPICAL, make_tag
from esp_common.errors import InvalidInput


@pytest.mark.parametrize(
    ("channel", "unit", "sent", "expected"),
    [
        ("intake_temp_c", "degF", 212.0, 100.0),
        ("intake_temp_c", "°F", 32.0, 0.0),
        ("motor_temp_c", "K", 373.15, 100.0),
        ("motor_temp_c", "°C", 88.0, 88.0),
        ("intake_pressure_psi", "bar", 100.0, 1450.377),
        ("intake_pressure_psi", "barg", 100.0, 1450.377),
        ("intake_pressure_psi", "kPa", 1000.0, 145.038),
        ("intake_pressure_psi", "KPA", 1000.0, 145.038),
        ("intake_pressure_psi", "Pa", 1e6, 145.038),
        ("discharge_pressure_psi", "MPa", 10.0, 1450.377),
        ("discharge_pressure_psi", "kg/cm2", 1.0, 14.2233),
        ("wellhead_pressure_psi", "psig", 200.0, 200.0),
        ("flow_rate_bpd", "m3/d", 100.0, 628.981),
        ("flow_rate_bpd", "bbl/day", 100.0, 100.0),
        ("flow_rate_bpd", "bbl/hour", 1.0, 24.0),
        ("flow_rate_bpd", "kbbl/d", 1.5, 1500.0),
        ("flow_rate_bpd", "l/min", 1.0, 9.05733),
        ("flow_rate_bpd", "gpm", 1.0, 34.2857),
        ("water_cut_pct", "fraction", 0.5, 50.0),
        ("water_cut_pct", "%", 50.0, 50.0),
        ("vibration_x_g", "g", 0.5, 0.5),
        ("vibration_x_g", "m/s**2", 9.80665, 1.0),
        ("active_power_kw", "hp", 100.0, 74.57),
        ("motor_voltage_v", "kV", 2.0, 2000.0),
        ("leakage_current_ma", "uA", 1000.0, 1.0),
        ("insulation_resistance_mohm", "kohm", 1000.0, 1.0),
        ("insulation_resistance_mohm", "MΩ", 5.0, 5.0),
        ("frequency_hz", "kHz", 0.05, 50.0),
        ("insulation_resistance_mohm", "ohm", 5e6, 5.0),
        ("active_power_kw", "MW", 0.1, 100.0),
        ("active_power_kw", "W", 5e4, 50.0),
        ("motor_temp_c", "DEGF", 212.0, 100.0),
        ("motor_current_a", "AMPS", 20.0, 20.0),
        ("motor_current_a", None, 20.0, 20.0),
        ("running", None, 1.0, 1.0),
        ("trip_code", None, 7.0, 7.0),
    ],
)
def test_a_vendor_unit_becomes_the_catalogue_unit(
    channel: str, unit: str | None, sent: float, expected: float
) -> None:
    factor, offset = make_tag(channel, unit)
    assert sent * factor + offset == pytest.approx(expected, rel=1e-5, abs=1e-9)


@pytest.mark.parametrize("channel", [channel.name for channel in CHANNELS])
def test_every_channel_takes_its_own_unit(channel: str) -> None:
    assert make_tag(channel, next(c.unit for c in CHANNELS if c.name == channel)) == (1.0, 0.0)


@pytest.mark.parametrize(
    ("channel", "unit"),
    [
        ("intake_pressure_psi", "degC"),
        ("intake_pressure_psi", "furlong"),
        ("intake_pressure_psi", ""),
        ("intake_temp_c", "delta_degF"),
        ("frequency_hz", "rpm"),
        ("choke_pct", "degree"),
        ("water_cut_pct", "9**9**9"),
        ("motor_current_a", "__import__('os')"),
        ("motor_current_a", "A" * 1000),
        ("running", "bool"),
        ("flow_rate_bpd", "Mbbl/day"),
        ("flow_rate_bpd", "mbbl/day"),
    ],
)
def test_a_unit_of_another_kind_is_refused_by_name_with_those_that_would_do(channel: str, unit: str) -> None:
    with pytest.raises(InvalidInput) as refusal:
        make_tag(channel, unit)
    assert repr(unit) in refusal.value.detail
    assert refusal.value.fix


def test_the_refusal_offers_units_that_are_accepted() -> None:
    with pytest.raises(InvalidInput) as refusal:
        make_tag("intake_pressure_psi", "degC")
    offered = (refusal.value.fix or "").removeprefix("use one of ").split(", ")
    assert {"psi", "bar", "kPa"} <= set(offered)
    assert all(make_tag("intake_pressure_psi", unit) for unit in offered)


def test_a_channel_outside_the_catalogue_is_refused() -> None:
    with pytest.raises(InvalidInput, match="no channel 'spin'"):
        make_tag("spin", "Hz")


@pytest.mark.parametrize(
    ("channel", "unit", "meant"),
    [
        ("insulation_resistance_mohm", "mohm", "MΩ"),
        ("insulation_resistance_mohm", "mΩ", "MΩ"),
        ("insulation_resistance_mohm", "milliohm", "MΩ"),
        ("active_power_kw", "mW", "MW or kW"),
        ("intake_pressure_psi", "mPa", "MPa or psi"),
        ("discharge_pressure_psi", "Mbar", "mbar or psi"),
        ("motor_voltage_v", "MV", "V"),
        ("motor_voltage_v", "mV", "V"),
        ("leakage_current_ma", "MA", "mA"),
        ("frequency_hz", "MHz", "mHz or Hz"),
    ],
)
def test_a_unit_in_which_no_reading_could_be_written_is_refused_with_the_likely_one(
    channel: str, unit: str, meant: str
) -> None:
    with pytest.raises(InvalidInput, match="implausible") as refusal:
        make_tag(channel, unit)
    assert refusal.value.fix == f"did you mean {meant}?"


@pytest.mark.parametrize("channel", [channel.name for channel in CHANNELS])
def test_what_is_typical_lies_within_the_hard_limits(channel: str) -> None:
    known = next(each for each in CHANNELS if each.name == channel)
    low, high = TYPICAL[channel]
    assert known.low <= low < high <= known.high
