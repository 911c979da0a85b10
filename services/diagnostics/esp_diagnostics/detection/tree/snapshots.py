"""Serialize the state of one pump, and carry findings over to changed rules."""

import json
from collections.abc import Sequence
from typing import Final

import numpy as np
from esp_common.contracts.channels import CHANNEL_NAMES

from esp_diagnostics.detection.tree import evaluation
from esp_diagnostics.detection.tree.signals import FEATURES
from esp_diagnostics.detection.tree.table import Rows, Table

_MEANING: Final = {"signals": FEATURES, "channels": CHANNEL_NAMES}
_FINDING_COLUMNS: Final = ("confidence", "above_us", "below_us", "open")


def pack(table: Table, findings: Table, names: Sequence[str], row: int) -> bytes:
    """Return the state of the pump in `row`; `names`: conditions of the findings."""
    saved = {
        name: [float(findings["confidence"][row, i])]
        + [int(findings[column][row, i]) for column in _FINDING_COLUMNS[1:]]
        for i, name in enumerate(names)
    }
    head = json.dumps(saved, separators=(",", ":")).encode()
    return head + b"\n" + table.pack(row, _MEANING)


def unpack(table: Table, findings: Table, names: Sequence[str], row: int, packed: bytes) -> bool:
    """Restore the state of the pump in `row`; return False and change nothing if the layout differs."""
    head, _, body = packed.partition(b"\n")
    try:
        saved = json.loads(head)
    except ValueError:
        return False
    if not isinstance(saved, dict) or not table.unpack(row, body, _MEANING):
        return False
    for i, name in enumerate(names):
        if name in saved:
            for column, value in zip(_FINDING_COLUMNS, saved[name], strict=True):
                findings[column][row, i] = value
    return True


def carry_over(
    findings: Table, old_names: Sequence[str], names: Sequence[str], n: int, new: Rows, old: Rows
) -> Table:
    """Return the findings of n pumps under changed rules; rows `new` take rows `old`, by condition."""
    fresh = Table(evaluation.memory(len(names)), n)
    both = [(names.index(name), old_names.index(name)) for name in names if name in old_names]
    if len(new) and both:
        to, source = (np.array([pair[side] for pair in both], dtype=np.intp) for side in (0, 1))
        for column in evaluation.memory(0):
            fresh[column][np.ix_(new, to)] = findings[column][np.ix_(old, source)]
    return fresh
