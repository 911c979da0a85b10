"""Redis, with an append-only file and a user for each service, which reaches the service's own keys only."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from secrets import token_urlsafe

from esp_platform.redis import ADMINISTRATOR, USERS, configuration, user_lines
from redis import Redis as Client

from esp_stack.certificates import Tls
from esp_stack.programs import Program, account, executable, free_port, private_file
from esp_stack.servers.server import Server


class Redis(Server):
    """One Redis server; with `tls`, over TLS only.

    `passwords`: of `default`, who may do everything, and of every service; random ones if not given.
    """

    name = "redis"
    data_remedy = (
        "repair it with `redis-check-aof --fix` on the manifest in "
        "{home}/appendonlydir, or move that folder away: no reading is in it"
    )

    def __init__(
        self,
        home: Path,
        *,
        port: int | None = None,
        passwords: Mapping[str, str] | None = None,
        tls: Tls | None = None,
    ) -> None:
        super().__init__(home, account("redis"))
        self.tls = tls
        self.port = port or free_port()
        self.passwords = passwords or {name: token_urlsafe(24) for name in USERS}

    @property
    def url(self) -> str:
        """Administrator's URL of database 0."""
        return self.url_of(0)

    def url_of(self, number: int, user: str = ADMINISTRATOR) -> str:
        """Return a user's URL of one of the 256 numbered databases."""
        return self.address(number, login=f"{user}:{self.passwords[user]}@")

    def address(self, number: int, *, login: str = "") -> str:
        """Return the URL of a numbered database, without credentials unless `login` has some."""
        scheme, query = ("rediss", f"?ssl_ca_certs={self.tls.authority}") if self.tls else ("redis", "")
        return f"{scheme}://{login}127.0.0.1:{self.port}/{number}{query}"

    def programs(self) -> Sequence[Program]:
        """Return the one process."""
        argv = (executable("redis-server"), str(self.home / "redis.conf"))
        return [Program(self.name, argv, self.home, self.user)]

    def configure(self) -> None:
        """Write redis.conf."""
        tls = self.tls.files if self.tls else None
        text = configuration("127.0.0.1", self.port, str(self.home), user_lines(self.passwords), tls)
        private_file(self.home / "redis.conf", text, self.user)

    def check(self) -> None:
        """Raise unless the server answers a ping."""
        with Client.from_url(self.url, socket_timeout=2) as client:
            client.ping()
