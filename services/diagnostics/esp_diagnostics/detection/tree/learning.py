"""Learn baselines of pumps from steady running without suspected conditions."""

from typing import Final

import numpy as np
from esp_common.contracts.channels import CHANNEL_INDEX

from esp_diagnostics.detection.tree import baseline, indicators, signals
from esp_diagnostics.detection.tree.assessments import Step
from esp_diagnostics.detection.tree.findings import State
from esp_diagnostics.detection.tree.parameters import PumpParameters
from esp_diagnostics.detection.tree.plates import PlateColumns
from esp_diagnostics.detection.tree.table import Rows, Table
from esp_diagnostics.physics.arrays import Bools, Floats

SUSPICIOUS_FROM: Final = 0.35
"""Minimum confidence of a hypothesis that stops the baseline from following."""

STEADY_AFTER_H: Final = 2.0
GRAVITY_SAMPLES: Final = 200.0


class BaselineLearner:
    """Add readings to the baseline of each pump's regime: its band of frequency and choke setpoints."""

    def __init__(
        self, table: Table, findings: Table, plates: PlateColumns, parameters: PumpParameters
    ) -> None:
        self._table = table
        self._findings = findings
        self._plates = plates
        self._parameters = parameters

    def regime(self, at: Rows) -> np.ndarray:
        """Return the regime of each pump (m,); setpoints define it, so supply sags do not change it."""
        return baseline.regime(
            self._table["frequency_ref"][at],
            self._table["choke_ref"][at],
            self._parameters.of("regime_hz", at),
            self._parameters.of("regime_choke_pct", at),
        )

    def learn(self, step: Step, elapsed_s: Floats) -> tuple[Bools, np.ndarray]:
        """Add steady, unsuspicious pumps to their baselines; return steadiness and regimes (m,)."""
        at, table = step.at, self._table
        since = step.indicators[:, indicators.COLUMN["since_change"]]
        regime = self.regime(at)
        steady = (table["state"][at] == State.RUNNING) & (since > STEADY_AFTER_H) & ~step.known.gauge_bad
        steady &= regime >= 0
        suspected = (step.evaluation.confidence >= SUSPICIOUS_FROM).any(axis=1)
        suspected |= self._findings["open"][at].any(axis=1)
        swing = step.indicators[:, indicators.COLUMN["voltage_swing"]]
        swinging = swing > self._parameters.of("supply_swing_pct", at)
        # A new band is learnt in any case; otherwise findings of another band would block it forever.
        calm = steady & ~swinging & (~suspected | (step.learnt < 1.0))
        rows = at[calm]
        if len(rows):
            self._estimate_gravity(rows, step.known.values[calm], step.known.fresh[calm])
            baseline.learn(
                table,
                rows,
                baseline.slot(table, rows, regime[calm], step.time_us[calm]),
                step.physics.signals[calm],
                signals.fresh_signals(step.known.fresh)[calm],
                elapsed_s[calm],
                self._parameters.of("baseline_h", rows) * 3600.0,
                self._parameters.of("baseline_adapt_days", rows) * 86_400.0,
            )
        return steady, regime

    def _estimate_gravity(self, rows: Rows, values: Floats, fresh: Bools) -> None:
        """Estimate the specific gravity that explains the pressure gain at the first measured rates."""
        table = self._table
        new = fresh[:, CHANNEL_INDEX["flow_rate_bpd"]] & (table["gravity_count"][rows] < GRAVITY_SAMPLES)
        if not new.any():
            return
        rows = rows[new]
        gravity = signals.gravity_seen(self._plates.pumps.take(rows), values[new])
        good = ~np.isnan(gravity) & self._plates.has_curve[rows]
        rows, gravity = rows[good], gravity[good]
        count = table["gravity_count"][rows] + 1.0
        before = np.where(np.isnan(table["gravity"][rows]), gravity, table["gravity"][rows])
        table["gravity"][rows] = before + (gravity - before) / count
        table["gravity_count"][rows] = count
