"""The servers of the native stack: private, restartable, and gone when whoever started them is gone."""

import psycopg
import pytest
from psycopg import errors
from redis import Redis as RedisClient


def test_a_role_cannot_create_objects_in_a_database_it_does_not_own(make_database):
    database = make_database("postgres")
    with (
        psycopg.connect(database.url("esp_diagnostics")) as connection,
        pytest.raises(errors.InsufficientPrivilege),
    ):
        connection.execute("CREATE SCHEMA mine")


def test_the_owner_creates_schemas_and_ingest_stages_in_temporary_tables(database):
    with psycopg.connect(database.url("esp_ingest_owner")) as connection:
        connection.execute("CREATE SCHEMA ingest")
    with psycopg.connect(database.url("esp_ingest")) as connection:
        connection.execute("CREATE TEMP TABLE staging (n int)")


def test_data_and_addresses_survive_a_killed_server(postgres_server, make_database):
    database = make_database("postgres")
    with psycopg.connect(database.admin_url) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 42 AS n")
    postgres_server.kill()
    assert not postgres_server.ready()
    postgres_server.start()
    with psycopg.connect(database.admin_url) as connection:
        assert connection.execute("SELECT n FROM kept").fetchone() == (42,)


def test_redis_keeps_its_data_over_a_restart(redis_server, redis_url):
    RedisClient.from_url(redis_url).set("kept", "yes")
    redis_server.restart()
    assert RedisClient.from_url(redis_url).get("kept") == b"yes"


def test_virtual_hosts_have_the_topology_and_are_apart(rabbitmq, vhost):
    other = rabbitmq.vhost()
    rabbitmq.api("DELETE", f"queues/{other.name}/ingest.telemetry")
    names = {queue["name"] for queue in rabbitmq.api("GET", f"queues/{vhost.name}").json()}
    other.delete()
    assert "ingest.telemetry" in names


def test_rabbitmq_comes_back_with_its_queues_after_a_kill(rabbitmq, vhost):
    rabbitmq.kill()
    rabbitmq.start()
    names = {queue["name"] for queue in rabbitmq.api("GET", f"queues/{vhost.name}").json()}
    assert "ingest.telemetry" in names
