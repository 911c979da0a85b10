"""What the native stack consists of: its folders, ports, credentials, servers and roles."""

from functools import cached_property
from hashlib import sha256
from pathlib import Path

from esp_common import topology

from esp_stack.databases import ROLES
from esp_stack.memory import Credentials, remembered_ports
from esp_stack.programs import account, may, service_account
from esp_stack.servers import Azurite, Nginx, OpenBao, Postgres, RabbitMQ, RabbitPorts, Redis, Server
from esp_stack.servers.azurite import new_account_key
from esp_stack.servers.rabbitmq import ADMINISTRATOR, GATEWAYS
from esp_stack.supervision import Supervisor

DATABASE = "esp"
ENGINEERS_GATEWAY = "gw-demo"
"""The gateway an engineer replays files through; the others belong to the simulated field."""

PREFERRED_PORTS = {
    "http": 17080,
    "postgres": 17432,
    "redis": 17379,
    "amqp": 17672,
    "mqtt": 17883,
    "management": 17673,
    "rabbitmq-metrics": 17692,
    "distribution": 17674,
    "epmd": 17369,
    "blob": 17000,
    "vault": 17200,
    "vault-cluster": 17201,
    "auth-worker": 17110,
    "ingest-api": 17120,
    "ingest-worker": 17121,
    "ingest-maintenance": 17122,
}


class Stack:
    """Everything of one stack but its roles, described; `lifecycle` brings it to life.

    `folder`: where it keeps all that it writes. Servers' homes are elsewhere only if the folder lies
    where their accounts cannot go.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o711)
        self.homes = _homes(folder)
        self.user = service_account()
        self.supervisor = Supervisor(folder)
        self.credentials = Credentials(folder / "credentials.json")

    @cached_property
    def ports(self) -> dict[str, int]:
        """Port of everything that listens, by name."""
        running = self.supervisor.pid is not None
        return remembered_ports(self.folder / "ports.json", PREFERRED_PORTS, running=running)

    @cached_property
    def postgres(self) -> Postgres:
        """The database server."""
        passwords = self.credentials.passwords("postgres", *ROLES, prefix="postgres")
        return Postgres(self.homes / "postgres", port=self.ports["postgres"], passwords=passwords)

    @cached_property
    def rabbitmq(self) -> RabbitMQ:
        """The broker."""
        users = (ADMINISTRATOR, *topology.SERVICES, *GATEWAYS)
        names = ("amqp", "mqtt", "management", "rabbitmq-metrics", "distribution", "epmd")
        return RabbitMQ(
            self.homes / "rabbitmq",
            ports=RabbitPorts(*(self.ports[name] for name in names)),
            passwords=self.credentials.passwords(*users, prefix="rabbitmq"),
        )

    @cached_property
    def redis(self) -> Redis:
        """The cache."""
        password = self.credentials.get("redis")
        return Redis(self.homes / "redis", port=self.ports["redis"], password=password)

    @cached_property
    def openbao(self) -> OpenBao:
        """The vault."""
        port, cluster_port = self.ports["vault"], self.ports["vault-cluster"]
        return OpenBao(self.homes / "openbao", port=port, cluster_port=cluster_port)

    @cached_property
    def azurite(self) -> Azurite:
        """The blob storage."""
        key = self.credentials.get("azurite", new_account_key())
        return Azurite(self.homes / "azurite", port=self.ports["blob"], account_key=key)

    @cached_property
    def nginx(self) -> Nginx:
        """The HTTP door."""
        port, api = self.ports["http"], self.ports["ingest-api"]
        return Nginx(self.homes / "nginx", port=port, ingest_api_port=api)

    @property
    def servers(self) -> list[Server]:
        """Every server, in starting order."""
        return [self.postgres, self.rabbitmq, self.redis, self.openbao, self.azurite, self.nginx]

    @property
    def api_key(self) -> str:
        """The bootstrap API key, which holds every scope."""
        return f"esp_live_bootstrap_{self.credentials.get('api-key')}"

    @property
    def engine(self) -> str:
        """The storage engine in use."""
        return "timescale" if self.postgres.has_timescale else "postgres"


def _homes(folder: Path) -> Path:
    """Return where the servers' homes go: `folder` if their accounts can get there."""
    user = account("postgres")
    if user is None or may(user, "test", "-x", str(folder)):
        return folder
    elsewhere = Path("/var/lib/esp-stack") / sha256(str(folder).encode()).hexdigest()[:12]
    elsewhere.mkdir(parents=True, exist_ok=True)
    return elsewhere
