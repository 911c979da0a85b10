"""What the native stack consists of: its folders, ports, credentials, servers and roles."""

import os
from functools import cached_property
from hashlib import sha256
from pathlib import Path

from esp_common import topology
from esp_common.auth import new_api_key
from esp_platform import redis
from esp_platform.broker import ADMINISTRATOR, SESSION_KEEPER
from esp_platform.databases import LOGIN_MAKER, ROLES
from esp_platform.service_secrets import Addresses
from esp_platform.vault import Vault

from esp_stack.certificates import Tls
from esp_stack.memory import Credentials, remembered_ports
from esp_stack.programs import account, may, separate_accounts
from esp_stack.servers import Azurite, Nginx, OpenBao, Postgres, RabbitMQ, RabbitPorts, Redis, Server
from esp_stack.servers.azurite import new_account_key
from esp_stack.servers.rabbitmq import GATEWAYS
from esp_stack.supervision import Supervisor

DATABASE = "esp"
ADMIN = "admin"
"""The first user of the platform, who has to change the generated password."""
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
    "auth-api": 17111,
    "ingest-api": 17120,
    "ingest-worker": 17121,
    "ingest-maintenance": 17122,
    "diagnostics-worker": 17140,
    "diagnostics-api": 17141,
    "diagnostics-notifier": 17142,
    "archiver-worker": 17150,
    "archiver-api": 17151,
    "backup-worker": 17160,
    "backup-api": 17161,
    "auth-api-metrics": 17171,
    "ingest-api-metrics": 17172,
    "diagnostics-api-metrics": 17173,
    "archiver-api-metrics": 17174,
    "backup-api-metrics": 17175,
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
        self.supervisor = Supervisor(folder)
        self.credentials = Credentials(folder / "credentials.json")

    @property
    def history_h(self) -> float:
        """How long a past, hours, the simulated field has when it is new."""
        return float(os.environ.get("ESP_STACK_HISTORY_H", "0"))

    @cached_property
    def ports(self) -> dict[str, int]:
        """Port of everything that listens, by name."""
        running = self.supervisor.pid is not None
        return remembered_ports(self.folder / "ports.json", PREFERRED_PORTS, running=running)

    @cached_property
    def postgres(self) -> Postgres:
        """The database server."""
        passwords = self.credentials.passwords("postgres", *ROLES, prefix="postgres")
        return Postgres(
            self.homes / "postgres",
            port=self.ports["postgres"],
            passwords=passwords,
            tls=self._tls("postgres"),
            # Not asynchronously, which would leave a daemon of pgBackRest's behind a database that ends.
            archiving=f"pgbackrest --config={self.backup_state}/pgbackrest.conf --stanza=esp"
            " --no-archive-async archive-push %p",
        )

    @cached_property
    def rabbitmq(self) -> RabbitMQ:
        """The broker."""
        users = (ADMINISTRATOR, SESSION_KEEPER, *topology.SERVICES)
        names = ("amqp", "mqtt", "management", "rabbitmq-metrics", "distribution", "epmd")
        return RabbitMQ(
            self.homes / "rabbitmq",
            ports=RabbitPorts(*(self.ports[name] for name in names)),
            passwords=self.credentials.passwords(*users, prefix="rabbitmq"),
            tls=self._tls("rabbitmq"),
            auth_url=f"http://127.0.0.1:{self.ports['auth-api']}/broker/{self.broker_secret}",
        )

    @cached_property
    def redis(self) -> Redis:
        """The cache."""
        passwords = self.credentials.passwords(*redis.USERS, prefix="redis")
        return Redis(
            self.homes / "redis", port=self.ports["redis"], passwords=passwords, tls=self._tls("redis")
        )

    @cached_property
    def openbao(self) -> OpenBao:
        """The vault."""
        port, cluster_port = self.ports["vault"], self.ports["vault-cluster"]
        return OpenBao(self.homes / "openbao", port=port, cluster_port=cluster_port)

    @cached_property
    def azurite(self) -> Azurite:
        """The blob storage."""
        key = self.credentials.get("azurite", new_account_key())
        return Azurite(
            self.homes / "azurite", port=self.ports["blob"], account_key=key, tls=self._tls("azurite")
        )

    @cached_property
    def nginx(self) -> Nginx:
        """The HTTP door."""
        return Nginx(
            self.homes / "nginx",
            port=self.ports["http"],
            apis={service: self.ports[f"{service}-api"] for service in topology.SERVICES},
            tls=self._tls("nginx"),
            refusals=self.refusals_socket,
        )

    @property
    def refusals_socket(self) -> Path:
        """Where nginx tells auth's worker what it has refused."""
        return self.homes / "edge" / "refusals.sock"

    @property
    def servers(self) -> list[Server]:
        """Every server, in starting order: the vault first, which issues the others' certificates."""
        return [self.openbao, self.postgres, self.rabbitmq, self.redis, self.azurite, self.nginx]

    @property
    def vault(self) -> Vault:
        """What is in the vault."""
        return Vault(self.openbao, bound_cidrs=["127.0.0.1/32"])

    @property
    def addresses(self) -> Addresses:
        """Where the services find the servers."""
        return Addresses(
            amqp=f"{self.rabbitmq.address}/%2F",
            management=self.rabbitmq.management_url,
            redis=self.redis.address(0),
            blob=self.azurite.connection_string,
            cluster=self.postgres.socket_url(DATABASE),
        )

    @property
    def ca_file(self) -> Path:
        """Certificate of the stack's own authority."""
        return self.homes / "ca.pem"

    @property
    def certificates(self) -> dict[Server, Tls]:
        """The certificate of each server that has one."""
        return {
            server: tls
            for server in (self.postgres, self.rabbitmq, self.redis, self.azurite, self.nginx)
            if (tls := server.tls)
        }

    @property
    def amqp_query(self) -> str:
        """What an AMQP URL ends with, so that a client knows the stack's authority."""
        return f"?cafile={self.ca_file}"

    @property
    def api_key(self) -> str:
        """The bootstrap API key, which holds every scope."""
        return self.credentials.get("key.bootstrap")

    @property
    def gateway_keys(self) -> dict[str, str]:
        """The API key of every gateway, by its id."""
        return {name: self.credentials.get(f"key.{name}", new_api_key(name)) for name in GATEWAYS}

    @property
    def admin_password(self) -> str:
        """The password the first user has until it is changed."""
        return self.credentials.get("admin")

    @property
    def master_key(self) -> str:
        """What auth derives its keys from."""
        return self.credentials.get("auth.master-key")

    @property
    def broker_secret(self) -> str:
        """What the broker shows auth to be answered."""
        return self.credentials.get("auth.broker-secret")

    @property
    def backup_state(self) -> Path:
        """Folder of what backups need besides the backups."""
        return self.homes / "backup"

    @property
    def kept_configuration(self) -> Path:
        """Folder of the configuration files that go into the daily set."""
        return self.backup_state / "configuration"

    @property
    def cluster_user(self) -> str | None:
        """The account for what reads the database's files: None where all processes run as one."""
        return account("postgres") if separate_accounts() else None

    @property
    def snapshot_token(self) -> str:
        """What a snapshot of the vault is taken with, and nothing else."""
        return self.credentials.get("vault.snapshot-token")

    @property
    def login_maker_password(self) -> str:
        """Password of the database role as which the vault makes logins."""
        return self.credentials.get(f"postgres.{LOGIN_MAKER}")

    def _tls(self, name: str) -> Tls:
        return Tls(self.homes / "certificates" / f"{name}.pem", self.ca_file)

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
