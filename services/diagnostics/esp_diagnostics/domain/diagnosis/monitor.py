"""The monitor: many pumps watched at once, reading by reading."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from esp_common.contracts.readings import Int32Array, Readings

from esp_diagnostics.domain.diagnosis.findings import Assessment, FeatureRows
from esp_diagnostics.domain.diagnosis.rules import Rules
from esp_diagnostics.domain.diagnosis.spec import PumpSpec


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


class Monitor:
    """Watches many pumps: columns of state, one row a pump. Pure; time comes with the readings."""

    def __init__(self, specs: Sequence[PumpSpec], rules: Rules) -> None: ...

    def replace(self, specs: Sequence[PumpSpec], rules: Rules | None = None) -> None:
        """Take over changed nameplates, overrides or rules; the state of pumps that stay known stays.

        `specs` are all pumps to be watched from now on; state of others is dropped.
        """

    def observe(
        self,
        readings: Readings,
        fault_mask: Int32Array,
        frozen_mask: Int32Array,
        anomalies: Mapping[str, Verdict] | None = None,
    ) -> list[Assessment]:
        """Return an assessment of each pump of `readings` at its newest reading.

        Rows of any pumps in any order. Those older than a pump's newest are counted (`late`) and not used;
        those of the same instant are merged (gauge and drive may report apart). Readings of unknown pumps
        are counted (`unknown`). `anomalies`: the newest verdict on each pump, from readings before these.
        """
        raise NotImplementedError

    def features(self) -> FeatureRows:
        """Return the feature rows of the readings last observed."""
        raise NotImplementedError

    def open_findings(self, pump_id: str) -> tuple[str, ...]:
        """Return the conditions that are findings of a pump now."""
        raise NotImplementedError

    def snapshot(self, pump_ids: Iterable[str]) -> dict[str, bytes]:
        """Return the state of pumps as bytes, to `restore` from; those unknown are left out."""
        raise NotImplementedError

    def restore(self, snapshots: Mapping[str, bytes]) -> list[str]:
        """Take over states of pumps; return those whose snapshot is of another layout and was left."""
        raise NotImplementedError
