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

from esp_stack.certificates import Tls
from esp_stack.plain_http import ask
from esp_stack.programs import Program, account, executable, free_port, private_file
from esp_stack.servers.server import Server

ADMINISTRATOR = "admin"
SESSION_KEEPER = "session-keeper"
"""As whom auth ends gateways' connections, which takes an administrator; it has no right to any message."""
GATEWAYS = ("gw-01", "gw-02", "gw-03", "gw-04", "gw-05", "gw-demo")
PLUGINS = (
    "rabbitmq_management",
    "rabbitmq_mqtt",
    "rabbitmq_consistent_hash_exchange",
    "rabbitmq_prometheus",
    "rabbitmq_auth_backend_http",
    "rabbitmq_auth_backend_cache",
)

CONFIGURATION = """\
management.tcp.ip = 127.0.0.1
management.tcp.port = {ports.management}
prometheus.tcp.ip = 127.0.0.1
prometheus.tcp.port = {ports.prometheus}
mqtt.exchange = esp.ingest
mqtt.allow_anonymous = false
mqtt.vhost = /
max_message_size = 4194304
consumer_timeout = 1800000
disk_free_limit.absolute = 500MB
vm_memory_high_watermark.relative = 0.4
cluster_name = esp
management.load_definitions = {definitions}
log.console = true
log.console.level = info
log.exchange = true
log.exchange.level = warning
log.file = false
"""
PLAIN_LISTENERS = """\
listeners.tcp.1 = 127.0.0.1:{ports.amqp}
mqtt.listeners.tcp.1 = 127.0.0.1:{ports.mqtt}
"""
# Gateways in the field may be older than TLS 1.3. Of TLS 1.2 only suites that authenticate what they encrypt
# (AEAD) and have forward secrecy: the default includes CBC suites.
CIPHERS = (
    "TLS_AES_256_GCM_SHA384",
    "TLS_AES_128_GCM_SHA256",
    "TLS_CHACHA20_POLY1305_SHA256",
    "ECDHE-ECDSA-AES256-GCM-SHA384",
    "ECDHE-RSA-AES256-GCM-SHA384",
    "ECDHE-ECDSA-CHACHA20-POLY1305",
    "ECDHE-RSA-CHACHA20-POLY1305",
    "ECDHE-ECDSA-AES128-GCM-SHA256",
    "ECDHE-RSA-AES128-GCM-SHA256",
)
TLS_LISTENERS = """\
listeners.tcp = none
listeners.ssl.1 = 127.0.0.1:{ports.amqp}
mqtt.listeners.tcp = none
mqtt.listeners.ssl.1 = 127.0.0.1:{ports.mqtt}
ssl_options.cacertfile = {tls.authority}
ssl_options.certfile = {tls.server}
ssl_options.keyfile = {tls.server}
ssl_options.verify = verify_none
ssl_options.versions.1 = tlsv1.3
ssl_options.versions.2 = tlsv1.2
"""
# A decision is kept this long; what was revoked in between is refused after it.
AUTH_BACKEND = """\
auth_backends.1 = internal
auth_backends.2 = cache
auth_cache.cached_backend = http
auth_cache.cache_ttl = {ttl_ms}
auth_http.http_method = post
auth_http.user_path = {url}/user
auth_http.vhost_path = {url}/vhost
auth_http.resource_path = {url}/resource
auth_http.topic_path = {url}/topic
"""
AUTH_CACHE_TTL_MS = 15_000
# Schedulers that spin while waiting would take the CPU from everyone else on a small machine.
ERLANG_OPTIONS = "+sbwt none +sbwtdcpu none +sbwtdio none -kernel inet_dist_use_interface {127,0,0,1}"


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
        self._auth_url = auth_url
        self._auth_cache_ttl_ms = auth_cache_ttl_ms
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
        services = {user: self.passwords[user] for user in (ADMINISTRATOR, *topology.SERVICES)}
        known = () if self._auth_url else GATEWAYS
        gateways = {gateway: self.passwords[gateway] for gateway in known}
        found = topology.definitions(services, gateways, vhost=vhost, administrator=ADMINISTRATOR)
        if self._auth_url:
            found["users"].append(_administrator(SESSION_KEEPER, self.passwords[SESSION_KEEPER]))
        return found

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
        private_file(self.home / "enabled_plugins", f"[{','.join(PLUGINS)}].\n", self.user)
        definitions = private_file(
            self.home / "definitions.json", json.dumps(self.definitions(), indent=1), self.user
        )
        text = CONFIGURATION.format(ports=self.ports, definitions=definitions)
        listeners = TLS_LISTENERS if self.tls else PLAIN_LISTENERS
        text += listeners.format(ports=self.ports, tls=self.tls)
        if self.tls:
            text += "ssl_options.honor_cipher_order = true\n"
            text += "".join(f"ssl_options.ciphers.{n} = {name}\n" for n, name in enumerate(CIPHERS, 1))
        if self._auth_url:
            text += AUTH_BACKEND.format(url=self._auth_url, ttl_ms=self._auth_cache_ttl_ms)
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


def _administrator(name: str, password: str) -> dict[str, Any]:
    return {
        "name": name,
        "password_hash": topology.password_hash(password),
        "hashing_algorithm": "rabbit_password_hashing_sha256",
        "tags": ["administrator"],
        "limits": {},
    }
