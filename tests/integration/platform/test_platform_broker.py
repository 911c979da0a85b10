"""The broker part of the bootstrap on a real RabbitMQ: a second run changes nothing, drift is mended."""

from collections.abc import Iterator
from pathlib import Path
from secrets import token_urlsafe

import httpx
import pytest
from esp_common import topology
from esp_platform.broker import ADMINISTRATOR, MONITORING, SESSION_KEEPER, Broker
from esp_platform.changes import apply
from esp_stack.servers import RabbitMQ

PASSWORDS = {name: token_urlsafe(16) for name in (SESSION_KEEPER, MONITORING, *topology.SERVICES)}


@pytest.fixture(scope="module")
def node(server_home: Path) -> Iterator[RabbitMQ]:
    """A node whose users may be changed."""
    server = RabbitMQ(server_home / "platform-rabbitmq")
    server.start()
    yield server
    server.kill()


@pytest.fixture
def passwords(node):
    return {ADMINISTRATOR: node.passwords[ADMINISTRATOR], **PASSWORDS}


@pytest.fixture
def vhost(node) -> Iterator[str]:
    """The name of a virtual host that nobody has created."""
    name = f"platform-{token_urlsafe(6)}"
    yield name
    for known in node.api("GET", "vhosts").json():
        if known["name"] == name:
            node.api("DELETE", f"vhosts/{name}")


def texts(changes):
    return [change.text for change in changes]


def test_a_dry_run_lists_everything_that_is_missing_and_changes_nothing(node, vhost, passwords):
    broker = Broker(node.api, vhost=vhost)
    announced = texts(apply(broker.changes(passwords), dry_run=True))
    assert f"create virtual host {vhost}" in announced
    assert "create queue ingest.telemetry" in announced
    assert "bind ingest.telemetry to esp.ingest by key 'telemetry.#'" in announced
    made = texts(apply(broker.changes(passwords)))
    # Whoever creates a virtual host has its rights.
    assert set(announced) - set(made) == {f"set rights of user admin on {vhost}"}
    assert set(made) < set(announced)


def test_a_second_run_changes_nothing(node, vhost, passwords):
    broker = Broker(node.api, vhost=vhost)
    apply(broker.changes(passwords))
    assert texts(broker.changes(passwords)) == []
    queues = {queue["name"] for queue in node.api("GET", f"queues/{vhost}").json()}
    assert queues == {queue.name for queue in topology.QUEUES}


def test_drift_is_found_and_mended(node, vhost, passwords):
    broker = Broker(node.api, vhost=vhost)
    apply(broker.changes(passwords))
    node.api("DELETE", f"queues/{vhost}/{topology.INGEST_TELEMETRY}")
    node.api("PUT", f"permissions/{vhost}/auth", {"configure": ".*", "write": ".*", "read": ".*"})
    node.api("PUT", "users/backup", {"password": "another", "tags": ""})
    node.api("PUT", f"users/{MONITORING}", {"password": passwords[MONITORING], "tags": "administrator"})
    node.api("PUT", "users/guest", {"password": "guest", "tags": "administrator"})
    assert texts(apply(broker.changes(passwords))) == [
        "set password of user backup",
        "set tags of user monitoring",
        "delete user guest",
        f"set rights of user auth on {vhost}",
        "create queue ingest.telemetry",
        "bind ingest.telemetry to esp.ingest by key 'telemetry.#'",
    ]
    assert texts(broker.changes(passwords)) == []
    login = httpx.get(f"{node.management_url}/whoami", auth=(MONITORING, passwords[MONITORING]))
    assert (login.status_code, login.json()["tags"]) == (200, ["monitoring"])


def test_a_queue_with_other_arguments_is_left_to_the_operator(node, vhost, passwords):
    broker = Broker(node.api, vhost=vhost)
    apply(broker.changes(passwords))
    path = f"queues/{vhost}/{topology.AUTH_JWKS}"
    node.api("DELETE", path)
    node.api("PUT", path, {"durable": True, "arguments": {"x-message-ttl": 5}})
    found = [change for change in apply(broker.changes(passwords)) if change.make is None]
    assert texts(found) == [
        "queue auth.jwks has x-message-ttl 5 instead of 10000: delete it when it is empty, then apply again"
    ]
