"""Redis, with an append-only file and a user for each service, which reaches the service's own keys only."""

from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from secrets import token_urlsafe

from esp_common import topology
from redis import Redis as Client

from esp_stack.certificates import Tls
from esp_stack.programs import Program, account, executable, free_port, private_file
from esp_stack.servers.server import Server

CONFIGURATION = """\
bind 127.0.0.1
{listener}
{users}
dir {home}
daemonize no
databases 256
appendonly yes
save ""
maxmemory 512mb
# Only what has a time to live may go when memory is short.
maxmemory-policy volatile-ttl
"""
ADMINISTRATOR = "default"
"""Redis's own name for who may do everything."""

_EVERYTHING = "~* &* +@all"
# Each its own keys and channels, and the shared counts of requests. Everybody has to know what auth has
# revoked, and nobody else may say so.
_OWN = "~{service}:* &{service}:* ~esp:rate* {auth}esp:auth:* +@all -@admin -@dangerous"

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
        self.passwords = passwords or {
            name: token_urlsafe(24) for name in (ADMINISTRATOR, *topology.SERVICES)
        }

    @property
    def url(self) -> str:
        """Administrator's URL of database 0."""
        return self.url_of(0)

    def url_of(self, number: int, user: str = ADMINISTRATOR) -> str:
        """Return a user's URL of one of the 256 numbered databases."""
        scheme, query = ("rediss", f"?ssl_ca_certs={self.tls.authority}") if self.tls else ("redis", "")
        return f"{scheme}://{user}:{self.passwords[user]}@127.0.0.1:{self.port}/{number}{query}"

    def programs(self) -> Sequence[Program]:
        """Return the one process."""
        argv = (executable("redis-server"), str(self.home / "redis.conf"))
        return [Program(self.name, argv, self.home, self.user)]

    def configure(self) -> None:
        """Write redis.conf."""
        listener = (TLS_LISTENER if self.tls else PLAIN_LISTENER).format(port=self.port, tls=self.tls)
        users = "\n".join(self._user(name) for name in (ADMINISTRATOR, *topology.SERVICES))
        text = CONFIGURATION.format(listener=listener, users=users, home=self.home)
        private_file(self.home / "redis.conf", text, self.user)

    def check(self) -> None:
        """Raise unless the server answers a ping."""
        with Client.from_url(self.url, socket_timeout=2) as client:
            client.ping()

    def _user(self, name: str) -> str:
        rights = _OWN.format(service=name, auth="~" if name == "auth" else "%R~")
        digest = sha256(self.passwords[name].encode()).hexdigest()
        return f"user {name} reset on #{digest} {_EVERYTHING if name == ADMINISTRATOR else rights}"
