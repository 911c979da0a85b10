"""The servers of the native stack: private, restartable, and gone when whoever started them is gone."""

import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from pathlib import Path
from threading import Thread

import asyncpg
import httpx
import psycopg
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from esp_common import topology
from esp_common.revocations import REDIS_KEY as REVOCATIONS
from esp_platform.nginx import BURST, STREAMS
from esp_platform.vault import Vault
from esp_stack.certificates import Tls, is_due, renew
from esp_stack.programs import account, free_port
from esp_stack.servers import Azurite, Nginx, OpenBao, Postgres, Redis
from esp_stack.servers.postgres import ENGINE_VARIABLE
from psycopg import errors
from redis import Redis as RedisClient
from redis.exceptions import AuthenticationError, NoPermissionError
from redis.exceptions import ConnectionError as RedisConnectionError
from waiting import until

MakeTls = Callable[[str | None], Tls]


@pytest.fixture(scope="module")
def openbao(server_home: Path) -> Iterator[OpenBao]:
    """A vault that is a certificate authority."""
    server = OpenBao(server_home / "authority")
    server.start()
    Vault(server).ensure_engines()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def make_tls(openbao: OpenBao, server_home: Path) -> MakeTls:
    """Issue certificates, each for a server that runs as the account given."""
    vault, numbers = Vault(openbao), count(1)
    authority = server_home / "ca.pem"
    authority.write_text(vault.ensure_authority())

    def make(user: str | None) -> Tls:
        tls = Tls(server_home / f"server-{next(numbers)}.pem", authority)
        assert renew(tls, vault.issue_certificate, user)
        return tls

    return make


def echo(name: str) -> type[BaseHTTPRequestHandler]:
    """A service that answers with its name."""

    class Echo(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(name)))
            self.end_headers()
            self.wfile.write(name.encode())

        def log_message(self, *_: object) -> None:
            pass

    return Echo


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


def test_cluster_keeps_the_engine_it_was_created_with(server_home, monkeypatch):
    monkeypatch.setenv(ENGINE_VARIABLE, "postgres")
    server = Postgres(server_home / "postgres-plain", throwaway=True)
    server.start()
    server.stop()
    monkeypatch.delenv(ENGINE_VARIABLE)
    again = Postgres(server_home / "postgres-plain", passwords=server.passwords, throwaway=True)
    assert not again.has_timescale
    again.start()
    with psycopg.connect(again.admin_url) as connection:
        assert connection.execute("SHOW shared_preload_libraries").fetchone() == ("",)
    again.stop()


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


def test_openbao_writes_down_who_asked_for_what(openbao):
    openbao.api("GET", "sys/mounts").raise_for_status()
    audit = openbao.home / "audit.log"
    assert "sys/mounts" in audit.read_text()
    assert openbao.token not in audit.read_text()
    assert audit.stat().st_mode & 0o777 == 0o600


def test_a_certificate_is_issued_once_and_again_when_a_third_of_its_life_is_left(openbao, make_tls):
    tls = make_tls(None)
    issue = Vault(openbao).issue_certificate
    assert not renew(tls, issue, None)
    expiry = x509.load_pem_x509_certificate(tls.server.read_bytes()).not_valid_after_utc
    assert not is_due(tls, expiry - timedelta(days=31))
    assert is_due(tls, expiry - timedelta(days=29))
    assert tls.server.stat().st_mode & 0o777 == 0o600


def test_a_certificate_of_another_authority_is_due(openbao, make_tls, server_home):
    tls = make_tls(None)
    assert not is_due(tls, datetime.now(UTC))
    other = Tls(tls.server, server_home / "other-ca.pem")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "other")])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(now).not_valid_after(now + timedelta(days=1))
    certificate = builder.sign(key, hashes.SHA256())
    other.authority.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    assert is_due(other, now)


@pytest.fixture(scope="module")
def nginx(server_home, make_tls) -> Iterator[Nginx]:
    """The door, with nothing behind it."""
    tls = make_tls(account("www-data"))
    server = Nginx(server_home / "nginx", apis={name: free_port() for name in topology.SERVICES}, tls=tls)
    server.start()
    yield server
    server.stop()


def test_nginx_hides_what_is_not_the_api_limits_bodies_and_answers_as_problems(nginx):
    with httpx.Client(base_url=nginx.url, verify=nginx.tls.client_context(), timeout=30) as client:
        hidden = [client.get("/metrics"), client.post("/broker/secret/user"), client.get("/docs")]
        large = client.post("/api/v1/telemetry", content=bytes(5_000_000))
        away = [client.get(f"/api/v1/{path}") for path in ("pumps", "auth/me", "users", "audit")]
    assert [answer.status_code for answer in (*hidden, large, *away)] == [404, 404, 404, 413, *[503] * 4]
    assert away[0].headers["Retry-After"] == "2"
    for answer in (*hidden, large, *away):
        assert answer.headers["Content-Type"] == "application/problem+json"
        assert answer.headers["Strict-Transport-Security"] == "max-age=31536000"
        assert len(answer.json()["error_id"]) == 32


def test_nginx_speaks_tls_1_3_to_who_trusts_its_authority_and_nothing_else(nginx):
    old = nginx.tls.client_context()
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(httpx.ConnectError):
        httpx.get(nginx.url, verify=old)
    with pytest.raises(httpx.ConnectError):
        httpx.get(nginx.url)
    plain = httpx.get(nginx.url.replace("https", "http"))
    assert (plain.status_code, plain.json()["title"]) == (400, "Speak https")


ROUTED = {
    "auth": ("auth/login", "users", "users/1", "api-keys/x/rotate", "audit", "audit/export?format=csv"),
    "archiver": ("archive", "archive/telemetry?pump_id=p"),
    "backup": ("backups", "backups/drill"),
    "diagnostics": (
        *("fleet", "alerts", "alerts/1/acknowledge", "alert-rules", "findings", "live/tickets", "rules"),
        *(
            "pumps/p/telemetry",
            "pumps/p/latest",
            "pumps/p/health",
            "pumps/p/rule-overrides/x",
            "fields/f/kpis",
        ),
    ),
    "ingest": ("authors", "archives", "pumps", "pumps/p", "pumps/p/quality", "fields/f", "telemetry"),
}


def test_nginx_sends_each_route_to_its_service(server_home, make_tls):
    services = {name: ThreadingHTTPServer(("127.0.0.1", 0), echo(name)) for name in topology.SERVICES}
    for service in services.values():
        Thread(target=service.serve_forever, daemon=True).start()
    ports = {name: service.server_port for name, service in services.items()}
    server = Nginx(server_home / "routes", apis=ports, tls=make_tls(account("www-data")))
    server.start()
    with httpx.Client(base_url=server.url, verify=server.tls.client_context(), timeout=30) as client:
        answered = {
            name: {client.get(f"/api/v1/{path}").text for path in paths} for name, paths in ROUTED.items()
        }
        others = [client.get(path).text for path in ("/health/ready", "/", "/console/app.js")]
    server.stop()
    for service in services.values():
        service.shutdown()
    assert answered == {name: {name} for name in ROUTED}
    assert others == ["ingest", "diagnostics", "diagnostics"]


def test_nginx_refuses_an_address_that_asks_too_fast_but_lets_its_readings_through(nginx):
    with httpx.Client(base_url=nginx.url, verify=nginx.tls.client_context(), timeout=30) as client:
        asked = iter(lambda: client.get("/api/v1/pumps"), None)
        # How many get through before depends on how fast this machine asks, but never fewer than a burst.
        let_through, refused = 0, next(asked)
        while refused.status_code == 503:
            let_through, refused = let_through + 1, next(asked)
        posts = [client.post("/api/v1/telemetry").status_code for _ in range(2 * BURST)]
    assert let_through > BURST / 2
    assert refused.status_code == 429
    assert refused.headers["Retry-After"] == "1"
    assert refused.headers["Content-Type"] == "application/problem+json"
    assert set(posts) == {503}


async def test_nginx_lets_an_address_have_so_many_live_streams_and_one_more_when_one_is_closed(
    server_home, make_tls
):
    with ExitStack() as opened:
        service = opened.enter_context(socket.create_server(("127.0.0.1", 0), backlog=2 * STREAMS))
        service.settimeout(10)
        ports = {name: free_port() for name in topology.SERVICES}
        ports["diagnostics"] = service.getsockname()[1]
        server = Nginx(server_home / "streams", apis=ports, tls=make_tls(account("www-data")))
        server.start()
        opened.callback(server.stop)

        def ask() -> socket.socket:
            """Ask for a live stream over a connection of its own."""
            context = server.tls.client_context()
            plain = socket.create_connection(("127.0.0.1", server.port), timeout=10)
            door = opened.enter_context(context.wrap_socket(plain, server_hostname="127.0.0.1"))
            door.sendall(b"GET /api/v1/live HTTP/1.1\r\nHost: esp\r\nConnection: upgrade\r\n")
            door.sendall(b"Upgrade: websocket\r\n\r\n")
            return door

        doors = []
        for _ in range(STREAMS):
            doors.append(ask())
            opened.enter_context(service.accept()[0])
        refused = ask().recv(65_536)
        async with httpx.AsyncClient(
            base_url=server.url, verify=server.tls.client_context(), timeout=30
        ) as client:
            other = (await client.get("/api/v1/pumps")).status_code
        doors[0].close()
        await until(lambda: answer_of(ask()) is None, "a place is free again")
        opened.enter_context(service.accept()[0])
    assert refused.startswith(b"HTTP/1.1 429 ")
    assert b"Retry-After: 1" in refused
    assert b"application/problem+json" in refused
    assert other == 503


def answer_of(door: socket.socket) -> bytes | None:
    """Return what is answered within a moment; None while the stream is open and silent."""
    door.settimeout(0.2)
    try:
        return door.recv(65_536)
    except TimeoutError:
        return None


def test_postgresql_with_tls_takes_nothing_else(server_home, make_tls):
    server = Postgres(server_home / "postgres-tls", tls=make_tls(account("postgres")), throwaway=True)
    server.start()
    with psycopg.connect(server.admin_url) as connection:
        version = connection.execute(
            "SELECT version FROM pg_stat_ssl WHERE pid = pg_backend_pid()"
        ).fetchone()
    plain = server.admin_url.replace("verify-full", "disable")
    with pytest.raises(psycopg.OperationalError, match="no encryption"):
        psycopg.connect(plain)
    server.stop()
    assert version == ("TLSv1.3",)


async def test_asyncpg_verifies_postgresqls_certificate(server_home, make_tls):
    server = Postgres(server_home / "postgres-verified", tls=make_tls(account("postgres")), throwaway=True)
    server.start()
    connection = await asyncpg.connect(server.admin_url)
    assert await connection.fetchval("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()")
    await connection.close()
    with pytest.raises(ssl.SSLError):
        await asyncpg.connect(server.admin_url.split("?")[0], ssl=ssl.create_default_context())
    server.stop()


def redis_user(redis_server, user):
    return RedisClient.from_url(redis_server.url_of(200, user), decode_responses=True)


@pytest.mark.parametrize("service", topology.SERVICES)
def test_a_service_reaches_its_own_keys_in_redis_and_no_other_service_s(redis_server, service):
    with redis_user(redis_server, service) as client:
        client.set(f"{service}:mine", "1", ex=60)
        assert client.eval("return redis.call('GET', KEYS[1])", 1, f"{service}:mine") == "1"
        client.incrby("esp:rate/count", 1)
        assert client.publish(f"{service}:live", "1") == 0
        for other in set(topology.SERVICES) - {service}:
            for forbidden in (
                lambda key: client.get(key),
                lambda key: client.set(key, "1"),
                lambda channel: client.publish(channel, "1"),
            ):
                with pytest.raises(NoPermissionError):
                    forbidden(f"{other}:theirs")
        for forbidden in ("FLUSHALL", "CONFIG GET requirepass", "ACL LIST", "KEYS *"):
            with pytest.raises(NoPermissionError):
                client.execute_command(*forbidden.split())


def test_only_auth_says_in_redis_what_is_revoked(redis_server):
    with redis_user(redis_server, "auth") as auth:
        auth.set(REVOCATIONS, "{}", ex=60)
    for service in set(topology.SERVICES) - {"auth"}:
        with redis_user(redis_server, service) as client:
            assert client.get(REVOCATIONS) == "{}"
            for forbidden in (lambda c: c.set(REVOCATIONS, "x"), lambda c: c.delete(REVOCATIONS)):
                with pytest.raises(NoPermissionError):
                    forbidden(client)


def test_redis_knows_nobody_without_a_password(redis_server):
    with RedisClient(port=redis_server.port) as nobody, pytest.raises(AuthenticationError):
        nobody.ping()


def test_redis_with_tls_takes_nothing_else(server_home, make_tls):
    server = Redis(server_home / "redis-tls", tls=make_tls(account("redis")))
    server.start()
    assert RedisClient.from_url(server.url).ping()
    with pytest.raises(RedisConnectionError):
        RedisClient.from_url(server.url.replace("rediss", "redis").split("?")[0]).ping()
    server.stop()


def test_azurite_answers_to_its_own_account_only(server_home):
    server = Azurite(server_home / "azurite")
    server.start()
    well_known = httpx.get(f"http://127.0.0.1:{server.port}/devstoreaccount1", params={"comp": "list"})
    command_line = " ".join(server.programs()[0].command())
    server.stop()
    assert "AccountName=esp" in server.connection_string
    assert well_known.status_code == 404
    assert server.account_key not in command_line
