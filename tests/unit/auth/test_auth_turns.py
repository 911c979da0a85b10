"""Turns at the password hash: fair by address, and bounded."""

import asyncio

import pytest
from esp_auth.turns import FairTurns
from esp_common.errors import RateLimited, Unavailable


class Queue:
    """Requests that wait for turns which they hold until they are told to give them back."""

    def __init__(self, turns: FairTurns) -> None:
        self.turns = turns
        self.served: list[str] = []
        self.release = asyncio.Semaphore(0)
        self.tasks: list[asyncio.Task[None]] = []

    async def add(self, name: str, source: str, after_s: float = 0.0) -> asyncio.Task[None]:
        task = asyncio.create_task(self._wait(name, source, after_s))
        self.tasks.append(task)
        await settle()
        return task

    async def _wait(self, name: str, source: str, after_s: float) -> None:
        async with self.turns.turn(source, after_s):
            self.served.append(name)
            await self.release.acquire()

    async def serve_all(self) -> list[str]:
        for _ in self.tasks:
            self.release.release()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        return self.served


async def settle() -> None:
    """Let every task run as far as it can."""
    for _ in range(10):
        await asyncio.sleep(0)


async def test_a_newcomer_waits_for_one_request_of_each_other_source() -> None:
    queue = Queue(FairTurns(1, max_waiting=100, max_per_source=50))
    for number in range(12):
        await queue.add(f"attack-{number}", "attacker")
    await queue.add("good", "owner")
    assert (await queue.serve_all())[:3] == ["attack-0", "attack-1", "good"]
    assert len(queue.served) == 13
    assert queue.turns.waiting == 0


async def test_a_source_has_no_more_than_its_share_waiting() -> None:
    queue = Queue(FairTurns(1, max_waiting=100, max_per_source=2))
    for number in range(3):
        await queue.add(f"attack-{number}", "attacker")
    refused = await queue.add("attack-3", "attacker")
    await queue.add("good", "owner")
    with pytest.raises(RateLimited, match="from this address"):
        await refused
    assert "good" in await queue.serve_all()


async def test_the_newest_of_the_largest_source_makes_room() -> None:
    queue = Queue(FairTurns(1, max_waiting=3, max_per_source=3))
    attacks = [await queue.add(f"attack-{number}", "attacker") for number in range(4)]
    await queue.add("good", "owner")
    with pytest.raises(Unavailable):
        await attacks[-1]
    assert await queue.serve_all() == ["attack-0", "attack-1", "good", "attack-2"]


async def test_with_everybody_alike_the_last_to_come_is_refused() -> None:
    queue = Queue(FairTurns(1, max_waiting=3, max_per_source=3))
    for number in range(4):
        await queue.add(f"{number}", f"source-{number}")
    with pytest.raises(Unavailable):
        await (await queue.add("last", "source-last"))
    assert await queue.serve_all() == ["0", "1", "2", "3"]


async def test_what_is_delayed_holds_no_turn() -> None:
    queue = Queue(FairTurns(1, max_waiting=100, max_per_source=50))
    delayed = await queue.add("delayed", "attacker", after_s=3600)
    await queue.add("good", "owner")
    assert queue.served == ["good"]
    assert queue.turns.waiting == 1
    delayed.cancel()
    await settle()
    assert queue.turns.waiting == 0


@pytest.mark.parametrize("cancelled", [0, 1, 2], ids=["holder", "next", "last"])
async def test_a_turn_is_not_lost_with_a_request_that_gives_up(cancelled: int) -> None:
    queue = Queue(FairTurns(1, max_waiting=100, max_per_source=50))
    tasks = [await queue.add(f"{number}", "source") for number in range(3)]
    tasks[cancelled].cancel()
    await settle()
    await queue.add("after", "source")
    assert (await queue.serve_all())[-1] == "after"


async def test_a_turn_granted_to_a_request_that_gives_up_at_that_moment_is_passed_on() -> None:
    queue = Queue(FairTurns(1, max_waiting=100, max_per_source=50))
    await queue.add("holder", "a")
    waiting = await queue.add("waiting", "b")
    await queue.add("after", "c")
    queue.release.release()
    for _ in range(3):
        await asyncio.sleep(0)
        waiting.cancel()
    assert (await queue.serve_all())[-1] == "after"
