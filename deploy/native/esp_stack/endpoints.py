"""What the running stack tells tools: `endpoints.json` and `env`."""

import json
import sys
from pathlib import Path

from esp_stack.programs import private_file
from esp_stack.roles import Roles
from esp_stack.stack import ADMIN, DATABASE, ENGINEERS_GATEWAY, Stack


def write_endpoints(stack: Stack) -> None:
    """Write every address and credential, for the stack's owner only; what does not exist yet is null."""
    rabbitmq = stack.rabbitmq
    endpoints = {
        "kind": "native",
        "http": stack.nginx.url,
        "ca_file": str(stack.ca_file),
        "amqp": rabbitmq.url + stack.amqp_query,
        "postgres": stack.postgres.url("postgres", DATABASE),
        "mqtt": rabbitmq.mqtt_url,
        "redis": stack.redis.url,
        "blob": stack.azurite.connection_string,
        "vault": {"url": stack.openbao.url, "token": stack.openbao.token},
        "prometheus": None,
        "admin": {"username": ADMIN, "password": stack.admin_password},
        "api_key": stack.api_key,
        "gateway": {"id": ENGINEERS_GATEWAY, "key": stack.gateway_keys[ENGINEERS_GATEWAY]},
        "engine": stack.engine,
        "processes": stack.supervisor.process_ids(),
    }
    private_file(stack.folder / "endpoints.json", json.dumps(endpoints, indent=2) + "\n", None)


def write_environment(stack: Stack) -> None:
    """Write `env`, to be sourced by a shell that wants to run `esp-ingest` or `esp-gateway` on this stack.

    It names the files that hold the credentials, not the credentials.
    """
    settings = {**Roles(stack).for_operators(), "PATH": f"{Path(sys.executable).parent}:$PATH"}
    lines = (f'export {name}="{value}"\n' for name, value in settings.items())
    (stack.folder / "env").write_text("".join(lines))
