"""A part that does not start: its error has the end of its log and a remedy, and nothing is left running."""

import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from backup_site import localhost_certificate
from esp_common import topology
from esp_stack.failures import StartFailure, advice, tail
from esp_stack.programs import account, free_port, private_file, private_folder
from esp_stack.servers import Azurite, Nginx, OpenBao, Postgres, RabbitMQ, RabbitPorts, Redis, Server

COMMAND = Path(sys.executable).with_name("esp-stack")
IS_ROOT = os.geteuid() == 0
NAMES = ("postgres", "rabbitmq", "redis", "openbao", "azurite", "nginx")


@dataclass(frozen=True)
class Part:
    """How to make a server in a home, on a port."""

    make: Callable[[Path, int], Server]
    damage: Callable[[Server], None]


def _rabbitmq(home: Path, port: int) -> RabbitMQ:
    free = RabbitPorts.free()
    ports = RabbitPorts(port, free.mqtt, free.management, free.prometheus, free.distribution, free.epmd)
    return RabbitMQ(home, ports=ports)


def _nginx(home: Path, port: int) -> Nginx:
    apis = {name: free_port() for name in topology.SERVICES}
    return Nginx(home, port=port, apis=apis, tls=localhost_certificate(home.parent, account("www-data")))


def _spoil(*patterns: str) -> Callable[[Server], None]:
    """Return what overwrites the files of a server that match, with bytes that mean nothing."""

    def spoil(server: Server) -> None:
        files = [path for pattern in patterns for path in server.home.glob(pattern) if path.is_file()]
        assert files, f"nothing to damage: {patterns}"
        for path in files:
            path.write_bytes(b"\xff\x00spoilt" * max(1, path.stat().st_size // 8))

    return spoil


PARTS = {
    "postgres": Part(
        lambda home, port: Postgres(home, port=port, throwaway=True), _spoil("data/global/pg_control")
    ),
    "rabbitmq": Part(_rabbitmq, _spoil("mnesia/*/schema.DAT", "mnesia/*/*.DCD")),
    "redis": Part(lambda home, port: Redis(home, port=port), _spoil("appendonlydir/*.manifest")),
    "openbao": Part(lambda home, port: OpenBao(home, port=port), _spoil("data/vault.db")),
    "azurite": Part(lambda home, port: Azurite(home, port=port), _spoil("data/__azurite_db_blob__.json")),
    "nginx": Part(_nginx, lambda server: private_file(server.tls.server, "spoilt", server.user)),
}


def failure_of(server: Server) -> str:
    """Start `server`, which must fail, and return the message; nothing may be left running."""
    with pytest.raises(StartFailure) as failed:
        server.start()
    left = [
        process.pid
        for process in psutil.process_iter(["cmdline"])
        if str(server.home) in " ".join(process.info["cmdline"] or ())
    ]
    assert left == []
    message = str(failed.value)
    assert message.startswith(f"{server.name} did not start: ")
    assert "what to do: " in message
    assert "Traceback" not in message
    return message


@pytest.fixture(params=NAMES)
def part(request: pytest.FixtureRequest) -> str:
    """Each server in turn."""
    return str(request.param)


@pytest.fixture
def home(server_home: Path, part: str, request: pytest.FixtureRequest) -> Path:
    """Where the server of a test keeps its files."""
    folder = server_home / f"failing-{abs(hash(request.node.name)) % 100_000}"
    folder.mkdir()
    return folder / part


def test_a_taken_port_is_named_as_the_cause(part, home):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        message = failure_of(PARTS[part].make(home, taken.getsockname()[1]))
    assert "another program has the port" in message
    assert f"last lines of {home.parent}/{home.name}." in message


def test_damaged_data_are_named_with_the_remedy_of_the_part(part, home):
    server = PARTS[part].make(home, free_port())
    server.start()
    server.stop()
    PARTS[part].damage(server)
    message = failure_of(server)
    assert server.data_remedy.format(home=home) in message
    assert f"last lines of {home.parent}/{home.name}." in message


def test_a_configuration_that_cannot_be_written_is_named(part, home):
    server = PARTS[part].make(home, free_port())
    server.start()
    server.stop()
    file = next(path for name in CONFIGURATIONS for path in [home / name] if path.exists())
    file.unlink()
    file.mkdir()
    (file / "in-the-way").touch()
    assert str(file) in failure_of(server)


CONFIGURATIONS = (
    *("data/postgresql.conf", "rabbitmq.conf", "redis.conf", "openbao.hcl", "account", "nginx.conf"),
)


def test_a_folder_the_account_may_not_enter_is_the_cause(part, home):
    server = PARTS[part].make(home, free_port())
    home.parent.chmod(0o700 if IS_ROOT else 0o500)
    try:
        message = failure_of(server)
    finally:
        home.parent.chmod(0o755)
    assert "ermission" in message
    assert "needs the permission x for others" in message


def test_a_log_without_a_file_is_no_error(tmp_path):
    assert tail(tmp_path / "none.log") == ()


def test_the_tail_of_a_log_is_its_last_lines_that_say_something(tmp_path):
    log = tmp_path / "part.log"
    log.write_bytes(
        b"\n".join(b"line %d" % number for number in range(50_000)) + b"\xff\n\n  \n" + b"x" * 999
    )
    lines = tail(log, 3)
    assert (lines[0], len(lines), len(lines[2])) == ("line 49998", 3, 999)


def test_a_full_disk_is_told_from_damage():
    assert "disk is full" in advice("PANIC: could not write to file: No space left on device", "restore it")


class Stack:
    """The command, on a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, verb: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "ESP_STACK_FOLDER": str(self.folder), "ESP_STACK_HISTORY_H": "0"}
        return subprocess.run(
            [str(COMMAND), verb], env=environment, capture_output=True, text=True, check=False
        )

    def processes(self) -> list[str]:
        """Return the command lines of what still works in the folder."""
        lines = [" ".join(process.info["cmdline"] or ()) for process in psutil.process_iter(["cmdline"])]
        return [line for line in lines if str(self.folder) in line]


@pytest.fixture
def stack(server_home: Path, request: pytest.FixtureRequest) -> Iterator[Stack]:
    """A stack that nothing has been started of, and of which nothing is left."""
    stack = Stack(server_home / f"up-{abs(hash(request.node.name)) % 100_000}")
    private_folder(stack.folder, None)
    yield stack
    stack("clean")


BROKEN = {
    "openbao": ("openbao/data/vault.db", "makes a new vault"),
    "postgres": ("postgres/data/PG_VERSION", "docs/runbooks/restore.md"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_make_up_ends_with_the_part_its_log_and_the_remedy_and_stops_what_it_started(stack, name):
    path, remedy = BROKEN[name]
    file = stack.folder / path
    file.parent.mkdir(parents=True)
    file.write_text("spoilt\n")
    done = stack("up")
    assert done.returncode == 1
    assert "Traceback" not in done.stdout + done.stderr
    assert re.search(rf"^error: {name} did not start: ", done.stderr, re.MULTILINE)
    assert f"last lines of {stack.folder}/logs/{name}.log:" in done.stderr
    assert remedy in done.stderr
    assert stack.processes() == []


@pytest.mark.parametrize("name", ["credentials.json", "ports.json"])
def test_a_file_of_the_stack_that_cannot_be_read_is_named(stack, name):
    (stack.folder / name).write_text('{"half')
    done = stack("up")
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(
        rf"error: {stack.folder}/{name} cannot be read: .* — put back a copy of it\n", done.stderr
    )


def test_a_folder_that_cannot_be_made_is_one_line(server_home):
    (server_home / "a-file").touch()
    done = Stack(server_home / "a-file" / "stack")("up")
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(rf"error: .*: {server_home}/a-file.*\n", done.stderr)
