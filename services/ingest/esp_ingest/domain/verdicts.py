"""Which of n readings, and which channels of them, are refused, and why."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from esp_common.contracts.channels import MASK_BIT
from esp_common.contracts.readings import Int32Array, Int64Array

from esp_ingest.domain.columns import Mask
from esp_ingest.domain.readings import Reason

MAX_UNKNOWN_NAMES = 32
"""Unknown names of one reading that are kept one by one; the last of them is kept with all others."""

_MAX_DETAILS = 3


class Refusal(NamedTuple):
    """Why one channel is refused; `names`: the names it was sent under, None for all tags of the channel."""

    reason: Reason
    detail: str
    names: tuple[str, ...] | None = None


class Verdicts:
    """Refusals of n readings (`reasons`, by number) and of channels (`channels`, by number and name).

    The first reason given stays. `refused_mask`: bit i for channel i of `MASK_NAMES`; none for unknown names.
    """

    def __init__(self, n: int) -> None:
        self.refused: Mask = np.zeros(n, dtype=np.bool_)
        self.reasons: dict[int, tuple[Reason, str]] = {}
        self.refused_mask: Int32Array = np.zeros(n, dtype=np.int32)
        self.channels: dict[int, dict[str, Refusal]] = {}

    def refuse(self, where: Mask, reason: Reason, detail: str | Callable[[int], str]) -> None:
        """Refuse the readings of a (n,) mask whole; `detail` may depend on the number."""
        for number in np.flatnonzero(where & ~self.refused).tolist():
            self.reasons[number] = (reason, detail if isinstance(detail, str) else detail(number))
        self.refused |= where

    def refuse_channel(self, numbers: Int64Array, channel: str, refusal: Callable[[int], Refusal]) -> None:
        """Refuse a channel of readings `numbers`; `refusal` is given each one's position in `numbers`."""
        for position, number in enumerate(numbers.tolist()):
            self.channels.setdefault(number, {}).setdefault(channel, refusal(position))
        self.refused_mask[numbers] |= np.int32(1 << MASK_BIT[channel])

    def refuse_names(self, number: int, names: list[str]) -> None:
        """Refuse what reading `number` carries under names that are neither channels nor tags."""
        kept, rest = names[: MAX_UNKNOWN_NAMES - 1], names[MAX_UNKNOWN_NAMES - 1 :]
        groups = [(name,) for name in kept] + ([tuple(rest)] if rest else [])
        refused = self.channels.setdefault(number, {})
        for group in groups:
            detail = f"{group[0][:100]!r} is neither a channel nor a tag of this gateway's map"
            if len(group) > 1:
                detail += f", and neither are {len(group) - 1} other names"
            refused.setdefault(group[0], Refusal(Reason.UNKNOWN_CHANNEL, detail, group))

    def refuse_empty(self, empty: Mask) -> None:
        """Refuse readings without a channel left, for the reasons their channels were refused for."""
        for number in np.flatnonzero(empty & ~self.refused).tolist():
            refusals = list(self.channels.get(number, {}).values())
            self.reasons[number] = _combined(refusals)
        self.refused |= empty


def _combined(refusals: list[Refusal]) -> tuple[Reason, str]:
    if not refusals:
        return Reason.NO_CHANNELS, "the reading measures nothing"
    details = [refusal.detail for refusal in refusals[:_MAX_DETAILS]]
    if len(refusals) > _MAX_DETAILS:
        details.append(f"and {len(refusals) - _MAX_DETAILS} more")
    return refusals[0].reason, "; ".join(details)
