"""What all servers have in common: a private home, processes, readiness."""

import os
import signal
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil

from esp_stack.failures import START_FAILURES, StartFailure, start_failure
from esp_stack.programs import Program, StackError, private_folder, wait_for

_spawner = ThreadPoolExecutor(1, thread_name_prefix="spawn")
"""The kernel sends the death signal when the *thread* that started a process ends: this one ends with us."""


def descendants(pid: int) -> list[psutil.Process]:
    """Return what process `pid` has started, and what that has."""
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


class Server(ABC):
    """A real server in a home folder of its own, on loopback ports, as an unprivileged user.

    A supervisor runs what `programs()` describes after `prepare()`; tests use `start()` and `stop()`.
    Ports and data stay the same over a restart.
    """

    name: str
    data_remedy: str
    """What to do when the data in `{home}` are damaged."""
    start_timeout_s = 60.0
    start_pause_s = 0.05

    def __init__(self, home: Path, user: str | None) -> None:
        self.home = home
        self.user = user
        self._processes: list[subprocess.Popen[bytes]] = []

    @abstractmethod
    def programs(self) -> Sequence[Program]:
        """Return the processes of the server, in starting order."""

    @abstractmethod
    def configure(self) -> None:
        """Write the configuration and, the first time, create the data."""

    @abstractmethod
    def check(self) -> None:
        """Raise unless the server answers with all that is expected of it."""

    def prepare(self) -> None:
        """Make the home folder and everything in it that the processes need."""
        private_folder(self.home, self.user)
        self.configure()

    def start(self) -> None:
        """Start the server and return when it is ready; if it does not start, none of it is left running."""
        try:
            self.prepare()
            self._processes = [_spawner.submit(self._spawn, program).result() for program in self.programs()]
            self.wait_ready()
        except START_FAILURES as failure:
            self.kill()
            logs = sorted(self.home.parent.glob(f"{self.home.name}.*.log"))
            raise self.start_failure(failure, logs) from failure

    def wait_ready(self, check_alive: Callable[[], None] | None = None) -> None:
        """Return when the server is ready; raise `StackError` if it is late.

        `check_alive`: raises `StackError` when waiting is of no use; by default, when a process of
        `start()` has ended.
        """
        check_alive = check_alive or self._check_alive

        def check() -> None:
            check_alive()
            self.check()

        wait_for(check, self.name, self.start_timeout_s, self.start_pause_s)

    def start_failure(self, reason: Exception, logs: Sequence[Path]) -> StartFailure:
        """Return the error that says why the server did not start, from its `logs`."""
        return start_failure(self.name, reason, logs, data_remedy=self.data_remedy.format(home=self.home))

    def ready(self) -> bool:
        """Return whether the server answers now."""
        try:
            self.check()
        except Exception:
            return False
        return True

    def stop(self) -> None:
        """Stop the server in an orderly way; harmless when it does not run."""
        self.resume()
        for process, program in reversed(list(zip(self._processes, self.programs(), strict=False))):
            process.send_signal(signal.Signals[f"SIG{program.stop_signal}"])
            try:
                process.wait(program.stop_timeout_s)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._processes = []

    def restart(self) -> None:
        """Stop and start."""
        self.stop()
        self.start()

    def kill(self) -> None:
        """Kill every process of the server with SIGKILL, as a crash would, and see that they are gone.

        What they started ends by itself a moment later, and could still hold memory or ports.
        """
        children = [child for process in self._processes for child in descendants(process.pid)]
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.wait()
        psutil.wait_procs(children, timeout=self.start_timeout_s)
        self._processes = []

    def pause(self) -> None:
        """Freeze the server: connections stay open and nothing answers."""
        self._signal(signal.SIGSTOP)
        for process in self._processes:
            # Its other threads may go on for a moment after the signal was sent.
            os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    def resume(self) -> None:
        """Thaw the server after `pause()`."""
        self._signal(signal.SIGCONT)

    def log_tail(self, lines: int = 20) -> str:
        """Return the end of the server's output."""
        logs = [self.log_file(program).read_text(errors="replace") for program in self.programs()]
        return "\n".join("\n".join(log.splitlines()[-lines:]) for log in logs)

    def log_file(self, program: Program) -> Path:
        """Return where `start()` puts the output of a process."""
        return self.home.with_name(f"{self.home.name}.{program.name}.log")

    def _check_alive(self) -> None:
        for process in self._processes:
            if process.poll() is not None:
                raise StackError(f"it ended with status {process.returncode} while starting")

    def _signal(self, number: signal.Signals) -> None:
        for process in self._processes:
            os.kill(process.pid, number)

    def _spawn(self, program: Program) -> subprocess.Popen[bytes]:
        with self.log_file(program).open("ab") as log:
            return subprocess.Popen(
                program.command(),
                cwd=program.folder,
                env=program.full_environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
