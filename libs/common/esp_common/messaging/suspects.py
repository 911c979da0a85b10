"""Group redelivered messages so that one that kills its worker is dead-lettered alone.

Any message that came back unprocessed may have killed the worker that held it. Groups shrink with every
delivery, so each crash narrows the search, and each message is alone on the last delivery its queue grants.
"""

from collections.abc import Iterator, Sequence
from itertools import groupby
from operator import attrgetter
from typing import Final, Protocol, TypeVar

from esp_common import topology

SUSPICIOUS: Final = 2
"""Earlier deliveries from which on a redelivered message is a suspect."""

_SIZES: Final = (1, 1, 64, 512)
"""Maximum group size by the number of deliveries left after this one.

Messages requeue behind those that came back before them, so the next ones may have one delivery less left
than those at hand. A group of one on the last but one delivery keeps several from sharing their last.
"""


class _Delivered(Protocol):
    @property
    def delivery_count(self) -> int:
        """Number of earlier deliveries."""


Suspect = TypeVar("Suspect", bound=_Delivered)


def group_size(delivery_count: int) -> int:
    """Return how many messages with that many earlier deliveries may be processed together."""
    left = max(0, topology.DELIVERY_LIMIT - delivery_count)
    return _SIZES[min(left, len(_SIZES) - 1)]


def risk_limit(suspects: Sequence[_Delivered]) -> int:
    """Return how many messages the worker may hold while it holds `suspects`."""
    return min(group_size(each.delivery_count) for each in suspects)


def groups(suspects: Sequence[Suspect]) -> Iterator[Sequence[Suspect]]:
    """Yield the groups to process; those with the fewest deliveries left come first."""
    count = attrgetter("delivery_count")
    for deliveries, alike in groupby(sorted(suspects, key=count, reverse=True), key=count):
        members, size = list(alike), group_size(deliveries)
        for start in range(0, len(members), size):
            yield members[start : start + size]
