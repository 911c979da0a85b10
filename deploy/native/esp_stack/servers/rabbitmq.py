"""RabbitMQ: a private node with the platform's topology loaded from generated definitions."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex, token_urlsafe
from typing import Any
from urllib.parse import quote

import httpx
from esp_common import topology
from esp_platform import broker
from esp_platform.broker import ADMINISTRATOR, AUTH_CACHE_TTL_MS, SESSION_KEEPER, AuthBackend, Listeners

from esp_stack.certificates import Tls
from esp_stack.plain_http import ask
from esp_stack.programs import Program, StackError, account, executable, free_port, private_file
from esp_stack.servers.server import Server

GATEWAYS = ("gw-01", "gw-02", "gw-03", "gw-04", "gw-05", "gw-demo")
INSTALLATIONS = Path("/usr/lib/rabbitmq/lib")
# Schedulers that spin while waiting would take the CPU from everyone else on a small machine.
ERLANG_OPTIONS = "+sbwt none +sbwtdcpu none +sbwtdio none -kernel inet_dist_use_interface {127,0,0,1}"


def installed_major_version() -> int:
    """Return the major version of Debian's RabbitMQ."""
    releases = [
        folder.name.removeprefix("rabbitmq_server-") for folder in INSTALLATIONS.glob("rabbitmq_server-*")
    ]
    if not releases:
        raise StackError("RabbitMQ is not installed — run `make up` as root once to install it")
    return max(int(release.split(".")[0]) for release in releases)


@dataclass(frozen=True)
class RabbitPorts:
    """Loopback ports of one node."""

    amqp: int
    mqtt: int
    management: int
    prometheus: int
    distribution: int
    epmd: int

    @classmethod
    def free(cls) -> "RabbitPorts":
        """Return six ports that are free now."""
        return cls(*(free_port() for _ in range(6)))


@dataclass(frozen=True)
class Vhost:
    """A virtual host with the topology in it."""

    name: str
    server: "RabbitMQ"

    @property
    def url(self) -> str:
        """Administrator's AMQP URL."""
        return self.server.url_for(ADMINISTRATOR, self.name)

    def url_for(self, user: str) -> str:
        """Return the AMQP URL of a service's or a gateway's user."""
        return self.server.url_for(user, self.name)

    def delete(self) -> None:
        """Delete the virtual host and everything in it."""
        self.server.api("DELETE", f"vhosts/{quote(self.name, safe='')}")


class RabbitMQ(Server):
    """One node with an administrator, a user for each service and, without `auth_url`, one for each gateway.

    `passwords`: of `admin` and of every service and gateway; random ones if not given.
    `tls`: AMQP and MQTT over TLS only; without it, in the clear only.
    `auth_url`: who the node asks about whoever is not a user of its own (the gateways), and for how many
    milliseconds (`auth_cache_ttl_ms`) it goes by an answer.
    """

    name = "rabbitmq"
    data_remedy = "move {home}/mnesia away. The node then starts empty: messages that waited in it are lost"
    start_timeout_s = 120.0
    start_pause_s = 0.2

    def __init__(
        self,
        home: Path,
        *,
        ports: RabbitPorts | None = None,
        passwords: Mapping[str, str] | None = None,
        tls: Tls | None = None,
        auth_url: str | None = None,
        auth_cache_ttl_ms: int = AUTH_CACHE_TTL_MS,
    ) -> None:
        super().__init__(home, account("rabbitmq"))
        self.ports = ports or RabbitPorts.free()
        self.tls = tls
        self._auth = AuthBackend(auth_url, auth_cache_ttl_ms) if auth_url else None
        users = (ADMINISTRATOR, SESSION_KEEPER, *topology.SERVICES, *GATEWAYS)
        self.passwords = passwords or {name: token_urlsafe(24) for name in users}

    @property
    def url(self) -> str:
        """Administrator's AMQP URL of the default virtual host."""
        return self.url_for(ADMINISTRATOR)

    @property
    def mqtt_url(self) -> str:
        """Address of the MQTT 3.1.1 listener."""
        return f"mqtt{'s' if self.tls else ''}://127.0.0.1:{self.ports.mqtt}"

    @property
    def management_url(self) -> str:
        """Base URL of the management API."""
        return f"http://127.0.0.1:{self.ports.management}/api"

    @property
    def administrator_url(self) -> str:
        """URL of the management API with the administrator's credentials."""
        login = f"{ADMINISTRATOR}:{self.passwords[ADMINISTRATOR]}"
        return f"http://{login}@127.0.0.1:{self.ports.management}/api"

    @property
    def session_keeper_url(self) -> str:
        """URL of the management API with the credentials of who ends gateways' connections."""
        login = f"{SESSION_KEEPER}:{self.passwords[SESSION_KEEPER]}"
        return f"http://{login}@127.0.0.1:{self.ports.management}/api"

    def url_for(self, user: str, vhost: str = "/") -> str:
        """Return the AMQP URL of a service's or a gateway's user."""
        scheme, address = self.address.split("://")
        return f"{scheme}://{user}:{self.passwords[user]}@{address}/{quote(vhost, safe='')}"

    @property
    def address(self) -> str:
        """Scheme, host and port of the AMQP listener."""
        return f"amqp{'s' if self.tls else ''}://127.0.0.1:{self.ports.amqp}"

    def api(self, method: str, path: str, body: object = None) -> httpx.Response:
        """Call the management API as the administrator; raise on an error status."""
        response = ask(
            method,
            f"{self.management_url}/{path}",
            json=body,
            auth=(ADMINISTRATOR, self.passwords[ADMINISTRATOR]),
            timeout=10,
        )
        return response.raise_for_status()

    def vhost(self) -> Vhost:
        """Create a virtual host with the whole topology, its users' rights included."""
        name = f"test-{token_hex(6)}"
        self.api("PUT", f"vhosts/{name}")
        definitions = self.definitions(name)
        # The users are there already: setting their passwords again would close their connections.
        del definitions["users"]
        self.api("POST", "definitions", definitions)
        return Vhost(name, self)

    def definitions(self, vhost: str = "/") -> dict[str, Any]:
        """Return the topology and the users as RabbitMQ's definitions, for `vhost`."""
        known = () if self._auth else GATEWAYS
        # With a backend that knows the gateways, auth closes their connections.
        users = (ADMINISTRATOR, *topology.SERVICES, *([SESSION_KEEPER] if self._auth else []))
        passwords = {user: self.passwords[user] for user in users}
        gateways = {gateway: self.passwords[gateway] for gateway in known}
        return broker.definitions(passwords, gateways, vhost=vhost)

    def programs(self) -> Sequence[Program]:
        """Return the node and the name server it registers with, which nobody else uses."""
        epmd = (executable("epmd"), "-port", str(self.ports.epmd), "-address", "127.0.0.1")
        node = ("/usr/lib/rabbitmq/bin/rabbitmq-server",)
        environment = self._environment()
        return [
            Program("epmd", epmd, self.home, self.user, environment),
            Program(self.name, node, self.home, self.user, environment, stop_timeout_s=60),
        ]

    def configure(self) -> None:
        """Write the cookie, the plugins, the configuration and the definitions."""
        cookie = self.home / ".erlang.cookie"
        if not cookie.exists():
            private_file(cookie, token_hex(32), self.user)
            cookie.chmod(0o400)
        private_file(self.home / "enabled_plugins", broker.enabled_plugins(), self.user)
        definitions = private_file(
            self.home / "definitions.json", json.dumps(self.definitions(), indent=1), self.user
        )
        ports = self.ports
        listeners = Listeners("127.0.0.1", ports.amqp, ports.mqtt, ports.management, ports.prometheus)
        tls = self.tls.files if self.tls else None
        text = broker.configuration(
            listeners, str(definitions), tls, self._auth, major_version=installed_major_version()
        )
        private_file(self.home / "rabbitmq.conf", text, self.user)

    def wait_ready(self, check_alive: Callable[[], None] | None = None) -> None:
        """Wait for the topology, then remove users it does not have any more: definitions only add."""
        super().wait_ready(check_alive)
        known = {user["name"] for user in self.definitions()["users"]}
        for user in self.api("GET", "users?columns=name").json():
            if user["name"] not in known:
                self.api("DELETE", f"users/{quote(user['name'], safe='')}")

    def check(self) -> None:
        """Raise unless the node takes connections and has every queue of the definitions.

        They are imported after the management port opens, so an answer from it is not enough.
        """
        present = {queue["name"] for queue in self.api("GET", "queues/%2F?columns=name").json()}
        missing = {queue["name"] for queue in self.definitions()["queues"]} - present
        if missing:
            raise ConnectionError(f"queues not declared yet: {', '.join(sorted(missing))}")
        self.api("GET", f"health/checks/port-listener/{self.ports.amqp}")

    def _environment(self) -> dict[str, str]:
        return {
            "HOME": str(self.home),
            "ERL_EPMD_PORT": str(self.ports.epmd),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            # Makes the start script become the node instead of its parent.
            "RUNNING_UNDER_SYSTEMD": "true",
            "RABBITMQ_NODENAME": "esp@localhost",
            "RABBITMQ_DIST_PORT": str(self.ports.distribution),
            "RABBITMQ_CONF_ENV_FILE": "/dev/null",
            "RABBITMQ_CONFIG_FILE": str(self.home / "rabbitmq.conf"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(self.home / "advanced.config"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.home / "enabled_plugins"),
            "RABBITMQ_MNESIA_BASE": str(self.home / "mnesia"),
            "RABBITMQ_LOG_BASE": str(self.home),
            "RABBITMQ_PID_FILE": str(self.home / "rabbitmq.pid"),
            "RABBITMQ_GENERATED_CONFIG_DIR": str(self.home / "generated"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": f"{ERLANG_OPTIONS}",
        }
