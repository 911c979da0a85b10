"""Pumps are divided into partitions, and numbers of earlier versions still name their pumps."""

from zlib import crc32

import pytest
from esp_common import topology
from esp_diagnostics.monitoring.partitions import fair_share
from hypothesis import given
from hypothesis import strategies as st


@given(st.text())
def test_number_of_eight_partitions_stands_for_the_partition_of_each_of_its_pumps(pump_id: str) -> None:
    older = crc32(pump_id.encode()) % 8
    assert topology.partition(pump_id) in topology.partitions_of(older)


def test_older_numbers_divide_all_partitions_and_present_ones_stand_for_themselves() -> None:
    present = range(64, 128)
    assert sorted(n for older in range(8) for n in topology.partitions_of(older)) == list(present)
    assert all(topology.partitions_of(number) == {number} for number in present)


@pytest.mark.parametrize("number", [-1, 8, 63, 128])
def test_number_that_was_never_a_partition_is_refused(number: int) -> None:
    with pytest.raises(ValueError, match=f"not a partition: {number}"):
        topology.partitions_of(number)


@given(st.sets(st.text(min_size=1), min_size=1, max_size=20), st.integers(8, 64))
def test_workers_share_all_lanes_evenly_and_none_twice(workers: set[str], lanes: int) -> None:
    shares = [fair_share(workers, worker, lanes) for worker in workers]
    assert sorted(lane for share in shares for lane in share) == list(range(lanes))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
