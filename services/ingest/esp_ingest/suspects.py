"""Messages that came back unprocessed: any of them may be what killed the worker that had it.

They are tried in groups that shrink with every delivery, so that a crash narrows the search for the culprit
down, and each message is alone on the last delivery that its queue grants: only the culprit is dead-lettered.
"""

from collections.abc import Iterator, Sequence
from itertools import groupby
from operator import attrgetter
from typing import Final, Protocol, TypeVar

from esp_common import topology

SUSPICIOUS: Final = 2
"""Deliveries before this one from which on a message is a suspect."""

_SIZES: Final = (1, 1, 64, 512)
"""Largest group by how many deliveries are left after this one.

Messages come back behind those that came back before, so the next ones may have one delivery less left than
those at hand: on the last but one a message is alone too, lest several are held for their last.
"""


class _Delivered(Protocol):
    @property
    def delivery_count(self) -> int:
        """How often it came back before."""


Suspect = TypeVar("Suspect", bound=_Delivered)


def group_size(delivery_count: int) -> int:
    """Return how many messages of that many earlier deliveries may be at risk together."""
    left = max(0, topology.DELIVERY_LIMIT - delivery_count)
    return _SIZES[min(left, len(_SIZES) - 1)]


def risk_limit(suspects: Sequence[_Delivered]) -> int:
    """Return how many messages the worker may hold while it has these."""
    return min(group_size(each.delivery_count) for each in suspects)


def groups(suspects: Sequence[Suspect]) -> Iterator[Sequence[Suspect]]:
    """Yield what is to be tried together; first what has the fewest deliveries left to lose in a crash."""
    count = attrgetter("delivery_count")
    for deliveries, alike in groupby(sorted(suspects, key=count, reverse=True), key=count):
        members, size = list(alike), group_size(deliveries)
        for start in range(0, len(members), size):
            yield members[start : start + size]
