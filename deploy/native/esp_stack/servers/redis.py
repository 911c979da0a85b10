"""Redis, with an append-only file and a password that is only in its private configuration."""

from collections.abc import Sequence
from pathlib import Path
from secrets import token_urlsafe

from redis import Redis as Client

from esp_stack.certificates import Tls
from esp_stack.programs import Program, account, executable, free_port, private_file
from esp_stack.servers.server import Server

CONFIGURATION = """\
bind 127.0.0.1
{listener}
requirepass {password}
dir {home}
daemonize no
databases 256
appendonly yes
save ""
maxmemory 512mb
# Only what has a time to live may go when memory is short.
maxmemory-policy volatile-ttl
"""
PLAIN_LISTENER = "port {port}"
TLS_LISTENER = """\
port 0
tls-port {port}
tls-cert-file {tls.server}
tls-key-file {tls.server}
tls-ca-cert-file {tls.authority}
tls-auth-clients no
tls-protocols "TLSv1.3\""""


class Redis(Server):
    """One Redis server; with `tls`, over TLS only."""

    name = "redis"

    def __init__(
        self, home: Path, *, port: int | None = None, password: str | None = None, tls: Tls | None = None
    ) -> None:
        super().__init__(home, account("redis"))
        self.tls = tls
        self.port = port or free_port()
        self.password = password or token_urlsafe(24)

    @property
    def url(self) -> str:
        """URL of database 0."""
        return self.url_of(0)

    def url_of(self, number: int) -> str:
        """Return the URL of one of the 256 numbered databases."""
        scheme, query = ("rediss", f"?ssl_ca_certs={self.tls.authority}") if self.tls else ("redis", "")
        return f"{scheme}://:{self.password}@127.0.0.1:{self.port}/{number}{query}"

    def programs(self) -> Sequence[Program]:
        """Return the one process."""
        argv = (executable("redis-server"), str(self.home / "redis.conf"))
        return [Program(self.name, argv, self.home, self.user)]

    def configure(self) -> None:
        """Write redis.conf."""
        listener = (TLS_LISTENER if self.tls else PLAIN_LISTENER).format(port=self.port, tls=self.tls)
        text = CONFIGURATION.format(listener=listener, password=self.password, home=self.home)
        private_file(self.home / "redis.conf", text, self.user)

    def check(self) -> None:
        """Raise unless the server answers a ping."""
        with Client.from_url(self.url, socket_timeout=2) as client:
            client.ping()
