"""The monitor: many pumps watched at once, reading by reading."""

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple, Protocol

import numpy as np
from esp_common.contracts.channels import CHANNEL_COUNT, CHANNEL_INDEX, CHANNEL_NAMES
from esp_common.contracts.readings import TRIP_CODE_ABSENT, Int32Array, Readings

from esp_diagnostics.detection.tree import baseline, indicators, judgement, latest, signals, states
from esp_diagnostics.detection.tree.assessments import HOUR_US, News, Step, Teller
from esp_diagnostics.detection.tree.findings import Assessment, FeatureRows, State, Transition
from esp_diagnostics.detection.tree.judgement import Judge, Judged, parameters_of
from esp_diagnostics.detection.tree.rules import Rules
from esp_diagnostics.detection.tree.signals import FEATURES, PLACE, Physics, Well
from esp_diagnostics.detection.tree.spec import PumpSpec
from esp_diagnostics.detection.tree.table import NEVER, Column, Rows, Table
from esp_diagnostics.physics import gas
from esp_diagnostics.physics.arrays import Bools, Floats
from esp_diagnostics.physics.curve import Polynomial, PumpCurve
from esp_diagnostics.physics.pumps import Installed, Pumps, stack

SUSPICIOUS_FROM: Final = 0.35
"""A hypothesis that likely keeps the baseline from following."""

STEADY_AFTER_H: Final = 2.0
PEERS_WITHIN_US: Final = 900_000_000
SLOW_S: Final = 7200.0
LONG_AGO_H: Final = 9999.0

NOTHING: Final = Installed(PumpCurve("unknown", Polynomial((1.0, -1.0)), 0.1, 0.5), 1)
"""Stands in for a pump whose curve is not known; what comes of it is dropped."""

MEMORY: Final[dict[str, Column]] = {
    **latest.MEMORY,
    **states.MEMORY,
    **baseline.MEMORY,
    "swing_us": Column("i8", NEVER),
    "water_cut": Column("f8", np.nan),
}


class Verdict(Protocol):
    """What the tree takes from a detector's verdict on a pump."""

    @property
    def alarmed(self) -> bool:
        """Whether the pump departs from its own healthy past."""

    @property
    def score(self) -> float:
        """How far."""

    @property
    def threshold(self) -> float:
        """The score from which on it counts."""


class _Plates(NamedTuple):
    """Nameplates as columns (P,), NaN where unknown."""

    pumps: Pumps
    has_curve: Bools
    rated_current_a: Floats
    rated_kw: Floats
    rated_frequency_hz: Floats
    interval_s: Floats
    casing_bore_in: Floats
    motor_od_in: Floats
    gravity: Floats
    produced: gas.Produced
    field: np.ndarray


class Monitor:
    """Watches many pumps: columns of state, one row a pump. Pure; time comes with the readings.

    `late` and `unknown` count readings left out since the monitor began: older than the pump's newest, and
    of pumps it was not told of.
    """

    def __init__(self, specs: Sequence[PumpSpec], rules: Rules) -> None:
        self.rules = rules
        self.late = 0
        self.unknown = 0
        self._specs: tuple[PumpSpec, ...] = ()
        self._rows: dict[str, int] = {}
        self._table = Table(MEMORY, 0)
        self._findings = Table(judgement.memory(len(rules.conditions)), 0)
        self._anomaly = np.zeros(0)
        self._seen: list[FeatureRows] = []
        self.replace(specs, rules)

    def replace(self, specs: Sequence[PumpSpec], rules: Rules | None = None) -> None:
        """Take over changed nameplates, overrides or rules; the state of pumps that stay known stays.

        `specs` are all pumps to be watched from now on; state of others is dropped.
        """
        before, old_names = self._rows, tuple(self.rules.conditions)
        self.rules = rules or self.rules
        self._specs = tuple(specs)
        self._rows = {spec.pump_id: row for row, spec in enumerate(self._specs)}
        kept = [(row, before[name]) for name, row in self._rows.items() if name in before]
        new, old = (np.array([pair[side] for pair in kept], dtype=np.intp) for side in (0, 1))
        n = len(self._specs)
        anomaly = np.full(n, np.nan)
        anomaly[new] = self._anomaly[old]
        self._anomaly = anomaly
        self._table = self._table.moved(MEMORY, n, new, old)
        self._findings = self._carried(old_names, n, new, old)
        parameters = parameters_of(self.rules, [spec.overrides for spec in self._specs])
        self._parameter = {name: parameters[:, i] for i, name in enumerate(self.rules.parameters)}
        self._judge = Judge(self.rules, parameters)
        self._plates = plates(self._specs)
        self._seen = []

    def observe(
        self,
        readings: Readings,
        fault_mask: Int32Array,
        frozen_mask: Int32Array,
        anomalies: Mapping[str, Verdict] | None = None,
        refused_mask: Int32Array | None = None,
        assessed: Collection[str] | None = None,
    ) -> list[Assessment]:
        """Return an assessment of each pump of `readings` at its newest reading.

        Rows of any pumps in any order. Those older than a pump's newest are counted (`late`) and not used;
        those of the same instant are merged (gauge and drive may report apart). Readings of unknown pumps
        are counted (`unknown`). `anomalies`: the newest verdict on each pump, from readings before these.
        `refused_mask`: channels of which ingest took no value, so that what they said before stands no more.
        `assessed`: pumps to assess, None for all. Every pump's state moves on; of the others only those are
        assessed that have an open finding, or a finding or state that changed.
        """
        refused = np.zeros_like(fault_mask) if refused_mask is None else refused_mask
        self._note_anomalies(anomalies or {})
        self._seen = []
        newest: dict[int, tuple[int, int]] = {}
        news: dict[int, dict[int, bool]] = {}
        moves: dict[int, list[Transition]] = {}
        steps: list[Step] = []
        for chosen, at in self._rounds(readings):
            step = self._step(readings, (fault_mask, frozen_mask, refused), chosen, at)
            newest.update({row: (len(steps), place) for place, row in enumerate(at.tolist())})
            self._note_moves(step, moves)
            _note_news(step, news)
            steps.append(step)
        if assessed is not None:
            newest = self._changed(newest, {*moves, *(row for row in news if news[row])}, assessed)
        tellers = {
            number: Teller(self._judge, self._table, self._findings, steps[number])
            for number in {number for number, _ in newest.values()}
        }
        return [
            tellers[number].tell(self._specs[row], place, News(news.get(row, {}), tuple(moves.get(row, ()))))
            for row, (number, place) in newest.items()
        ]

    def _changed(
        self, newest: Mapping[int, tuple[int, int]], changed: Collection[int], assessed: Collection[str]
    ) -> dict[int, tuple[int, int]]:
        """Return those of the rows that are in `changed`, that are to be assessed, or that have findings."""
        suffering = np.any(self._findings["open"], axis=1)
        return {
            row: place
            for row, place in newest.items()
            if row in changed or suffering[row] or self._specs[row].pump_id in assessed
        }

    def newest_us(self, pump_id: str) -> int:
        """Return the time of a pump's newest reading that was observed; NEVER before the first."""
        return int(self._table["time_us"][self._rows[pump_id]])

    def state(self, pump_id: str) -> str:
        """Return what a pump does now."""
        return State(int(self._table["state"][self._rows[pump_id]])).label

    def features(self) -> FeatureRows:
        """Return the feature rows of the readings last observed."""
        if not self._seen:
            return _NO_FEATURES
        return FeatureRows(
            *(np.concatenate([getattr(rows, name) for rows in self._seen]) for name in _FEATURE_COLUMNS)
        )

    def open_findings(self, pump_id: str) -> tuple[str, ...]:
        """Return the conditions that are findings of a pump now."""
        row = self._rows[pump_id]
        return tuple(self._judge.names[i] for i in np.flatnonzero(self._findings["open"][row]))

    def snapshot(self, pump_ids: Iterable[str]) -> dict[str, bytes]:
        """Return the state of pumps as bytes, to `restore` from; those unknown are left out."""
        return {name: self._packed(self._rows[name]) for name in pump_ids if name in self._rows}

    def restore(self, snapshots: Mapping[str, bytes]) -> list[str]:
        """Take over states of pumps; return those whose snapshot is of another layout and was left."""
        known = {name: packed for name, packed in snapshots.items() if name in self._rows}
        return [name for name, packed in known.items() if not self._unpacked(self._rows[name], packed)]

    def _rounds(self, readings: Readings) -> Iterator[tuple[np.ndarray, Rows]]:
        """Yield rows of the batch and the pumps they are of: the first reading of each, the second, ..."""
        rows = np.array([self._rows.get(pump_id, -1) for pump_id in readings.pump_id], dtype=np.intp)
        known = np.flatnonzero(rows >= 0)
        self.unknown += len(rows) - len(known)
        fresh = known[readings.time_us[known] >= self._table["time_us"][rows[known]]]
        self.late += len(known) - len(fresh)
        order = fresh[np.lexsort((readings.time_us[fresh], rows[fresh]))]
        pump = rows[order]
        first = np.flatnonzero(np.diff(pump, prepend=-1))
        turn = np.arange(len(pump)) - np.repeat(first, np.diff(first, append=len(pump)))
        for number in range(int(turn.max(initial=-1)) + 1):
            chosen = order[turn == number]
            yield chosen, rows[chosen]

    def _step(
        self,
        readings: Readings,
        masks: tuple[Int32Array, Int32Array, Int32Array],
        chosen: np.ndarray,
        at: Rows,
    ) -> Step:
        """Take in one reading of each pump `at` and judge what is then known.

        `masks`: bits of the faulty, frozen and refused channels of all readings.
        """
        table, time_us = self._table, readings.time_us[chosen]
        elapsed_s = np.clip((time_us - table["time_us"][at]) / 1e6, 0.0, baseline.LONGEST_STEP_S)
        carry_s = np.maximum(
            self._of("carry_min", at) * 60.0, 2.0 * np.nan_to_num(self._plates.interval_s[at])
        )
        values = readings.values[chosen]
        said = states.turning(
            table,
            at,
            values,
            readings.running[chosen],
            readings.trip_code[chosen],
            self._plates.rated_current_a[at],
        )
        runs = np.where(said < 0, table["running"][at] == 1, said == 1)
        masked, frozen, refused = (_bits(mask[chosen]) for mask in masks)
        latest.forget(table, at, refused & np.isnan(values))
        still_s = self._of("gauge_still_min", at) * 60.0
        known = latest.take(table, at, time_us, values, masked, frozen, runs, carry_s, still_s)
        moved = self._advance(at, time_us, said, known.values)
        phases = baseline.smooth_phases(self._table, at, elapsed_s, signals.phase_currents(known.values))
        pumps = self._plates.pumps.take(at)
        seen = signals.physics(pumps, self._well(at, known), known.values, phases)
        seen = self._without_unknown_curves(at, seen)
        compared, state = self._compare(at, time_us, known, seen, moved)
        shown = indicators.indicators(seen, known.values, compared, self._context(at, time_us, known, seen))
        judged = self._judge.judge(self._findings, at, time_us, state, shown)
        self._learn(at, time_us, elapsed_s, known, seen, shown, judged, compared.learnt, readings, chosen)
        return Step(at, time_us, known, moved, seen, shown, judged, compared.learnt)

    def _advance(self, at: Rows, time_us: np.ndarray, said: np.ndarray, values: Floats) -> Bools:
        masks = states.Masks(
            self._of("start_mask_min", at) * 60.0,
            self._of("change_mask_min", at) * 60.0,
            self._of("setpoint_step_hz", at),
            self._of("choke_step_pct", at),
            np.maximum(
                self._of("unknown_after_min", at) * 60.0, 3.0 * np.nan_to_num(self._plates.interval_s[at])
            ),
        )
        sagging = time_us - self._table["swing_us"][at] < PEERS_WITHIN_US
        return states.advance(self._table, at, time_us, said, values, sagging, masks)

    def _well(self, at: Rows, known: latest.Known) -> Well:
        plates, table = self._plates, self._table
        cut = signals.channel(known.values, "water_cut_pct")
        table["water_cut"][at] = np.where(np.isnan(cut), table["water_cut"][at], cut)
        gravity = np.where(np.isnan(table["gravity"][at]), plates.gravity[at], table["gravity"][at])
        produced = gas.Produced(*(np.asarray(column)[at] for column in plates.produced))
        tested = table["water_cut"][at]
        cut = np.where(np.isnan(tested), produced.water_cut_pct, tested)
        return Well(
            gravity,
            produced._replace(water_cut_pct=cut),
            plates.rated_current_a[at],
            plates.rated_kw[at],
            plates.rated_frequency_hz[at],
            plates.casing_bore_in[at],
            plates.motor_od_in[at],
        )

    def _without_unknown_curves(self, at: Rows, seen: Physics) -> Physics:
        """Drop what came of the curve that stands in for one that is not known."""
        has = self._plates.has_curve[at]
        if has.all():
            return seen
        kept = seen.signals.copy()
        kept[np.ix_(~has, np.array(_OF_CURVE))] = np.nan
        cut = {name: np.where(has, getattr(seen, name), np.nan) for name in _OF_CURVE_NAMES}
        return seen._replace(signals=kept, **cut)

    def _compare(
        self, at: Rows, time_us: np.ndarray, known: latest.Known, seen: Physics, moved: Bools
    ) -> tuple[baseline.Compared, np.ndarray]:
        table = self._table
        state = table["state"][at]
        # An average must not mix what was before a stop or a change with what is after it.
        anew = moved & ((state == State.STARTING) | (state == State.CHANGING) | (state == State.OFF))
        baseline.forget_recent(table, at[anew])
        turning = (state != State.OFF) & (state != State.UNKNOWN)
        fresh = signals.fresh_signals(known.fresh) & turning[:, None]
        baseline.smooth(table, at, time_us, seen.signals, fresh, self._of("smoothing_min", at) * 60.0, SLOW_S)
        place = self._regime(at, time_us)
        compared = baseline.compare(table, at, place, self._of("baseline_h", at) * 3600.0)
        return compared, state

    def _regime(self, at: Rows, time_us: np.ndarray) -> np.ndarray:
        """Return where each pump's regime is kept: that of its settings, which no sagging supply moves."""
        number = self._regime_number(at)
        return baseline.slot(self._table, at, number, time_us)

    def _regime_number(self, at: Rows) -> np.ndarray:
        return baseline.regime(
            self._table["frequency_ref"][at],
            self._table["choke_ref"][at],
            self._of("regime_hz", at),
            self._of("regime_choke_pct", at),
        )

    def _context(
        self, at: Rows, time_us: np.ndarray, known: latest.Known, seen: Physics
    ) -> indicators.Context:
        table = self._table
        volts = PLACE["volts_per_hertz"]
        with np.errstate(invalid="ignore", divide="ignore"):
            swing = 100.0 * np.sqrt(table["unrest"][at][:, volts]) / np.abs(table["fast"][at][:, volts])
        swinging = swing > self._of("supply_swing_pct", at)
        table["swing_us"][at] = np.where(swinging, time_us, table["swing_us"][at])
        start, change = table["start_us"][at], np.maximum(table["start_us"][at], table["change_us"][at])
        return indicators.Context(
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
        """Return how many other pumps of the same field have had a swinging supply lately (m,)."""
        field, swing = self._plates.field, self._table["swing_us"]
        mine = field[at]
        if not (swing > NEVER).any():
            return np.where(np.bincount(field, minlength=1)[mine] > 1, 0.0, np.nan)
        lately = np.abs(swing - time_us.max()) < PEERS_WITHIN_US
        count = np.bincount(field, weights=lately, minlength=1)[mine] - lately[at]
        return np.where(np.bincount(field, minlength=1)[mine] > 1, count, np.nan)

    def _learn(
        self,
        at: Rows,
        time_us: np.ndarray,
        elapsed_s: Floats,
        known: latest.Known,
        seen: Physics,
        shown: Floats,
        judged: Judged,
        learnt: Floats,
        readings: Readings,
        chosen: np.ndarray,
    ) -> None:
        """Let steady and unsuspicious pumps into their baselines; keep the feature rows."""
        table = self._table
        since = shown[:, indicators.COLUMN["since_change"]]
        steady = (table["state"][at] == State.RUNNING) & (since > STEADY_AFTER_H) & ~known.gauge_bad
        regime = self._regime_number(at)
        steady &= regime >= 0
        suspected = (judged.confidence >= SUSPICIOUS_FROM).any(axis=1)
        suspected |= self._findings["open"][at].any(axis=1)
        swinging = shown[:, indicators.COLUMN["voltage_swing"]] > self._of("supply_swing_pct", at)
        # A new band is learnt whatever is suspected, or what was found in another would stay for ever.
        calm = steady & ~swinging & (~suspected | (learnt < 1.0))
        rows = at[calm]
        fresh = signals.fresh_signals(known.fresh)
        if len(rows):
            self._weigh(rows, known.values[calm], known.fresh[calm])
            baseline.learn(
                table,
                rows,
                baseline.slot(table, rows, regime[calm], time_us[calm]),
                seen.signals[calm],
                fresh[calm],
                elapsed_s[calm],
                self._of("baseline_h", rows) * 3600.0,
                self._of("baseline_adapt_days", rows) * 86_400.0,
            )
        ids = readings.pump_id[chosen]
        self._seen.append(FeatureRows(ids, chosen, time_us, seen.signals, steady, regime))

    def _weigh(self, rows: Rows, values: Floats, fresh: Bools) -> None:
        """Let the first measured rates say what gravity explains the pressure gain."""
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

    def _of(self, name: str, at: Rows) -> Floats:
        return np.asarray(self._parameter[name][at])

    def _note_anomalies(self, anomalies: Mapping[str, Verdict]) -> None:
        for pump_id, verdict in anomalies.items():
            if pump_id in self._rows:
                ratio = verdict.score / verdict.threshold if verdict.threshold > 0 else 0.0
                self._anomaly[self._rows[pump_id]] = max(ratio, 1.0) if verdict.alarmed else min(ratio, 0.99)

    def _note_moves(self, step: Step, moves: dict[int, list[Transition]]) -> None:
        for place in np.flatnonzero(step.moved).tolist():
            row = int(step.at[place])
            code = int(self._table["trip_code"][row])
            state = State(int(self._table["state"][row])).label
            told = None if code == TRIP_CODE_ABSENT else code
            moves.setdefault(row, []).append(Transition(int(step.time_us[place]), state, told))

    def _carried(self, old_names: tuple[str, ...], n: int, new: Rows, old: Rows) -> Table:
        """Return the findings' table for the present rules, conditions that stay taken along."""
        names = tuple(self.rules.conditions)
        fresh = Table(judgement.memory(len(names)), n)
        both = [(names.index(name), old_names.index(name)) for name in names if name in old_names]
        if len(new) and both:
            to, source = (np.array([pair[side] for pair in both], dtype=np.intp) for side in (0, 1))
            for column in judgement.memory(0):
                fresh[column][np.ix_(new, to)] = self._findings[column][np.ix_(old, source)]
        return fresh

    def _packed(self, row: int) -> bytes:
        findings = {
            name: [float(self._findings["confidence"][row, i])]
            + [int(self._findings[column][row, i]) for column in _MATURING[1:]]
            for i, name in enumerate(self._judge.names)
        }
        head = json.dumps(findings, separators=(",", ":")).encode()
        return head + b"\n" + self._table.pack(row, _MEANING)

    def _unpacked(self, row: int, packed: bytes) -> bool:
        head, _, body = packed.partition(b"\n")
        try:
            findings = json.loads(head)
        except ValueError:
            return False
        if not isinstance(findings, dict) or not self._table.unpack(row, body, _MEANING):
            return False
        for i, name in enumerate(self._judge.names):
            if name in findings:
                for column, value in zip(_MATURING, findings[name], strict=True):
                    self._findings[column][row, i] = value
        return True


GRAVITY_SAMPLES: Final = 200.0

_MEANING: Final = {"signals": FEATURES, "channels": CHANNEL_NAMES}
_OF_CURVE: Final = [PLACE[name] for name in ("virtual_flow", "head_residual", "power_residual")]
_OF_CURVE_NAMES: Final = (
    *("pump_rate_bpd", "virtual_rate_bpd", "virtual_sigma_bpd", "flow_residual", "head_residual"),
    *("power_residual", "fraction_of_min", "fraction_of_best", "fraction_of_max", "shut_off_share"),
    "cooling_ft_s",
)
_MATURING: Final = ("confidence", "above_us", "below_us", "open")
_BITS: Final = np.arange(CHANNEL_COUNT)
_FEATURE_COLUMNS: Final = ("pump_ids", "reading", "times_us", "matrix", "steady", "regime")
_NO_FEATURES: Final = FeatureRows(
    np.zeros(0, dtype=object),
    np.zeros(0, dtype=np.intp),
    np.zeros(0, dtype=np.int64),
    np.zeros((0, len(FEATURES))),
    np.zeros(0, dtype=np.bool_),
    np.zeros(0, dtype=np.int64),
)


def plates(specs: Sequence[PumpSpec]) -> _Plates:
    """Return nameplates as columns."""

    def number(name: str, otherwise: float = np.nan) -> Floats:
        return np.array([_number(spec, name, otherwise) for spec in specs], dtype=np.float64)

    fields = {name: i for i, name in enumerate(sorted({spec.field_id or "" for spec in specs}))}
    return _Plates(
        pumps=stack([spec.installed or NOTHING for spec in specs] or [NOTHING]),
        has_curve=np.array([spec.installed is not None for spec in specs], dtype=np.bool_),
        rated_current_a=number("motor_rated_current_a"),
        rated_kw=number("motor_rated_kw"),
        rated_frequency_hz=number("motor_rated_frequency_hz", 60.0),
        interval_s=number("expected_interval_s"),
        casing_bore_in=number("casing_bore_in"),
        motor_od_in=number("motor_od_in"),
        gravity=number("mixture_gravity", TYPICAL_GRAVITY),
        produced=gas.Produced(
            number("water_cut_pct"),
            number("oil_api"),
            number("gas_oil_ratio_scf_stb"),
            number("gas_gravity", 0.75),
            number("water_gravity", 1.05),
            number("separator_efficiency", 0.0),
        ),
        field=np.array([fields[spec.field_id or ""] for spec in specs], dtype=np.intp),
    )


TYPICAL_GRAVITY: Final = 0.92
"""Of what is in the pump, until a measured rate tells."""


def _number(spec: PumpSpec, name: str, otherwise: float) -> float:
    value = getattr(spec, name) if hasattr(spec, name) else spec.extras.get(name)
    return float(value) if isinstance(value, int | float) else otherwise


def _bits(mask: Int32Array) -> Bools:
    return np.asarray((mask[:, None] >> _BITS) & 1, dtype=np.bool_)


def _hours(time_us: np.ndarray, since_us: np.ndarray) -> Floats:
    return np.where(since_us == NEVER, LONG_AGO_H, (time_us - since_us) / HOUR_US)


def _note_news(step: Step, news: dict[int, dict[int, bool]]) -> None:
    """Gather what was raised and cleared; raised and cleared within one batch is as if it had not been."""
    for place, condition in zip(*np.nonzero(step.judged.raised | step.judged.cleared), strict=True):
        mine = news.setdefault(int(step.at[place]), {})
        is_raised = bool(step.judged.raised[place, condition])
        if mine.pop(int(condition), is_raised) == is_raised:
            mine[int(condition)] = is_raised
