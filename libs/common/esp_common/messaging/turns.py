"""Select the waiting messages for the next batch: sources take turns."""

from collections.abc import Callable, Sequence
from heapq import heapify, heappop, heappush
from typing import NamedTuple

from esp_common.messaging.delivery import Delivery


class Selection(NamedTuple):
    """The messages of the next batch, and those that keep waiting, each in order of arrival."""

    taken: list[Delivery]
    left: list[Delivery]


def select(
    deliveries: Sequence[Delivery],
    max_items: int,
    weigh: Callable[[Delivery], int],
    source_of: Callable[[Delivery], str],
) -> Selection:
    """Select messages of about `max_items` items.

    Messages of one source stay in order. If not all fit, the next message is that of the source with the
    fewest items in the batch so far, the oldest on a tie: the backlog that one source sends after an outage
    does not delay the messages of the others.
    """
    weights = [weigh(delivery) for delivery in deliveries]
    if sum(weights) <= max_items:
        return Selection(list(deliveries), [])
    waiting: dict[str, list[int]] = {}
    for at in reversed(range(len(deliveries))):
        waiting.setdefault(source_of(deliveries[at]), []).append(at)
    turns = [(weights[places[-1]], places[-1], source) for source, places in waiting.items()]
    heapify(turns)
    selected: set[int] = set()
    items = 0
    while items < max_items:
        share, at, source = heappop(turns)
        selected.add(at)
        items += weights[at]
        places = waiting[source]
        places.pop()
        if places:
            heappush(turns, (share + weights[places[-1]], places[-1], source))
    return Selection(
        [delivery for at, delivery in enumerate(deliveries) if at in selected],
        [delivery for at, delivery in enumerate(deliveries) if at not in selected],
    )
