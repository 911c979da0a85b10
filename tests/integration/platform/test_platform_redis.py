"""The Redis part of the bootstrap on a real server: a second run changes nothing, drift is mended."""

from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from secrets import token_urlsafe

import pytest
from esp_platform import redis as platform_redis
from esp_platform.changes import apply
from esp_stack.servers import Redis
from redis import Redis as Client


@pytest.fixture
def server(server_home: Path) -> Iterator[Redis]:
    """A server whose users may be changed."""
    server = Redis(server_home / f"platform-redis-{token_urlsafe(4)}")
    server.start()
    yield server
    server.kill()


def texts(changes):
    return [change.text for change in changes]


def test_users_of_redis_conf_need_no_change(server):
    with Client.from_url(server.url) as client:
        assert texts(platform_redis.changes(client, server.passwords)) == []


def test_drift_is_announced_by_a_dry_run_mended_once_and_kept_in_the_configuration(server):
    rotated = server.passwords | {"auth": token_urlsafe(16)}
    expected = [
        "set password and rights of user ingest",
        "create user diagnostics",
        "set password and rights of user auth",
    ]
    with Client.from_url(server.url) as client:
        client.execute_command("ACL SETUSER", "ingest", "~*", "+@all")
        client.acl_deluser("diagnostics")
        assert texts(apply(platform_redis.changes(client, rotated), dry_run=True)) == expected
        assert texts(apply(platform_redis.changes(client, rotated))) == expected
        assert texts(platform_redis.changes(client, rotated)) == []
    # `restart` writes redis.conf anew, so only what the server itself has kept there is looked at.
    kept = (server.home / "redis.conf").read_text()
    assert sha256(rotated["auth"].encode()).hexdigest() in kept
    assert sha256(server.passwords["auth"].encode()).hexdigest() not in kept
