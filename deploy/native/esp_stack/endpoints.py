"""`endpoints.json`: every address and credential of the running stack, for tools and tests."""

import json

from esp_stack.programs import private_file
from esp_stack.stack import DATABASE, ENGINEERS_GATEWAY, Stack


def write_endpoints(stack: Stack) -> None:
    """Write the file, readable by the owner of the stack only; what does not exist yet is null."""
    rabbitmq = stack.rabbitmq
    endpoints = {
        "http": stack.nginx.url,
        "ca_file": None,
        "amqp": rabbitmq.url,
        "postgres": stack.postgres.url("postgres", DATABASE),
        "mqtt": rabbitmq.mqtt_url,
        "redis": stack.redis.url,
        "blob": stack.azurite.connection_string,
        "vault": {"url": stack.openbao.url, "token": stack.openbao.token},
        "prometheus": None,
        "admin": None,
        "api_key": stack.api_key,
        "gateway": {"id": ENGINEERS_GATEWAY, "key": rabbitmq.passwords[ENGINEERS_GATEWAY]},
        "engine": stack.engine,
        "processes": {state.name: state.pid for state in stack.supervisor.states() if state.pid},
    }
    private_file(stack.folder / "endpoints.json", json.dumps(endpoints, indent=2) + "\n", None)
