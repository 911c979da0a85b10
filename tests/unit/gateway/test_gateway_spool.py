import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from esp_gateway.encoding import Batch
from esp_gateway.errors import SpoolBusy, SpoolFull, SpoolUnusable
from esp_gateway.spool import Bookmark, Spool, WhenFull, read_state
from structlog.testing import capture_logs


def batch(name: str, size: int = 10) -> Batch:
    return Batch(name, "application/json", 1, name.encode().ljust(size, b" "))


def waiting(spool: Spool) -> list[str]:
    spool.rewind()
    return [taken.message_id for taken in spool.take(10_000, 1 << 30)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "gw.spool"


def test_batches_come_out_in_order_with_the_ids_they_went_in_with(path: Path) -> None:
    spool = Spool(path, "gw-1")
    spool.append([batch("a"), batch("b")])
    spool.append([batch("c")])
    assert waiting(spool) == ["a", "b", "c"]
    assert [taken.message_id for taken in spool.take(10, 1000)] == []  # all are on their way
    spool.close()
    assert waiting(Spool(path, "gw-1")) == ["a", "b", "c"]  # and again after a restart


def test_only_confirmed_batches_are_forgotten(path: Path) -> None:
    spool = Spool(path, "gw-1")
    spool.append([batch("a"), batch("b"), batch("c")])
    first, second, _ = spool.take(10, 1000)
    spool.confirm([second])
    assert waiting(spool) == ["a", "c"]
    spool.confirm([first])
    state = read_state(path)
    assert (state.batches, state.readings, state.spooled, state.confirmed) == (1, 1, 3, 2)
    assert state.last_confirm is not None
    assert state.in_use


def test_a_page_ends_with_the_batch_that_reaches_its_bytes(path: Path) -> None:
    spool = Spool(path, "gw-1")
    spool.append([batch(name, 100) for name in "abcd"])
    assert [taken.message_id for taken in spool.take(10, 150)] == ["a", "b"]
    assert [taken.message_id for taken in spool.take(10, 1)] == ["c"]


def test_a_killed_process_loses_nothing_it_had_spooled(path: Path) -> None:
    script = (
        "import os, signal, sys; from pathlib import Path; from esp_gateway.spool import *;"
        "from esp_gateway.encoding import Batch;"
        f"spool = Spool(Path({str(path)!r}), 'gw-1');"
        "spool.append([Batch('a', 't', 1, b'x')], [Bookmark('file', 7)]);"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == -9
    spool = Spool(path, "gw-1")  # the dead process's lock does not stand in the way
    assert waiting(spool) == ["a"]
    assert spool.position("file") == 7


def test_a_full_spool_refuses_all_of_an_offer_and_keeps_what_it_has(path: Path) -> None:
    spool = Spool(path, "gw-1", max_bytes=1000)
    spool.append([batch("a"), batch("b")])
    with pytest.raises(SpoolFull, match="holds 532 of 1000 bytes"):
        spool.append([batch("c"), batch("d")], [Bookmark("file", 4)])
    assert waiting(spool) == ["a", "b"]
    assert spool.position("file") == 0
    spool.rewind()
    spool.confirm(spool.take(1, 1000))
    spool.append([batch("c"), batch("d")])
    assert waiting(spool) == ["b", "c", "d"]


def test_the_limit_holds_over_a_restart(path: Path) -> None:
    spool = Spool(path, "gw-1", max_bytes=600)
    spool.append([batch("a"), batch("b")])
    spool.close()
    with pytest.raises(SpoolFull):
        Spool(path, "gw-1", max_bytes=600).append([batch("c")])


def test_drop_oldest_loses_the_oldest_that_is_not_on_its_way_and_counts_it(path: Path) -> None:
    spool = Spool(path, "gw-1", max_bytes=1000, when_full=WhenFull.DROP_OLDEST)
    spool.append([batch("a"), batch("b"), batch("c")])
    spool.take(1, 1)  # "a" is being published
    with capture_logs() as logs:
        spool.append([batch("d")])
    assert waiting(spool) == ["a", "c", "d"]
    assert read_state(path).dropped == 1
    assert "spool.dropped-oldest" in [line["event"] for line in logs]


def test_drop_oldest_still_refuses_what_can_never_fit(path: Path) -> None:
    spool = Spool(path, "gw-1", max_bytes=1000, when_full=WhenFull.DROP_OLDEST)
    spool.append([batch("a")])
    with pytest.raises(SpoolFull):
        spool.append([batch("big", 2000)])
    assert waiting(spool) == ["a"]


def test_the_file_stays_bounded_through_many_times_its_limit(path: Path) -> None:
    spool = Spool(path, "gw-1", max_bytes=1 << 20)
    for _ in range(50):
        spool.append([batch("x", 100_000) for _ in range(10)])
        spool.rewind()
        spool.confirm(spool.take(10, 1 << 30))
    assert path.stat().st_size < 2 << 20


def test_a_second_process_cannot_use_the_spool(path: Path) -> None:
    spool = Spool(path, "gw-1")
    with pytest.raises(SpoolBusy, match=rf"process {os.getpid()}\b"):
        Spool(path, "gw-1")
    spool.close()
    Spool(path, "gw-1").close()
    assert not read_state(path).in_use


def test_a_spool_belongs_to_one_gateway(path: Path) -> None:
    Spool(path, "gw-1").close()
    with pytest.raises(SpoolUnusable, match="gw-1, not gw-2"):
        Spool(path, "gw-2")


@pytest.mark.parametrize("damage", ["noise", "header", "page"])
def test_a_damaged_spool_is_reported_with_a_way_out(path: Path, damage: str) -> None:
    spool = Spool(path, "gw-1")
    spool.append([batch(str(number), 3000) for number in range(50)])
    spool.close()
    content = bytearray(path.read_bytes())
    if damage == "noise":
        content[:] = b"not a database" * 1000
    elif damage == "header":
        content[:16] = bytes(16)
    else:
        content[4096 * 2 : 4096 * 3] = b"\xff" * 4096
    path.write_bytes(content)
    with pytest.raises(SpoolUnusable, match=r"damaged") as caught:
        Spool(path, "gw-1")
    assert ".recover" in caught.value.line()


def test_another_database_is_not_taken_for_a_spool(path: Path) -> None:
    sqlite3.connect(path).execute("CREATE TABLE precious (id)").connection.close()
    with pytest.raises(SpoolUnusable, match="no spool"):
        Spool(path, "gw-1")


def test_a_spool_is_readable_by_its_owner_only(path: Path) -> None:
    spool = Spool(path, "gw-1")
    spool.append([batch("a")])
    assert {file.stat().st_mode & 0o077 for file in path.parent.iterdir()} == {0}
    spool.close()
