"""Values of the rules' parameters for many pumps."""

from collections.abc import Mapping, Sequence

import numpy as np

from esp_diagnostics.detection.tree.rules import Rules
from esp_diagnostics.detection.tree.table import Rows
from esp_diagnostics.physics.arrays import Floats


class PumpParameters:
    """Parameters as a matrix (P, parameters) in the order of the rules."""

    def __init__(self, rules: Rules, overrides: Sequence[Mapping[str, float]]) -> None:
        self.matrix = parameters_of(rules, overrides)
        self._columns = {name: self.matrix[:, i] for i, name in enumerate(rules.parameters)}

    def of(self, name: str, at: Rows) -> Floats:
        """Return a parameter of the pumps `at`."""
        return np.asarray(self._columns[name][at])


def parameters_of(rules: Rules, overrides: Sequence[Mapping[str, float]]) -> Floats:
    """Return (P, parameters): defaults, replaced by each pump's overrides within their bounds."""
    table = np.tile([p.default for p in rules.parameters.values()], (len(overrides), 1))
    place = {name: column for column, name in enumerate(rules.parameters)}
    for row, own in enumerate(overrides):
        for name, value in own.items():
            if name in place:
                known = rules.parameters[name]
                table[row, place[name]] = min(max(value, known.low), known.high)
    return np.asarray(table, dtype=np.float64)
