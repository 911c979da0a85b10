"""Acknowledgements: every message settled once, as soon as it can be, whatever the order of completion."""

from esp_common.messaging import AckTracker
from hypothesis import given
from hypothesis import strategies as st


def test_a_contiguous_run_is_acked_with_one_tag() -> None:
    tracker = AckTracker()
    tracker.done([2, 3])
    assert tracker.take_run() is None
    tracker.done([1])
    assert tracker.take_run() == 3
    assert not tracker.waiting


def test_a_tag_already_settled_is_never_named_again() -> None:
    tracker = AckTracker()
    tracker.settle(2)
    tracker.done([1])
    assert tracker.take_run() == 1, "naming tag 2 would make the broker close the channel"
    tracker.done([3])
    assert tracker.take_run() == 3


class Broker:
    """Acks as RabbitMQ does: a tag that is not outstanding is an error."""

    def __init__(self, tags: int) -> None:
        self.outstanding = set(range(1, tags + 1))

    def ack(self, tag: int, *, multiple: bool) -> None:
        assert tag in self.outstanding
        self.outstanding -= {other for other in self.outstanding if other <= tag} if multiple else {tag}


@given(order=st.permutations(range(1, 13)), steps=st.lists(st.sampled_from(["run", "singles"]), max_size=12))
def test_each_tag_is_acked_once_and_none_before_it_is_done(order: list[int], steps: list[str]) -> None:
    tracker, broker, done = AckTracker(), Broker(12), set[int]()
    for tag, step in zip(order, steps + ["run"] * 12, strict=False):
        tracker.done([tag])
        done.add(tag)
        if last := tracker.take_run():
            broker.ack(last, multiple=True)
        for single in tracker.take_singles() if step == "singles" else []:
            broker.ack(single, multiple=False)
        assert broker.outstanding >= set(range(1, 13)) - done
    assert not broker.outstanding
