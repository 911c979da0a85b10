"""`esp-gateway` as its users run it: as a process, against a real broker."""

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aio_pika
import pyarrow.csv
import pyarrow.parquet
import pytest
from esp_common import topology
from esp_gateway.encoding import decode
from esp_gateway.errors import SpoolUnusable
from esp_gateway.spool import read_state
from esp_stack.servers import Vhost

COMMAND = (sys.executable, "-c", "from esp_gateway.cli import main; main()")
MAP = """\
gateway_id: gw-demo
pump_id: P-1
time: {column: when}
columns: {pressure: Pressure, flow: Flow}
"""
DEADLINE_S = 120.0
CASES = Path(__file__).parents[2] / "unit" / "gateway" / "cases"


@pytest.fixture
def desk(tmp_path: Path, vhost: Vhost) -> Path:
    """A folder with a map, the gateway's key and the endpoints of the broker."""
    (tmp_path / "map.yaml").write_text(MAP)
    key = vhost.server.passwords["gw-demo"]
    private(tmp_path / "key", key)
    private(
        tmp_path / "endpoints.json", json.dumps({"amqp": vhost.url, "gateway": {"id": "gw-demo", "key": key}})
    )
    return tmp_path


@pytest.fixture
def collect(vhost: Vhost) -> Callable[[], list[dict[str, Any]]]:
    """Return what takes every reading out of the queue."""

    async def take() -> list[dict[str, Any]]:
        readings = []
        async with await aio_pika.connect(vhost.url) as connection:
            queue = await (await connection.channel()).get_queue(topology.INGEST_TELEMETRY)
            while message := await queue.get(no_ack=True, fail=False):
                readings += decode(message.content_type or "", message.body)
        return readings

    asyncio.run(take())
    return lambda: asyncio.run(take())


def private(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(0o600)
    return path


def records(path: Path, count: int, start: int = 0) -> Path:
    lines = [
        f"2020-03-09 {n // 3600:02d}:{n // 60 % 60:02d}:{n % 60:02d},{n / 8},{n}"
        for n in range(start, start + count)
    ]
    path.write_text("\n".join(["when,pressure,flow", *lines, ""]))
    return path


def replay(desk: Path, *arguments: object) -> tuple[str, ...]:
    options = (
        "--map",
        desk / "map.yaml",
        "--endpoints",
        desk / "endpoints.json",
        "--spool",
        desk / "gw.spool",
    )
    return tuple(map(str, (*COMMAND, "replay", *arguments, *options)))


def run(command: tuple[str, ...]) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S, check=False)


def confirmed(spool: Path) -> int:
    try:
        return read_state(spool).confirmed
    except SpoolUnusable:  # not there yet, or being created
        return 0


def address(vhost: Vhost) -> str:
    parts = urlsplit(vhost.url)
    return f"amqp://{parts.hostname}:{parts.port}{parts.path}"


def test_csv_and_parquet_arrive_alike(desk: Path, collect: Callable[[], Any]) -> None:
    csv = records(desk / "a.csv", 1200)
    pyarrow.parquet.write_table(pyarrow.csv.read_csv(csv), desk / "a.parquet")
    outcome = run(replay(desk, csv))
    assert outcome.returncode == 0, outcome.stderr
    assert outcome.stdout.startswith("1 file(s): 1200 rows read, 1200 readings confirmed, 0 unreadable")
    from_csv = collect()
    assert run(replay(desk, desk / "a.parquet", "--format", "arrow")).returncode == 0
    from_parquet = collect()
    by_time = {reading["time"]: reading for reading in from_csv}
    assert by_time == {reading["time"]: reading for reading in from_parquet}
    assert by_time["2020-03-09T00:00:09+00:00"] == {
        "pump_id": "P-1", "time": "2020-03-09T00:00:09+00:00", "Pressure": 1.125, "Flow": 9,
    }  # fmt: skip
    assert len(by_time) == len(from_csv) == 1200


def test_a_replay_killed_midway_goes_on_without_loss(desk: Path, collect: Callable[[], Any]) -> None:
    files = [records(desk / f"{part}.csv", 15_000, 15_000 * part) for part in range(3)]
    receipt = desk / "receipt"
    command = replay(desk, *files, "--receipt", receipt)
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until = time.monotonic() + DEADLINE_S
    while confirmed(desk / "gw.spool") < 2000:
        assert process.poll() is None
        assert time.monotonic() < until
        time.sleep(0.005)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert confirmed(desk / "gw.spool") < 45_000
    outcome = run(command)
    assert outcome.returncode == 0, outcome.stderr
    assert "more were taken earlier" in outcome.stdout
    everything = {float(n) for n in range(45_000)}
    assert {reading["Flow"] for reading in collect()} == everything
    lines = [json.loads(line) for line in receipt.read_text().splitlines()]
    assert {line["reading"]["Flow"] for line in lines} == everything
    assert read_state(desk / "gw.spool").batches == 0


def test_an_interrupted_replay_says_how_to_go_on(desk: Path, collect: Callable[[], Any]) -> None:
    csv = records(desk / "a.csv", 100)
    process = subprocess.Popen(
        replay(desk, csv, "--speed", "10"),
        stderr=subprocess.PIPE,
        text=True,
        # Whoever runs the tests in the background may have it ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    until = time.monotonic() + DEADLINE_S
    while confirmed(desk / "gw.spool") < 5:
        assert time.monotonic() < until
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 130
    assert "the same command goes on" in errors
    assert run(replay(desk, csv)).returncode == 0
    assert sorted(reading["Flow"] for reading in collect()) == list(range(100))  # each exactly once


def test_records_that_cannot_be_read_are_named_and_sent(desk: Path, collect: Callable[[], Any]) -> None:
    path = desk / "a.csv"
    path.write_text(
        "when,pressure,flow\n2020-01-01 00:00,1,2\nsoon,3,4\n2020-01-01 00:01,5\n2020-01-01 00:02,n/a,6\n"
    )
    outcome = run(replay(desk, path))
    assert outcome.returncode == 1, outcome.stderr
    assert "4 rows read, 4 readings confirmed, 2 unreadable, 1 cells no value (pressure 1)" in outcome.stdout
    assert "a.csv: 5 lines: 1 header, 4 rows" in outcome.stdout
    assert f"{path}:5: pressure 'n/a' is no value" in outcome.stderr
    assert f"{path}:3: no time in when 'soon'" in outcome.stderr
    assert f"{path}:4: " in outcome.stderr
    sent = collect()
    assert {"pump_id": "P-1", "time": "soon", "Pressure": 3, "Flow": 4} in sent
    assert {"pump_id": "P-1", "time": None, "unreadable_record": "2020-01-01 00:01,5"} in sent
    assert {"pump_id": "P-1", "time": "2020-01-01T00:02:00+00:00", "Pressure": "n/a", "Flow": 6} in sent


def test_a_stray_quote_swallows_no_row(desk: Path, collect: Callable[[], Any]) -> None:
    shutil.copy(CASES / "41-stray-quote.csv", desk / "a.csv")
    (desk / "map.yaml").write_text("pump_id: P-1\ntime: {column: Time}\ncolumns: {Amps: motor_current_a}\n")
    outcome = run(replay(desk, desk / "a.csv"))
    assert outcome.returncode == 1
    assert "30 rows read, 30 readings confirmed, 1 unreadable, 0 cells no value" in outcome.stdout
    assert "a.csv: 31 lines: 1 header, 30 rows" in outcome.stdout
    assert f"{desk / 'a.csv'}:3: a quote is not closed on this line" in outcome.stderr
    sent = collect()
    assert len([reading for reading in sent if "motor_current_a" in reading]) == 29
    assert run(replay(desk, desk / "a.csv", "--refused-exit", "0")).returncode == 0


def test_a_file_without_rows_says_so(desk: Path) -> None:
    shutil.copy(CASES / "41-header-only.csv", desk / "a.csv")
    (desk / "map.yaml").write_text("pump_id: P-1\ntime: {column: Time}\ncolumns: {Amps: motor_current_a}\n")
    outcome = run(replay(desk, desk / "a.csv"))
    assert outcome.returncode == 0
    assert "0 rows read, 0 readings confirmed, 0 unreadable, 0 cells no value" in outcome.stdout
    assert "no rows: nothing was sent" in outcome.stderr


def test_a_resumed_replay_still_tells_what_was_not_taken(desk: Path, collect: Callable[[], Any]) -> None:
    path = records(desk / "a.csv", 700)
    path.write_text(path.read_text().replace(",1.0,8", ",Bad,8", 1))
    away = replay(
        desk, path, "--give-up-after", "1", "--url", "amqp://127.0.0.1:1/", "--key-file", desk / "key"
    )
    assert run(away).returncode == 3
    outcome = run(replay(desk, path))
    assert outcome.returncode == 1, outcome.stderr
    assert "0 rows read (700 more were taken earlier), 700 readings confirmed, 0 unreadable, 1 cells" in (
        outcome.stdout
    )
    assert len(collect()) == 700


def test_a_proposed_map_is_replayed_as_it_stands(desk: Path, collect: Callable[[], Any]) -> None:
    shutil.copy(CASES / "04-decimal-comma.csv", desk / "a.csv")
    proposed = run((*COMMAND, "inspect", str(desk / "a.csv"), "--pump", "P-1"))
    assert proposed.returncode == 0, proposed.stderr
    assert "# line 3: 2026-11-20T10:01:00Z  P-1  intake_pressure_psi=813  motor_current_a=1041.5" in (
        proposed.stdout
    )
    (desk / "map.yaml").write_text(proposed.stdout)
    tried = run((*COMMAND, "inspect", str(desk / "a.csv"), "--map", str(desk / "map.yaml"), "--rows", "1"))
    assert "# line 2: 2026-11-20T10:00:00Z  P-1  intake_pressure_psi=812.4" in tried.stdout
    outcome = run(replay(desk, desk / "a.csv"))
    assert outcome.returncode == 0, outcome.stderr
    assert [reading["motor_current_a"] for reading in collect()] == [41.5, 1041.5, 42]


def test_inspect_says_in_one_line_what_it_cannot_read(desk: Path) -> None:
    shutil.copy(CASES / "41-header-only.csv", desk / "a.csv")
    for arguments in (
        ("a.csv",),
        ("nothing",),
        ("a.csv", "--map", "nothing"),
        (".",),
        ("a.csv", "--assets", "a.csv"),
    ):
        outcome = run(
            (*COMMAND, "inspect", *(str(desk / each) if each[0] != "-" else each for each in arguments))
        )
        assert outcome.returncode in (2, 4)
        assert outcome.stderr.startswith("error: ")
        assert "Traceback" not in outcome.stderr


@pytest.mark.parametrize(
    ("change", "code", "message"),
    [
        (lambda desk: (desk / "map.yaml").write_text("pump_id: P"), 2, "map.yaml: time: Field required"),
        (
            lambda desk: (desk / "map.yaml").write_text(MAP.replace("flow:", "rate:")),
            2,
            "a.csv:1: no column 'rate'",
        ),
        (
            lambda desk: (desk / "map.yaml").write_text(MAP.replace("gw-demo", "gw-07")),
            2,
            "is for gateway gw-07",
        ),
        (lambda desk: (desk / "map.yaml").unlink(), 4, "no file"),
        (lambda desk: (desk / "a.csv").unlink(), 4, "no file"),
        (lambda desk: (desk / "endpoints.json").unlink(), 4, "start the stack (make up)"),
        (lambda desk: (desk / "endpoints.json").chmod(0o644), 2, "open to others — chmod 600"),
        (lambda desk: (desk / "map.yaml").write_bytes(b"pump_id: \xd8"), 2, "not UTF-8"),
        (lambda desk: (desk / "map.yaml").write_text("a: &a [*a]"), 2, "map.yaml"),
        (
            lambda desk: (desk / "a.csv").write_bytes(b"PK\x03\x04"),
            2,
            "is a ZIP archive or an Excel workbook",
        ),
        (lambda desk: (desk / "a.csv").write_bytes(b"\x1f\x8b\x08"), 2, "is compressed with gzip"),
        (lambda desk: (desk / "a.csv").write_bytes(b""), 2, "the file is empty"),
        (lambda desk: [(desk / "a.csv").unlink(), (desk / "a.csv").mkdir()], 2, "is a folder"),
        (lambda desk: (desk / "endpoints.json").write_bytes(b"\xff"), 2, "is not JSON"),
        (
            lambda desk: (desk / "endpoints.json").write_text('{"amqp": 5, "gateway": 7}'),
            2,
            "has no amqp address",
        ),
        (lambda desk: (desk / "endpoints.json").write_text("[]"), 2, "has no amqp address"),
        (lambda desk: (desk / "gw.spool").mkdir(), 1, "gw.spool"),
        (lambda desk: wrong_key(desk), 1, "refused by the broker — ACCESS_REFUSED"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(
    desk: Path, change: Callable[[Path], Any], code: int, message: str
) -> None:
    records(desk / "a.csv", 3)
    change(desk)
    outcome = run(replay(desk, desk / "a.csv"))
    assert outcome.returncode == code, outcome.stderr
    (line,) = [line for line in outcome.stderr.splitlines() if line.startswith("error: ")]
    assert message in line
    assert "Traceback" not in outcome.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("--url", "amqp://host:99999/"),
        ("--url", "amqp://"),
        ("--url", "http://host/"),
        ("--url", "amqp://[::1/"),
        ("--url", "amqp://127.0.0.1/", "--key-file", "nothing-there"),
        ("--url", "amqp://127.0.0.1/", "--key-file", "."),
        ("--url", "amqp://127.0.0.1/", "--key-file", "binary"),
        ("--url", "amqps://127.0.0.1/", "--key-file", "key", "--ca-file", "nothing-there"),
        ("--receipt", "."),
        ("--receipt", "nothing/there"),
        ("--speed", "fast"),
    ],
)
def test_a_bad_option_is_said_in_one_line(desk: Path, arguments: tuple[str, ...]) -> None:
    (desk / "binary").write_bytes(b"\xff\xfe")
    paths = {name: str(desk / name) for name in ("key", "binary", "nothing-there", "nothing/there")}
    outcome = run((*replay(desk, records(desk / "a.csv", 3)), *(paths.get(each, each) for each in arguments)))
    assert outcome.returncode in (1, 2, 4), outcome.stderr
    assert [line for line in outcome.stderr.splitlines() if line.startswith("error: ")], outcome.stderr
    assert "Traceback" not in outcome.stderr


def wrong_key(desk: Path) -> None:
    document = json.loads((desk / "endpoints.json").read_text())
    document["gateway"]["key"] = "wrong"
    private(desk / "endpoints.json", json.dumps(document))


def test_a_key_is_taken_from_a_file_and_never_from_the_command_line(
    desk: Path, vhost: Vhost, collect: Callable[[], Any]
) -> None:
    csv = records(desk / "a.csv", 3)
    refused = run((*replay(desk, csv), "--url", "amqp://gw-demo:secret@127.0.0.1/"))
    assert refused.returncode == 2
    assert "secret" not in refused.stderr
    outcome = run((*replay(desk, csv), "--url", address(vhost), "--key-file", str(desk / "key")))
    assert outcome.returncode == 0, outcome.stderr
    assert len(collect()) == 3


def test_status_shows_what_waits(desk: Path) -> None:
    csv = records(desk / "a.csv", 700)
    away = (
        *replay(desk, csv, "--give-up-after", "1"),
        "--url",
        "amqp://127.0.0.1:1/",
        "--key-file",
        str(desk / "key"),
    )
    outcome = run(away)
    assert outcome.returncode == 3
    assert "stays in the spool" in outcome.stderr
    text = run((*COMMAND, "status", str(desk))).stdout
    assert "waiting       700 readings in 2 messages" in text
    assert "no gateway is running" in text
    (state,) = json.loads(run((*COMMAND, "status", str(desk), "--json")).stdout).values()
    assert (state["gateway_id"], state["readings"], state["confirmed"]) == ("gw-demo", 700, 0)


def test_a_simulated_field_reports_and_stops_when_told(
    desk: Path, vhost: Vhost, collect: Callable[[], Any]
) -> None:
    keys = {name: vhost.server.passwords[name] for name in ("gw-01", "gw-02")}
    keys_file = private(desk / "keys.json", json.dumps(keys))
    command = (
        *COMMAND,
        "simulate",
        "--url",
        address(vhost),
        "--gateways-file",
        str(keys_file),
        "--spool",
        str(desk),
    )
    process = subprocess.Popen(
        (*command, "--pumps", "20", "--rate", "60", "--fault", "SIM-003:gauge_failure:1:0.05",
         "--history-h", "0.1"),
        stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )  # fmt: skip
    until = time.monotonic() + DEADLINE_S
    while min(confirmed(desk / f"{name}.spool") for name in keys) <= 20:
        assert process.poll() is None, process.stderr and process.stderr.read()
        assert time.monotonic() < until
        time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 0, errors
    assert not any(key in errors for key in keys.values())
    readings = collect()
    assert {reading["pump_id"] for reading in readings} == {f"SIM-{number:03d}" for number in range(1, 21)}
    assert [read_state(desk / f"{name}.spool").batches for name in keys] == [0, 0]
    times = sorted(datetime.fromisoformat(reading["time"]) for reading in readings)
    assert timedelta(minutes=5) < times[-1] - times[0] < timedelta(minutes=10)


def test_a_simulated_field_says_what_it_lacks(desk: Path) -> None:
    private(desk / "keys.json", "{}")
    live = (*COMMAND, "simulate", "--url", "amqp://127.0.0.1/", "--gateways-file", str(desk / "keys.json"))
    assert "no key for gw-01" in run((*live, "--pumps", "5")).stderr
    assert "NAME one of" in run((*live, "--pumps", "5", "--fault", "SIM-001:rust")).stderr
    assert "no pump SIM-900" in run((*live, "--pumps", "5", "--fault", "SIM-900:deadhead")).stderr
