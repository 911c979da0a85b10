"""The servers of the native stack: private, restartable, and gone when whoever started them is gone."""

import httpx
import psycopg
import pytest
from esp_stack.programs import free_port
from esp_stack.servers import Azurite, Nginx, OpenBao
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


def test_openbao_unseals_itself_after_a_kill_and_keeps_its_token(server_home):
    server = OpenBao(server_home / "openbao")
    server.start()
    token = server.token
    server.kill()
    server.start()
    mounts = httpx.get(f"{server.url}/v1/sys/mounts", headers={"X-Vault-Token": token})
    server.stop()
    assert mounts.status_code == 200


def test_nginx_hides_metrics_limits_bodies_and_answers_as_problems(server_home):
    server = Nginx(server_home / "nginx", ingest_api_port=free_port())
    server.start()
    hidden = httpx.get(f"{server.url}/metrics")
    large = httpx.post(f"{server.url}/api/v1/telemetry", content=bytes(5_000_000))
    away = httpx.get(f"{server.url}/api/v1/pumps")
    server.stop()
    assert (hidden.status_code, large.status_code, away.status_code) == (404, 413, 503)
    assert away.headers["Retry-After"] == "2"
    for answer in (hidden, large, away):
        assert answer.headers["Content-Type"] == "application/problem+json"
        assert len(answer.json()["error_id"]) == 32


def test_azurite_answers_to_its_own_account_only(server_home):
    server = Azurite(server_home / "azurite")
    server.start()
    well_known = httpx.get(f"http://127.0.0.1:{server.port}/devstoreaccount1", params={"comp": "list"})
    command_line = " ".join(server.programs()[0].command())
    server.stop()
    assert "AccountName=esp" in server.connection_string
    assert well_known.status_code == 404
    assert server.account_key not in command_line
