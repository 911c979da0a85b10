"""Evaluate one reading of each of several pumps."""

from typing import Final

import numpy as np
from esp_common.contracts.channels import CHANNEL_COUNT
from esp_common.contracts.readings import Int32Array, Readings

from esp_diagnostics.detection.tree import baseline, indicators, latest, signals, states
from esp_diagnostics.detection.tree.assessments import HOUR_US, Step
from esp_diagnostics.detection.tree.evaluation import RuleEvaluator
from esp_diagnostics.detection.tree.findings import FeatureRows, State
from esp_diagnostics.detection.tree.learning import BaselineLearner
from esp_diagnostics.detection.tree.parameters import PumpParameters
from esp_diagnostics.detection.tree.plates import PlateColumns
from esp_diagnostics.detection.tree.signals import PLACE, Physics, WellData
from esp_diagnostics.detection.tree.table import NEVER, Rows, Table
from esp_diagnostics.physics import gas
from esp_diagnostics.physics.arrays import Bools, Floats

SLOW_S: Final = 7200.0
LONG_AGO_H: Final = 9999.0
PEERS_WITHIN_US: Final = 900_000_000
_OF_CURVE: Final = [PLACE[name] for name in ("virtual_flow", "head_residual", "power_residual")]
_OF_CURVE_NAMES: Final = (
    *("pump_rate_bpd", "virtual_rate_bpd", "virtual_sigma_bpd", "flow_residual", "head_residual"),
    *("power_residual", "fraction_of_min", "fraction_of_best", "fraction_of_max", "shut_off_share"),
    "cooling_ft_s",
)
_BITS: Final = np.arange(CHANNEL_COUNT)


class StepEvaluator:
    """Evaluate readings against state, nameplates and rules of the monitored pumps.

    `anomaly` (P,): score of the anomaly detector over its threshold.
    """

    def __init__(
        self,
        table: Table,
        findings: Table,
        plates: PlateColumns,
        parameters: PumpParameters,
        evaluator: RuleEvaluator,
        anomaly: Floats,
    ) -> None:
        self._table = table
        self._findings = findings
        self._plates = plates
        self._parameters = parameters
        self._evaluator = evaluator
        self._anomaly = anomaly
        self._learner = BaselineLearner(table, findings, plates, parameters)

    def evaluate(
        self,
        readings: Readings,
        masks: tuple[Int32Array, Int32Array, Int32Array],
        chosen: np.ndarray,
        at: Rows,
    ) -> tuple[Step, FeatureRows]:
        """Process one reading of each pump `at`; return the evaluation and the feature rows.

        `masks`: bits of the faulty, frozen and rejected channels of all readings.
        """
        table, time_us = self._table, readings.time_us[chosen]
        elapsed_s = np.clip((time_us - table["time_us"][at]) / 1e6, 0.0, baseline.MAX_STEP_S)
        carry_s = np.maximum(
            self._parameters.of("carry_min", at) * 60.0, 2.0 * np.nan_to_num(self._plates.interval_s[at])
        )
        values = readings.values[chosen]
        reported = states.turning(
            table,
            at,
            values,
            readings.running[chosen],
            readings.trip_code[chosen],
            self._plates.rated_current_a[at],
        )
        runs = np.where(reported < 0, table["running"][at] == 1, reported == 1)
        masked, frozen, refused = (_bits(mask[chosen]) for mask in masks)
        latest.forget(table, at, refused & np.isnan(values))
        still_s = self._parameters.of("gauge_still_min", at) * 60.0
        known = latest.take(table, at, time_us, values, masked, frozen, runs, carry_s, still_s)
        moved = self._advance(at, time_us, reported, known.values)
        phases = baseline.smooth_phases(self._table, at, elapsed_s, signals.phase_currents(known.values))
        pumps = self._plates.pumps.take(at)
        seen = signals.physics(pumps, self._well(at, known), known.values, phases)
        seen = self._without_unknown_curves(at, seen)
        compared, state = self._compare(at, time_us, known, seen, moved)
        shown = indicators.indicators(seen, known.values, compared, self._context(at, time_us, known, seen))
        evaluation = self._evaluator.evaluate(self._findings, at, time_us, state, shown)
        step = Step(at, time_us, known, moved, seen, shown, evaluation, compared.learnt)
        steady, regime = self._learner.learn(step, elapsed_s)
        return step, FeatureRows(readings.pump_id[chosen], chosen, time_us, seen.signals, steady, regime)

    def _advance(self, at: Rows, time_us: np.ndarray, reported: np.ndarray, values: Floats) -> Bools:
        masks = states.Masks(
            self._parameters.of("start_mask_min", at) * 60.0,
            self._parameters.of("change_mask_min", at) * 60.0,
            self._parameters.of("setpoint_step_hz", at),
            self._parameters.of("choke_step_pct", at),
            np.maximum(
                self._parameters.of("unknown_after_min", at) * 60.0,
                3.0 * np.nan_to_num(self._plates.interval_s[at]),
            ),
        )
        sagging = time_us - self._table["swing_us"][at] < PEERS_WITHIN_US
        return states.advance(self._table, at, time_us, reported, values, sagging, masks)

    def _well(self, at: Rows, known: latest.LatestValues) -> WellData:
        plates, table = self._plates, self._table
        cut = signals.channel(known.values, "water_cut_pct")
        table["water_cut"][at] = np.where(np.isnan(cut), table["water_cut"][at], cut)
        gravity = np.where(np.isnan(table["gravity"][at]), plates.gravity[at], table["gravity"][at])
        produced = gas.Produced(*(np.asarray(column)[at] for column in plates.produced))
        tested = table["water_cut"][at]
        cut = np.where(np.isnan(tested), produced.water_cut_pct, tested)
        return WellData(
            gravity,
            produced._replace(water_cut_pct=cut),
            plates.rated_current_a[at],
            plates.rated_kw[at],
            plates.rated_frequency_hz[at],
            plates.casing_bore_in[at],
            plates.motor_od_in[at],
        )

    def _without_unknown_curves(self, at: Rows, seen: Physics) -> Physics:
        """Drop results based on the placeholder curve."""
        has = self._plates.has_curve[at]
        if has.all():
            return seen
        kept = seen.signals.copy()
        kept[np.ix_(~has, np.array(_OF_CURVE))] = np.nan
        cut = {name: np.where(has, getattr(seen, name), np.nan) for name in _OF_CURVE_NAMES}
        return seen._replace(signals=kept, **cut)

    def _compare(
        self, at: Rows, time_us: np.ndarray, known: latest.LatestValues, seen: Physics, moved: Bools
    ) -> tuple[baseline.Compared, np.ndarray]:
        table = self._table
        state = table["state"][at]
        # Averages must not mix data from before and after a stop or change.
        anew = moved & ((state == State.STARTING) | (state == State.CHANGING) | (state == State.OFF))
        baseline.forget_recent(table, at[anew])
        turning = (state != State.OFF) & (state != State.UNKNOWN)
        fresh = signals.fresh_signals(known.fresh) & turning[:, None]
        baseline.smooth(
            table, at, time_us, seen.signals, fresh, self._parameters.of("smoothing_min", at) * 60.0, SLOW_S
        )
        place = baseline.slot(table, at, self._learner.regime(at), time_us)
        compared = baseline.compare(table, at, place, self._parameters.of("baseline_h", at) * 3600.0)
        return compared, state

    def _context(
        self, at: Rows, time_us: np.ndarray, known: latest.LatestValues, seen: Physics
    ) -> indicators.IndicatorInputs:
        table = self._table
        volts = PLACE["volts_per_hertz"]
        with np.errstate(invalid="ignore", divide="ignore"):
            swing = 100.0 * np.sqrt(table["unrest"][at][:, volts]) / np.abs(table["fast"][at][:, volts])
        swinging = swing > self._parameters.of("supply_swing_pct", at)
        table["swing_us"][at] = np.where(swinging, time_us, table["swing_us"][at])
        start, change = table["start_us"][at], np.maximum(table["start_us"][at], table["change_us"][at])
        return indicators.IndicatorInputs(
            starts_today=states.starts_within(table, at, time_us),
            since_start_h=_hours(time_us, start),
            since_change_h=_hours(time_us, change),
            supply_peers=self._peers(at, time_us),
            gauge_bad=known.gauge_bad.astype(np.float64),
            anomaly=self._anomaly[at],
            rated_current_a=self._plates.rated_current_a[at],
            swing_pct=swing,
            fast=table["fast"][at],
            slow=table["slow"][at],
        )

    def _peers(self, at: Rows, time_us: np.ndarray) -> Floats:
        """Return the number of other pumps of the same field with a recently swinging supply (m,)."""
        field, swing = self._plates.field, self._table["swing_us"]
        mine = field[at]
        if not (swing > NEVER).any():
            return np.where(np.bincount(field, minlength=1)[mine] > 1, 0.0, np.nan)
        lately = np.abs(swing - time_us.max()) < PEERS_WITHIN_US
        count = np.bincount(field, weights=lately, minlength=1)[mine] - lately[at]
        return np.where(np.bincount(field, minlength=1)[mine] > 1, count, np.nan)


def _bits(mask: Int32Array) -> Bools:
    return np.asarray((mask[:, None] >> _BITS) & 1, dtype=np.bool_)


def _hours(time_us: np.ndarray, since_us: np.ndarray) -> Floats:
    return np.where(since_us == NEVER, LONG_AGO_H, (time_us - since_us) / HOUR_US)
