"""Messages that came back are tried in groups that shrink until each is alone."""

from dataclasses import dataclass

from esp_common import topology
from esp_common.messaging.suspects import SUSPICIOUS, group_size, groups, risk_limit
from hypothesis import given, settings
from hypothesis import strategies as st


@dataclass(frozen=True)
class Delivered:
    number: int
    delivery_count: int


def test_groups_shrink_and_the_last_delivery_is_alone() -> None:
    sizes = [group_size(count) for count in range(SUSPICIOUS, topology.DELIVERY_LIMIT + 2)]
    assert sizes == [512, 64, 1, 1, 1]


@given(st.lists(st.integers(SUSPICIOUS, topology.DELIVERY_LIMIT), max_size=200))
def test_every_suspect_is_in_one_group_no_larger_than_its_risk_allows(counts: list[int]) -> None:
    suspects = [Delivered(number, count) for number, count in enumerate(counts)]
    found = list(groups(suspects))
    assert sorted(each.number for group in found for each in group) == list(range(len(suspects)))
    assert all(len(group) <= risk_limit(group) for group in found)


@settings(deadline=None)
@given(st.integers(1, 1500), st.integers(0, 1499), st.integers(SUSPICIOUS, 4))
def test_whoever_kills_workers_is_the_only_one_to_reach_the_limit(
    count: int, place: int, deliveries: int
) -> None:
    """A model of the queue: what comes back lines up behind what came back before."""
    culprit = place % count
    queue = [Delivered(number, deliveries) for number in range(count)]
    dead: list[Delivered] = []
    while queue:
        queue, returned = _run_worker(queue, culprit)
        dead += [each for each in returned if each.delivery_count > topology.DELIVERY_LIMIT]
        queue += [each for each in returned if each.delivery_count <= topology.DELIVERY_LIMIT]
    assert [each.number for each in dead] == [culprit]


def _run_worker(queue: list[Delivered], culprit: int) -> tuple[list[Delivered], list[Delivered]]:
    """Run a worker until it ends or the culprit kills it; return what is left and what came back."""
    prefetch = 1
    while queue:
        held, queue = queue[:prefetch], queue[prefetch:]
        prefetch = risk_limit(held)
        for group in groups(held):
            if any(each.number == culprit for each in group):
                return queue, [Delivered(each.number, each.delivery_count + 1) for each in held]
            held = [each for each in held if each not in group]
    return [], []
