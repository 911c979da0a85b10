"""Which waiting messages the next flush takes: gateways take turns."""

from collections.abc import Sequence
from heapq import heapify, heappop, heappush
from typing import Final, NamedTuple

from esp_common.messaging import Delivery

from esp_ingest.domain.decode import ARROW_TYPE

_ARROW_BYTES: Final = 200
_JSON_BYTES: Final = 650
"""Approximate size of a reading of all channels."""


class Selection(NamedTuple):
    """The messages of the next flush, and those that wait on, each in order of arrival."""

    taken: list[Delivery]
    left: list[Delivery]


def about(delivery: Delivery) -> int:
    """Return about how many readings a message holds, without decoding it."""
    return 1 + len(delivery.body) // (_ARROW_BYTES if delivery.content_type == ARROW_TYPE else _JSON_BYTES)


def gateway_of(routing_key: str) -> str:
    """Return the gateway that published under `telemetry.<gateway_id>[.<pump_id>]`.

    MQTT topics come with slashes turned to dots, so this holds for them too.
    """
    parts = routing_key.split(".", 2)
    return parts[1] if len(parts) > 1 else ""


def select(deliveries: Sequence[Delivery], readings: int) -> Selection:
    """Select messages of about `readings` readings.

    Messages of one gateway stay in order. Where not all fit, the next message is that of the gateway that
    then has the fewest readings in the flush, the oldest of several: the readings that one gateway sends
    after an outage do not delay the live ones of the others.
    """
    sizes = [about(delivery) for delivery in deliveries]
    if sum(sizes) <= readings:
        return Selection(list(deliveries), [])
    waiting: dict[str, list[int]] = {}
    for at in reversed(range(len(deliveries))):
        waiting.setdefault(gateway_of(deliveries[at].routing_key), []).append(at)
    turns = [(sizes[places[-1]], places[-1], gateway) for gateway, places in waiting.items()]
    heapify(turns)
    selected: set[int] = set()
    total = 0
    while total < readings:
        share, at, gateway = heappop(turns)
        selected.add(at)
        total += sizes[at]
        places = waiting[gateway]
        places.pop()
        if places:
            heappush(turns, (share + sizes[places[-1]], places[-1], gateway))
    return Selection(
        [delivery for at, delivery in enumerate(deliveries) if at in selected],
        [delivery for at, delivery in enumerate(deliveries) if at not in selected],
    )
