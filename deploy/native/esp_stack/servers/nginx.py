"""nginx: the platform's one HTTP door."""

import os
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path

import httpx
from esp_platform.nginx import Site, configuration

from esp_stack.certificates import Tls
from esp_stack.programs import Program, account, executable, free_port, private_file
from esp_stack.servers.server import Server

LARGEST_ACCESS_LOG_BYTES = 20_000_000
ACCESS_LOGS_KEPT = 5


def access_log_is_large(home: Path) -> bool:
    """Return whether it is time for a new access log."""
    log = home / "access.log"
    return log.exists() and log.stat().st_size >= LARGEST_ACCESS_LOG_BYTES


def rotate_access_log(home: Path, process_id: int) -> None:
    """Have the nginx of `process_id` begin a new access log, keeping the last ones."""
    log = home / "access.log"
    for number in range(ACCESS_LOGS_KEPT - 1, 0, -1):
        older = log.with_name(f"access.log.{number}")
        if older.exists():
            older.replace(log.with_name(f"access.log.{number + 1}"))
    log.replace(log.with_name("access.log.1"))
    # nginx writes to the renamed file until it opens its logs again.
    os.kill(process_id, signal.SIGUSR1)


class Nginx(Server):
    """The reverse proxy in front of the services' HTTP APIs: https only, TLS 1.3 only.

    `apis`: the ports of each service's API processes, by the service's name.
    `refusals`: the socket of who counts what nginx refuses; it need not be there.
    """

    name = "nginx"
    data_remedy = "move {home} away: nginx keeps no data"

    def __init__(
        self,
        home: Path,
        *,
        port: int | None = None,
        apis: Mapping[str, int | Sequence[int]],
        tls: Tls,
        refusals: Path | None = None,
    ) -> None:
        super().__init__(home, account("www-data"))
        self._refusals = refusals
        self.port = port or free_port()
        self.apis = apis
        self.tls = tls

    @property
    def url(self) -> str:
        """Base URL of the platform's HTTP API."""
        return f"https://127.0.0.1:{self.port}"

    @property
    def access_log(self) -> Path:
        """The file with one line a request."""
        return self.home / "access.log"

    def programs(self) -> Sequence[Program]:
        """Return the one process."""
        argv = (executable("nginx"), "-e", "stderr", "-c", str(self.home / "nginx.conf"))
        return [Program(self.name, argv, self.home, self.user)]

    def configure(self) -> None:
        """Write nginx.conf."""
        site = Site(
            listen=f"127.0.0.1:{self.port}",
            upstreams={name: _addresses(ports) for name, ports in self.apis.items()},
            tls=self.tls.files,
            folder=str(self.home),
            access_log=str(self.access_log),
            refusals=f"unix:{self._refusals}" if self._refusals else None,
            one_process=True,
        )
        private_file(self.home / "nginx.conf", configuration(site), self.user)

    def check(self) -> None:
        """Raise unless nginx itself answers, whatever is behind it."""
        answer = httpx.get(f"{self.url}/nothing", timeout=2, verify=self.tls.client_context())
        if answer.status_code != httpx.codes.NOT_FOUND:
            raise ConnectionError(f"{self.url} is not answered by nginx")


def _addresses(ports: int | Sequence[int]) -> str:
    return ",".join(f"127.0.0.1:{port}" for port in ([ports] if isinstance(ports, int) else ports))
