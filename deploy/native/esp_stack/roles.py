"""The roles: every process of ours, its settings, and the files its credentials are in."""

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from esp_stack.databases import OWNER
from esp_stack.programs import Program, executable, private_file, private_folder
from esp_stack.servers.rabbitmq import GATEWAYS
from esp_stack.stack import DATABASE, ENGINEERS_GATEWAY, Stack

SIMULATOR = "gateway-sim"
ROLES = ("auth-worker", "ingest-api", "ingest-worker", "ingest-maintenance", SIMULATOR)


@dataclass(frozen=True)
class Role:
    """One process of ours; `ready_url` answers 200 when it does its work (None: it does while it runs)."""

    program: Program
    ready_url: str | None


class Roles:
    """The roles of a stack. Credentials reach them as files that only their account can read."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._secrets = stack.homes / "secrets"

    def all(self) -> list[Role]:
        """Return every role, in starting order."""
        ingest, owner = self._ingest("esp_ingest"), self._ingest(OWNER)
        return [
            self._role("auth-worker", "esp-auth", ("worker",), self._auth()),
            self._role("ingest-api", "esp-ingest", ("api",), ingest),
            self._role("ingest-worker", "esp-ingest", ("worker",), ingest),
            self._role("ingest-maintenance", "esp-ingest", ("maintenance",), owner),
            Role(self._program(SIMULATOR, "esp-gateway", self._simulator(), {}), None),
        ]

    def migrate(self) -> Program:
        """Return what brings ingest's schema up to date."""
        return self._program("migrate", "esp-ingest", ("migrate",), self._ingest(OWNER))

    def simulated_assets(self) -> Program:
        """Return what prints the simulated field's assets."""
        return self._program("assets", "esp-gateway", ("simulate", "--assets"), {})

    def import_assets(self, assets: Path) -> Program:
        """Return what imports `assets`."""
        arguments = ("assets", "import", str(assets))
        return self._program("assets-import", "esp-ingest", arguments, self._ingest("esp_ingest"))

    def for_operators(self) -> dict[str, str]:
        """Return the settings with which a person runs ingest's commands."""
        return self._ingest("esp_ingest")

    def _role(self, name: str, command: str, arguments: tuple[str, ...], settings: Mapping[str, str]) -> Role:
        port = self._stack.ports[name]
        prefix = command.replace("-", "_").upper()
        program = self._program(name, command, arguments, {**settings, f"{prefix}_HTTP_PORT": str(port)})
        return Role(program, f"http://127.0.0.1:{port}/health/ready")

    def _program(
        self, name: str, command: str, arguments: tuple[str, ...], settings: Mapping[str, str]
    ) -> Program:
        path = executable(command, str(Path(sys.executable).parent))
        return Program(name, (path, *arguments), self._stack.homes, self._stack.user, settings)

    def _ingest(self, database_role: str) -> dict[str, str]:
        stack = self._stack
        return {
            "ESP_INGEST_AMQP_URL_FILE": self._secret("ingest.amqp", stack.rabbitmq.url_for("ingest")),
            "ESP_INGEST_DATABASE_URL_FILE": self._secret(
                f"{database_role}.database", stack.postgres.url(database_role, DATABASE)
            ),
            "ESP_INGEST_REDIS_URL_FILE": self._secret("ingest.redis", stack.redis.url),
        }

    def _auth(self) -> dict[str, str]:
        stack = self._stack
        return {
            "ESP_AUTH_AMQP_URL_FILE": self._secret("auth.amqp", stack.rabbitmq.url_for("auth")),
            "ESP_AUTH_BOOTSTRAP_KEY_FILE": self._secret("auth.bootstrap-key", stack.api_key),
        }

    def _simulator(self) -> tuple[str, ...]:
        rabbitmq = self._stack.rabbitmq
        keys = {name: rabbitmq.passwords[name] for name in GATEWAYS if name != ENGINEERS_GATEWAY}
        spool = private_folder(self._stack.homes / "spool", self._stack.user)
        return (
            "simulate",
            "--url",
            f"amqp://127.0.0.1:{rabbitmq.ports.amqp}/",
            "--gateways-file",
            self._secret("gateway.keys", json.dumps(keys)),
            "--spool",
            str(spool),
        )

    def _secret(self, name: str, value: str) -> str:
        private_folder(self._secrets, self._stack.user)
        return str(private_file(self._secrets / name, value, self._stack.user))
