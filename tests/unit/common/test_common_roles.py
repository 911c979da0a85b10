"""How a role's parts end together, and what an operator's command says when the database is away."""

import asyncio
from collections.abc import Iterator

import pytest
import structlog
from esp_common.cli import run_command, show_rows
from esp_common.errors import Unavailable
from esp_common.roles import until_first_ends


async def fail() -> None:
    raise RuntimeError("died")


async def test_the_first_part_that_dies_is_raised_and_ends_the_others() -> None:
    ended = asyncio.Event()

    async def other() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    with pytest.raises(RuntimeError, match="died"):
        await until_first_ends(other(), fail())
    assert ended.is_set()


async def test_what_runs_beside_may_end_before() -> None:
    beside_ended = asyncio.Event()

    async def beside() -> None:
        beside_ended.set()

    await until_first_ends(beside_ended.wait(), beside=[beside()])


async def test_what_is_held_is_finished_while_the_other_parts_still_work() -> None:
    asked, finished = asyncio.Event(), asyncio.Event()

    async def worker() -> None:
        await asked.wait()
        finished.set()
        await asyncio.Event().wait()

    async def finish() -> None:
        asked.set()
        await finished.wait()

    stop = asyncio.Event()
    stop.set()
    await asyncio.wait_for(until_first_ends(worker(), stop.wait(), finish=finish), 10)


@pytest.fixture
def logs() -> Iterator[None]:
    """Logs as they were after the test: a command silences them."""
    before = structlog.get_config()
    yield
    structlog.configure(**before)


@pytest.mark.usefixtures("logs")
def test_a_command_without_its_database_says_what_to_check() -> None:
    async def command() -> None:
        raise ConnectionRefusedError("refused")

    with pytest.raises(Unavailable, match="the database does not answer: refused") as error:
        run_command(command(), away="the database", fix="check the URL")
    assert error.value.fix == "check the URL"


def test_rows_are_for_cut_and_grep(capsys: pytest.CaptureFixture[str]) -> None:
    show_rows(("id", "since"), [(1, None), ("b", 2.5)])
    assert capsys.readouterr().out == "id\tsince\n1\t-\nb\t2.5\n"
