"""Sources share the batches: the backlog of one does not delay the messages of another."""

from dataclasses import dataclass

from esp_common.messaging import turns
from hypothesis import given
from hypothesis import strategies as st


@dataclass(frozen=True)
class Delivered:
    number: int
    gateway_id: str
    readings: int


def select(waiting: list[Delivered], max_items: int) -> turns.Selection:
    return turns.select(waiting, max_items, lambda each: each.readings, lambda each: each.gateway_id)


def deliveries(*of: tuple[str, int]) -> list[Delivered]:
    return [Delivered(number, gateway_id, readings) for number, (gateway_id, readings) in enumerate(of)]


def test_live_readings_do_not_wait_for_the_backlogs_of_other_gateways():
    backlogs = [(f"gw-{number}", 1000) for number in range(20) for _ in range(10)]
    waiting = deliveries(*backlogs, ("gw-live", 10), ("gw-live", 10))
    taken, left = select(waiting, 5000)
    assert [each for each in waiting if each.gateway_id == "gw-live"] == taken[-2:]
    assert len(taken) + len(left) == len(waiting)


def test_backlogs_share_what_is_left_of_the_flushes():
    left = deliveries(*[(f"gw-{number % 4}", 1000) for number in range(40)])
    for _ in range(2):
        taken, left = select(left, 4000)
        assert sorted(each.gateway_id for each in taken) == ["gw-0", "gw-1", "gw-2", "gw-3"]


def test_one_gateway_alone_is_taken_in_the_order_of_arrival():
    waiting = deliveries(*[("gw-1", size) for size in (900, 1, 800, 2, 700)])
    taken, left = select(waiting, 1000)
    assert [each.number for each in (*taken, *left)] == [0, 1, 2, 3, 4]
    assert len(taken) == 3


FEW = st.tuples(st.sampled_from(["gw-1", "gw-2", "gw-3"]), st.integers(1, 50))


@given(st.lists(FEW, max_size=40), st.integers(1, 200))
def test_flushes_hold_every_message_once_and_keep_each_gateways_order(of, readings):
    left = deliveries(*of)
    flushes = []
    while left:
        taken, left = select(left, readings)
        assert taken
        assert sum(each.readings for each in taken[:-1]) < readings + 50
        flushes.append(taken)
    for gateway_id in ("gw-1", "gw-2", "gw-3"):
        numbers = [each.number for taken in flushes for each in taken if each.gateway_id == gateway_id]
        assert numbers == [number for number, (gateway, _) in enumerate(of) if gateway == gateway_id]
