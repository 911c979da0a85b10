"""Every fault against its row of the signature table, on three kinds of well.

Each well runs twice with the same seed: once healthy, once with the fault. A cell holds by the bands of
the table: "up" and "down" beyond 2 sigma of the healthy run, "UP" and "DOWN" beyond 4 sigma and 10 %,
"flat" within 2 sigma or 3 %, "unsteady" with a spread over three times the healthy one.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import product

import numpy as np
import pytest
from esp_common.contracts.channels import CHANNEL_INDEX, CHANNELS, Group
from esp_gateway.simulator.drive import Trip
from esp_gateway.simulator.faults import CAUSES, Fault, GaugeFailure, Order
from esp_gateway.simulator.field import Field
from esp_gateway.simulator.gauge import instruments
from esp_gateway.simulator.wells import design_wells, draw_models

pytestmark = pytest.mark.slow

SEED = 3
START = datetime(2026, 11, 1, tzinfo=UTC)
ONSET = START + timedelta(hours=6)
WELLS = (0, 1, 3)  # an AN550, a larger pump, a gas handler
SIGNALS = ("Pi", "Pd", "dP", "I", "Tm", "vib", "WHP", "Q", "kW")


@dataclass(frozen=True)
class Row:
    """A row of the table: severity, hours after onset at which it is read, and its cells."""

    severity: float
    hours: float
    cells: dict[str, str]


def row(severity, hours, *cells, **more):
    return Row(severity, hours, {**dict(zip(SIGNALS, cells, strict=False)), **more})


# Cells in the order Pi, Pd, dP, I, Tm, vib, WHP, Q; "any" is not looked at, "a|b" allows either.
TABLE = {
    # Q is not held to "unsteady": a meter good to 1.5 % hides the swing where stages handle gas.
    Fault.GAS_INTERFERENCE: row(
        1.0, 1, "unsteady", "down unsteady", "down unsteady", "down unsteady", "up", "up", "unsteady", "down"
    ),
    Fault.GAS_LOCK: row(1.0, 1, "up", "DOWN", "DOWN", "DOWN", "UP", "flat|up", "down", "none"),
    # ΔP rises as the level falls and stops rising when gas comes in: with a steady reservoir the pump then
    # lives on what flows, so ΔP stays high and unsteady instead of falling back below its healthy value.
    Fault.PUMP_OFF: row(1.0, 8, "DOWN", "down", "up unsteady", "down", "up", "up", "down", "down"),
    Fault.BROKEN_SHAFT: row(1.0, 1, "up", "DOWN", "DOWN", "DOWN", "down|flat", "down", "down", "none"),
    Fault.TUBING_HOLE: row(0.5, 2, "up", "down", "down", "flat|up", "flat", "flat", "down", "DOWN"),
    Fault.DEADHEAD: row(1.0, 1, "up", "UP", "up", "down", "up", "up", "UP", "none"),
    Fault.FLOWLINE_RESTRICTION: row(1.0, 4, "up", "up", "up", "down", "up", "flat", "up", "down"),
    Fault.PLUGGED_INTAKE: row(1.0, 4, "up", "down", "down", "down", "up", "UP", "down", "down"),
    Fault.SCALE: row(1.0, 8, "up", "down", "down", "up", "up", "up", "down", "down"),
    Fault.PUMP_WEAR: row(1.0, 12, "up", "down", "down", "flat|down", "flat|up", "up", "down", "down"),
    Fault.EMULSION: row(1.0, 4, "up", "any", "down", "UP", "up", "flat", "down", "down"),
    # Q: what the pump lifts stays, but water does not shrink on its way up as oil does.
    Fault.WATER_CUT_RISE: row(0.6, 12, "flat|up", "up", "up", "up", "flat", "flat", "down", "flat|up"),
    Fault.INFLOW_LOSS: row(0.7, 10, "down", "down", "flat|up", "down", "flat|up", "flat", "down", "down"),
    Fault.INFLOW_GAIN: row(1.0, 12, "up", "up", "down", "flat", "down", "flat", "up", "up"),
    Fault.OVERLOAD: row(1.0, 4, "any", "any", "any", "UP", "up", "up", "flat", "flat"),
    # A motor that carries less loses less: it cools by degrees where the table sees nothing. WHP and Q are
    # left open: a lighter fluid reaches the stages first and the tubing hours later, so both dip and return.
    Fault.UNDERLOAD: row(0.7, 2, "any", "any", "any", "any", "flat|down", "flat", "any", "any", kW="DOWN"),
    Fault.LOST_COOLING: row(1.0, 4, "flat", "flat", "flat", "flat", "UP", "flat", "flat", "flat|down"),
    Fault.PHASE_UNBALANCE: row(1.0, 4, "flat", "flat", "flat", "flat", "up", "up", "flat", "flat"),
    Fault.INSULATION_FAULT: row(0.8, 4, "flat", "flat", "flat", "flat", "flat", "flat", "flat", "flat"),
    # Pi rises where the table sees nothing: on two phases a motor turns slower and draws the well down less.
    # Currents are one by one in a test of their own.
    Fault.OPEN_PHASE: row(1.0, 1, "up", "down", "down", "any", "up", "up", "down", "down"),
    Fault.WRONG_ROTATION: row(1.0, 4, "up", "down", "DOWN", "flat|up", "up", "up", "down", "DOWN"),
    # Q is left open: the meter's noise hides the swing.
    Fault.SUPPLY_FLUCTUATION: row(
        1.0, 4, "unsteady", "unsteady", "unsteady", "unsteady", "flat", "flat", "unsteady", "any"
    ),
    # The table's dashes are a pump that always ran there. Injected into one that ran well, its operating
    # point has to move first: back pressure for downthrust, reservoir support for upthrust.
    Fault.DOWNTHRUST: row(1.0, 8, "any", "any", "any", "any", "any", "up", "any", "any"),
    Fault.UPTHRUST: row(1.0, 12, "any", "any", "any", "any", "any", "up", "any", "any"),
}

# Where a well's own physics departs from the row, with the reason.
DEPARTURES = {
    # This well's intake is gassy (void 7 %). Water brings no gas, so the stages recover head that gas took,
    # draw the annulus down, and more liquid makes up at the wellhead for the gas that no longer comes.
    (1, Fault.WATER_CUT_RISE): {"Pi": "down", "WHP": "flat|down"},
    # The same recovery by a higher intake pressure: denser fluid in the stages loads the motor.
    (1, Fault.INFLOW_GAIN): {"I": "up"},
    (1, Fault.FLOWLINE_RESTRICTION): {"I": "flat|down"},
    # And the reverse: a lower intake pressure brings more gas, and gas shakes.
    (1, Fault.INFLOW_LOSS): {"vib": "flat|up"},
    # A drive that rides through sags by slowing down turns more slowly on average, and shakes less.
    (1, Fault.SUPPLY_FLUCTUATION): {"vib": "flat|down"},
}


class Pair:
    """One well, healthy and faulty, as signals over time at one-minute samples."""

    def __init__(self, healthy, faulty, window):
        self.healthy, self.faulty, self.window = _signals(healthy), _signals(faulty), window

    def holds(self, name, wanted):
        healthy, faulty = self.healthy[name], self.faulty[name]
        before, now = healthy[self.window], faulty[self.window]
        spread = healthy.std()
        change = now.mean() - before.mean()
        # A temperature's zero means nothing, so its share is taken of 100 °C.
        share = change / (100.0 if name == "Tm" else before.mean())
        checks = {
            "any": True,
            "flat": abs(change) <= 2 * spread or abs(share) <= 0.03,
            "up": change > 2 * spread,
            "down": change < -2 * spread,
            "UP": change > 4 * spread and share > 0.10,
            "DOWN": change < -4 * spread and share < -0.10,
            "none": abs(now).mean() < 1.0,
            "unsteady": now.std() > 3 * before.std(),
        }
        measured = (
            f"{name}: {before.mean():.2f} -> {now.mean():.2f} ({share:+.1%}, {change / spread:+.1f} sigma)"
        )
        return any(all(checks[one] for one in option.split()) for option in wanted.split("|")), measured


def _signals(values):
    def channel(name):
        return values[:, CHANNEL_INDEX[name]]

    intake, discharge = channel("intake_pressure_psi"), channel("discharge_pressure_psi")
    return {
        "Pi": intake,
        "Pd": discharge,
        "dP": discharge - intake,
        "I": channel("motor_current_a"),
        "Tm": channel("motor_temp_c"),
        "vib": channel("vibration_x_g"),
        "WHP": channel("wellhead_pressure_psi"),
        "Q": channel("flow_rate_bpd"),
        "kW": channel("active_power_kw"),
    }


def _twins(index):
    """Return a field of the wells at `index`, all metered and unprotected."""
    random = np.random.default_rng(1)
    models = draw_models(random, 50)
    wells = design_wells(random, models).take(index)
    measured_by = instruments(random, len(index))
    measured_by.has_meter[:] = True
    chosen = [models[well] for well in index]
    return Field(SEED, chosen, wells, measured_by, style=None, interval_s=60.0, protected=False)


def _run(field, hours):
    readings = field.columns(START, START + timedelta(hours=hours), 60.0)
    return readings.values.reshape(-1, len(field.pump_ids), readings.values.shape[1])


@pytest.fixture(scope="module")
def runs():
    """Return {(well, fault): (healthy, faulty)}, values (minutes, channels), each pair in its own column."""
    cases = list(product(WELLS, TABLE))
    index = np.array([well for well, _ in cases])
    healthy, faulty = _twins(index), _twins(index)
    for pump_id, (_, fault) in zip(faulty.pump_ids, cases, strict=True):
        inject_alone(faulty, pump_id, fault, TABLE[fault].severity)
        if fault is Fault.WRONG_ROTATION:
            faulty.order(pump_id, Order.STOP, ONSET)
            faulty.order(pump_id, Order.START, ONSET + timedelta(minutes=5))
    before, after = _run(healthy, 20), _run(faulty, 20)
    return {case: (before[:, column], after[:, column]) for column, case in enumerate(cases)}


def inject_alone(field, pump_id, fault, severity):
    """Inject without the neighbours: a supply fault would reach the other cases on the feeder."""
    others = list(field._schedule.injections)
    field.inject(pump_id, fault, ONSET, severity)
    own = [item for item in field._schedule.injections if item.pump == field.pump_ids.index(pump_id)]
    field._schedule.injections[:] = others + own


@pytest.mark.parametrize("well", WELLS)
@pytest.mark.parametrize("fault", TABLE, ids=str)
def test_fault_shows_as_its_row_of_the_signature_table(runs, well, fault):
    wanted = TABLE[fault]
    first = int((6 + wanted.hours) * 60)
    pair = Pair(*runs[well, fault], slice(first, first + 120))

    failed = []
    for name, cell in (wanted.cells | DEPARTURES.get((well, fault), {})).items():
        holds, measured = pair.holds(name, cell)
        if not holds:
            failed.append(f"wanted {cell}: {measured}")

    assert not failed, "\n".join(failed)


def _at(values, well_hours, channel, pump=0):
    """Return a channel of one pump over the hour that starts `well_hours` after the start."""
    first = int(well_hours * 60)
    return values[first : first + 60, pump, CHANNEL_INDEX[channel]]


@pytest.fixture
def one():
    """Return a function that runs one AN550 well for some hours with what the caller arranges."""

    def run(hours, arrange, protected=False, interval_s=60.0, pumps=1):
        random = np.random.default_rng(1)
        models = draw_models(random, 50)
        wells = design_wells(random, models).take(np.zeros(pumps, dtype=int))
        measured_by = instruments(random, pumps)
        field = Field(
            SEED,
            [models[0]] * pumps,
            wells,
            measured_by,
            style=None,
            interval_s=interval_s,
            protected=protected,
        )
        arrange(field)
        readings = field.columns(START, START + timedelta(hours=hours), interval_s)
        shape = (-1, pumps)
        return (
            readings.values.reshape(*shape, readings.values.shape[1]),
            readings.running.reshape(shape),
            (readings.trip_code.reshape(shape)),
        )

    return run


def test_overload_exceeds_the_nameplate_and_trips(one):
    def sand(field):
        field.inject("SIM-001", Fault.OVERLOAD, ONSET)

    random = np.random.default_rng(1)
    rated = design_wells(random, draw_models(random, 50)).rated_current_a[0]
    values, _, _ = one(8, sand)
    _, running, trips = one(8, sand, protected=True)

    assert _at(values, 7, "motor_current_a").mean() > 1.1 * rated
    assert running[-1, 0] == 0
    assert trips[-1, 0] == Trip.OVERLOAD


def test_phase_unbalance_is_over_five_percent(one):
    values, _, _ = one(8, lambda field: field.inject("SIM-001", Fault.PHASE_UNBALANCE, ONSET))

    phases = np.array([_at(values, 7, f"current_{phase}_a").mean() for phase in "abc"])
    assert 100 * np.abs(phases - phases.mean()).max() / phases.mean() > 5


def test_an_open_phase_carries_nothing_and_the_others_carry_for_it(one):
    values, _, _ = one(8, lambda field: field.inject("SIM-001", Fault.OPEN_PHASE, ONSET))
    _, _, trips = one(8, lambda field: field.inject("SIM-001", Fault.OPEN_PHASE, ONSET), protected=True)

    assert _at(values, 7, "current_a_a").max() < 1.0
    assert _at(values, 7, "current_b_a").mean() > 1.3 * _at(values, 4, "current_b_a").mean()
    assert trips[-1, 0] == Trip.UNBALANCE


def test_insulation_fault_leaks_and_makes_the_gauge_noisy_but_moves_no_signal(one):
    values, _, _ = one(8, lambda field: field.inject("SIM-001", Fault.INSULATION_FAULT, ONSET, 0.7))

    assert _at(values, 7, "insulation_resistance_mohm").mean() < 1.0
    assert _at(values, 7, "leakage_current_ma").mean() > 10 * _at(values, 4, "leakage_current_ma").mean()
    assert _at(values, 7, "intake_pressure_psi").std() > 3 * _at(values, 4, "intake_pressure_psi").std()
    assert _at(values, 7, "motor_current_a").mean() == pytest.approx(
        _at(values, 4, "motor_current_a").mean(), rel=0.01
    )


def test_a_broken_shafts_pressure_gain_ignores_the_frequency(one):
    def break_and_speed_up(field):
        field.inject("SIM-001", Fault.BROKEN_SHAFT, ONSET)
        field.order("SIM-001", Order.FREQUENCY, ONSET + timedelta(hours=1), 45.0)

    values, _, _ = one(9, break_and_speed_up)
    gain = _at(values, 8, "discharge_pressure_psi") - _at(values, 8, "intake_pressure_psi")

    assert _at(values, 8, "frequency_hz").mean() == pytest.approx(45.0, abs=0.1)
    assert abs(gain.mean()) < 1.0


def test_a_stuck_rotor_draws_locked_current_heats_and_trips(one):
    def seize(field):
        field.order("SIM-001", Order.STOP, ONSET)
        field.inject("SIM-001", Fault.STUCK_AT_START, ONSET)
        field.order("SIM-001", Order.START, ONSET + timedelta(hours=6))

    random = np.random.default_rng(1)
    rated = design_wells(random, draw_models(random, 50)).rated_current_a[0]
    values, running, trips = one(13, seize, protected=True)
    start = 12 * 60
    tried = np.flatnonzero(running[start - 5 : start + 30, 0]) + start - 5
    before, during = values[tried[0] - 1, 0], values[tried, 0].mean(axis=0)
    column = CHANNEL_INDEX

    assert 3 * rated < during[column["motor_current_a"]] < 6 * rated
    assert during[column["intake_pressure_psi"]] == pytest.approx(
        before[column["intake_pressure_psi"]], abs=3
    )
    gain = during[column["discharge_pressure_psi"]] - during[column["intake_pressure_psi"]]
    assert abs(gain) < 2
    assert values[tried[-1] + 1, 0, column["motor_temp_c"]] > before[column["motor_temp_c"]] + 5
    assert trips[-1, 0] == Trip.STALL


def test_swapped_phases_show_only_after_a_start(one):
    values, _, _ = one(8, lambda field: field.inject("SIM-001", Fault.WRONG_ROTATION, ONSET))

    assert _at(values, 7, "discharge_pressure_psi").mean() == pytest.approx(
        _at(values, 4, "discharge_pressure_psi").mean(), rel=0.01
    )


def test_pump_off_under_protection_trips_on_underload_and_saws(one):
    values, running, trips = one(
        24, lambda field: field.inject("SIM-001", Fault.PUMP_OFF, ONSET), protected=True
    )
    starts = int((np.diff(running[:, 0].astype(int)) == 1).sum())
    after = values[12 * 60 :, 0, CHANNEL_INDEX["intake_pressure_psi"]]

    assert starts > 3
    assert set(np.unique(trips)) == {Trip.NONE, Trip.UNDERLOAD}
    assert after.std() > 3 * values[: 6 * 60, 0, CHANNEL_INDEX["intake_pressure_psi"]].std()


def test_cycling_is_the_drives_limit_and_not_the_wells(one):
    values, running, _ = one(20, lambda field: field.inject("SIM-001", Fault.CYCLING, ONSET), protected=True)
    starts = int((np.diff(running[6 * 60 :, 0].astype(int)) == 1).sum())

    assert starts > 3
    for channel in (
        "intake_pressure_psi",
        "discharge_pressure_psi",
        "motor_current_a",
        "wellhead_pressure_psi",
    ):
        late, early = values[8 * 60 :, 0, CHANNEL_INDEX[channel]], values[: 6 * 60, 0, CHANNEL_INDEX[channel]]
        assert late.std() > 3 * early.std(), channel


def test_a_supply_fault_reaches_every_pump_on_the_feeder_and_no_other(one):
    values, _, _ = one(9, lambda field: field.inject("SIM-004", Fault.SUPPLY_FLUCTUATION, ONSET), pumps=12)
    voltage = CHANNEL_INDEX["motor_voltage_v"]

    worse = values[7 * 60 :, :, voltage].std(axis=0) / values[: 6 * 60, :, voltage].std(axis=0)

    assert (worse[:10] > 3).all()
    assert (worse[10:] < 2).all()


@pytest.mark.parametrize(
    ("mode", "channel", "code"),
    [
        (GaugeFailure.OVER_RANGE, "intake_pressure_psi", 94906.9),
        (GaugeFailure.ZERO, "motor_temp_c", 0.0),
        (GaugeFailure.FREEZING_POINT, "intake_temp_c", 0.0),
        (GaugeFailure.MINUS_ZERO, "discharge_pressure_psi", -0.000002),
    ],
)
def test_a_failed_gauge_sends_its_code_and_leaves_drive_and_surface_alone(one, mode, channel, code):
    healthy, _, _ = one(8, lambda field: None)
    values, _, _ = one(8, lambda field: field.inject("SIM-001", Fault.GAUGE_FAILURE, ONSET, gauge=mode))

    assert (_at(values, 7, channel) == code).all()
    outside = [index for index, item in enumerate(CHANNELS) if item.group is not Group.GAUGE]
    np.testing.assert_array_equal(values[..., outside], healthy[..., outside])


def test_a_frozen_gauge_repeats_itself_and_a_silent_one_is_absent(one):
    frozen, _, _ = one(8, lambda field: field.inject("SIM-001", Fault.GAUGE_FAILURE, ONSET))
    silent, _, _ = one(
        8, lambda field: field.inject("SIM-001", Fault.GAUGE_FAILURE, ONSET, gauge=GaugeFailure.SILENT)
    )

    assert np.ptp(_at(frozen, 7, "intake_pressure_psi")) == 0
    assert np.ptp(_at(frozen, 4, "intake_pressure_psi")) > 0
    assert np.isnan(_at(silent, 7, "intake_pressure_psi")).all()
    assert not np.isnan(_at(silent, 7, "motor_current_a")).any()


def test_a_failing_gauge_spoils_a_share_of_its_readings(one):
    values, _, _ = one(
        12, lambda field: field.inject("SIM-001", Fault.GAUGE_FAILURE, ONSET, 0.3, gauge=GaugeFailure.ZERO)
    )

    spoiled = (values[6 * 60 :, 0, CHANNEL_INDEX["intake_pressure_psi"]] == 0).mean()
    assert 0.2 < spoiled < 0.4


def test_wear_grows_with_its_ramp(one):
    values, _, _ = one(
        24, lambda field: field.inject("SIM-001", Fault.PUMP_WEAR, ONSET, 1.0, timedelta(hours=12))
    )
    gain = (
        values[:, 0, CHANNEL_INDEX["discharge_pressure_psi"]]
        - values[:, 0, CHANNEL_INDEX["intake_pressure_psi"]]
    )

    hourly = gain[6 * 60 : 18 * 60].reshape(-1, 60).mean(axis=1)
    assert (np.diff(hourly) < 0).all()


def test_every_fault_of_the_enum_has_a_cause_and_a_test():
    elsewhere = {Fault.STUCK_AT_START, Fault.CYCLING, Fault.GAUGE_FAILURE}

    assert set(CAUSES) == set(Fault)
    assert set(TABLE) | elsewhere == set(Fault)
