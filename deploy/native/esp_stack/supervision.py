"""supervisord: keeps the programs running, and tells how they are over its private control socket."""

import os
import resource
import shlex
import subprocess
import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xmlrpc.client import Fault, ServerProxy

import psutil
from supervisor.states import ProcessStates
from supervisor.xmlrpc import Faults, SupervisorTransport

from esp_stack.programs import BASE_ENVIRONMENT, Program, StackError, private_file, wait_for

CONFIGURATION = """\
[unix_http_server]
file={socket}
chmod=0700

[rpcinterface:supervisor]
supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface

[supervisord]
pidfile={folder}/supervisord.pid
logfile={folder}/logs/supervisord.log
logfile_maxbytes=5MB
logfile_backups=1
childlogdir={folder}/logs
minfds={open_files}
{user}
"""
PROGRAM = """
[program:{name}]
command={command}
directory={folder}
environment={environment}
priority={priority}
autostart=false
autorestart=true
startsecs=1
startretries=1000000
stopsignal={stop_signal}
stopwaitsecs={stop_timeout_s}
stdout_logfile={logs}/{name}.log
stdout_logfile_maxbytes=20MB
stdout_logfile_backups=2
redirect_stderr=true
"""
# Told of every process that starts or ends, so that `watch` keeps endpoints.json true, and of each minute.
LISTENER = """
[eventlistener:endpoints]
command={command}
events=PROCESS_STATE_STARTING,PROCESS_STATE_RUNNING,PROCESS_STATE_EXITED,TICK_60
buffer_size=1000
stderr_logfile={logs}/endpoints.log
stdout_logfile=NONE
"""
OPEN_FILES = 65_536
LONGEST_SOCKET_PATH = 100
STOP_TIMEOUT_S = 120
MAX_STARTS = 4
"""Starts of a program after which its end is no accident."""


@dataclass(frozen=True)
class ProcessState:
    """How one program is: `state` in supervisord's words, times in seconds.

    `started_s`: when it was started last (Unix time); `exit_status`: of its last run.
    """

    name: str
    state: str
    pid: int | None
    uptime_s: int
    started_s: int = 0
    exit_status: int = 0


class Supervisor:
    """One supervisord with its configuration, control socket and logs in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.logs = folder / "logs"
        self._configuration = folder / "supervisord.conf"
        self._socket = folder / "supervisor.sock"
        if len(str(self._socket)) > LONGEST_SOCKET_PATH:
            raise StackError(f"{folder} is too long a path for a Unix socket — use a folder nearer to /")

    @property
    def pid(self) -> int | None:
        """Process id of supervisord, None unless it runs."""
        with suppress(OSError, ValueError, psutil.NoSuchProcess):
            process = psutil.Process(int((self.folder / "supervisord.pid").read_text()))
            if str(self._configuration) in process.cmdline():
                return process.pid
        return None

    def configure(self, programs: Sequence[Program], homes: Path) -> None:
        """Write the configuration that keeps `programs` running, each started when asked to.

        `homes`: where the servers' homes are.
        """
        self.logs.mkdir(exist_ok=True)
        # What one process logs is not for the account of another.
        self.logs.chmod(0o700)
        hard_limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        text = CONFIGURATION.format(
            socket=self._socket,
            folder=self.folder,
            open_files=OPEN_FILES if hard_limit == resource.RLIM_INFINITY else min(OPEN_FILES, hard_limit),
            user="user=root" if os.geteuid() == 0 else "",
        )
        text += "".join(self._section(program, order) for order, program in enumerate(programs, 100))
        argv = (sys.executable, "-m", "esp_stack.watch", str(self.folder), str(homes))
        watch = Program("endpoints", argv, self.folder)
        text += LISTENER.format(command=_literally(shlex.join(watch.command())), logs=self.logs)
        private_file(self._configuration, text, None)

    def start(self) -> None:
        """Start supervisord, or have the running one read its configuration again."""
        if self.pid:
            self._reload()
            return
        command = [sys.executable, "-m", "supervisor.supervisord", "-c", str(self._configuration)]
        environment = {**BASE_ENVIRONMENT, "HOME": str(Path.home())}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise StackError(f"supervisord did not start: {done.stderr.strip() or done.stdout.strip()}")
        wait_for(self.states, "supervisord", 10)

    def run(self, programs: Iterable[Program]) -> None:
        """Have `programs` started; those that run stay as they are."""
        for program in programs:
            try:
                self._call("startProcess", program.name, False)
            except Fault as fault:
                if fault.faultCode != Faults.ALREADY_STARTED:
                    raise StackError(
                        f"supervisord cannot start {program.name}: {fault.faultString}"
                    ) from fault

    def restart(self, programs: Iterable[Program]) -> None:
        """Stop `programs`, one after the other, and start them again."""
        for program in programs:
            with suppress(Fault):  # it does not run
                self._call("stopProcess", program.name)
            self.run([program])

    def stop_programs(self, names: Sequence[str]) -> None:
        """Stop these programs and return when they have ended; the others run on."""
        self._stop_lot(names)

    def stop(self, *first: Sequence[str]) -> None:
        """Stop the programs named in `first`, lot by lot, then the rest and supervisord; each lot at once."""
        if not (pid := self.pid):
            return
        for lot in first:
            self._stop_lot(lot)
        self._call("stopAllProcesses")
        self._call("shutdown")
        with suppress(psutil.NoSuchProcess):
            psutil.Process(pid).wait(STOP_TIMEOUT_S)

    def states(self) -> list[ProcessState]:
        """Return how every program is; empty unless supervisord runs."""
        if not self.pid:
            return []
        infos: list[dict[str, Any]] = self._call("getAllProcessInfo")
        return [
            ProcessState(
                name=info["name"],
                state=info["statename"].lower(),
                pid=info["pid"] or None,
                uptime_s=info["now"] - info["start"] if info["state"] == ProcessStates.RUNNING else 0,
                started_s=info["start"],
                exit_status=info["exitstatus"],
            )
            for info in infos
        ]

    def process_ids(self) -> dict[str, int]:
        """Return name → process id of every program that runs."""
        return {state.name: state.pid for state in self.states() if state.pid}

    def log(self, name: str) -> Path:
        """Return the file a program's output goes to."""
        return self.logs / f"{name}.log"

    def _stop_lot(self, names: Sequence[str]) -> None:
        for name in names:
            with suppress(Fault):  # it does not run
                self._call("stopProcess", name, False)
        wait_for(lambda: self._check_stopped(names), "stopping", STOP_TIMEOUT_S)

    def _check_stopped(self, names: Sequence[str]) -> None:
        alive = [state.name for state in self.states() if state.pid and state.name in names]
        if alive:
            raise ConnectionError(f"{', '.join(alive)} still running")

    def _reload(self) -> None:
        added, changed, removed = self._call("reloadConfig")[0]
        for group in [*changed, *removed]:
            self._call("stopProcessGroup", group)
            self._call("removeProcessGroup", group)
        for group in [*added, *changed]:
            self._call("addProcessGroup", group)

    def _call(self, method: str, *arguments: object) -> Any:
        transport = SupervisorTransport(None, None, f"unix://{self._socket}")
        with ServerProxy("http://127.0.0.1", transport=transport) as proxy:
            return getattr(proxy.supervisor, method)(*arguments)

    def _section(self, program: Program, order: int) -> str:
        environment = ",".join(f'{name}="{value}"' for name, value in program.full_environment().items())
        return PROGRAM.format(
            name=program.name,
            command=_literally(shlex.join(program.command())),
            folder=program.folder,
            environment=_literally(environment),
            priority=order,
            stop_signal=program.stop_signal,
            stop_timeout_s=program.stop_timeout_s,
            logs=self.logs,
        )


class StartWatch:
    """Notices when supervisord starts programs again and again, so that nobody waits for them in vain."""

    def __init__(self, supervisor: Supervisor, names: Iterable[str]) -> None:
        self._supervisor = supervisor
        self._starts: dict[str, set[int]] = {name: set() for name in names}

    def check(self) -> None:
        """Raise `StackError` when a program has ended too often since this watch began."""
        for state in self._supervisor.states():
            if state.name not in self._starts or not state.started_s:
                continue
            starts = self._starts[state.name]
            starts.add(state.started_s)
            if len(starts) > MAX_STARTS:
                raise StackError(
                    f"{state.name} ended {MAX_STARTS} times while starting,"
                    f" at last with status {state.exit_status}"
                )


def _literally(text: str) -> str:
    """Return `text` with what supervisord would expand escaped."""
    return text.replace("%", "%%")
