"""Messages that came back are tried in groups that shrink until each is alone."""

from dataclasses import dataclass

from esp_common import topology
from esp_ingest.domain.suspects import SUSPICIOUS, group_size, groups, risk_limit
from hypothesis import given
from hypothesis import strategies as st


@dataclass(frozen=True)
class Delivered:
    number: int
    delivery_count: int


def test_groups_shrink_and_the_last_delivery_is_alone() -> None:
    sizes = [group_size(count) for count in range(SUSPICIOUS, topology.DELIVERY_LIMIT + 2)]
    assert sizes == [512, 64, 8, 1, 1]


@given(st.lists(st.integers(SUSPICIOUS, topology.DELIVERY_LIMIT), max_size=200))
def test_every_suspect_is_in_one_group_no_larger_than_its_risk_allows(counts: list[int]) -> None:
    suspects = [Delivered(number, count) for number, count in enumerate(counts)]
    found = list(groups(suspects))
    assert sorted(each.number for group in found for each in group) == list(range(len(suspects)))
    assert all(len(group) <= risk_limit(group) for group in found)


@given(st.integers(0, 511), st.integers(2, 512))
def test_whoever_kills_workers_is_the_only_one_to_reach_the_limit(culprit: int, count: int) -> None:
    culprit %= count
    queue = [Delivered(number, SUSPICIOUS) for number in range(count)]
    dead: list[Delivered] = []
    while queue:
        limit = risk_limit(queue[:1])
        held, rest = queue[:limit], queue[limit:]
        group = next(iter(groups(held)))
        if all(each.number != culprit for each in group):
            queue = [each for each in queue if each not in group]
            continue
        returned = [Delivered(each.number, each.delivery_count + 1) for each in held]
        dead += [each for each in returned if each.delivery_count > topology.DELIVERY_LIMIT]
        queue = [each for each in returned if each.delivery_count <= topology.DELIVERY_LIMIT] + rest
    assert [each.number for each in dead] == [culprit]
