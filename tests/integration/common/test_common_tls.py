"""TLS by setting: with the authority named once, every client speaks TLS, and to nobody else's server."""

import ipaddress
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from certificate_extensions import rfc_5280_extensions
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from esp_common.database import create_pool
from esp_common.messaging import Publisher
from esp_common.messaging.consumer import redeclare
from esp_common.redis import AWAY, connect_redis
from esp_common.settings import ServiceSettings
from esp_stack.certificates import Tls
from esp_stack.programs import account, private_file
from esp_stack.servers import Postgres, RabbitMQ, Redis

PEM = serialization.Encoding.PEM
NOW = datetime.now(UTC)


class Authority:
    """A certificate authority of a test."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        self.file = folder / f"{name}.pem"
        certificate = self._certificate(self._name, self._key, x509.BasicConstraints(ca=True, path_length=0))
        self.file.write_bytes(certificate.public_bytes(PEM))
        self.file.chmod(0o644)

    def issue(self, user: str) -> Tls:
        """Return a certificate of this machine's loopback address for a server that runs as `user`."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, user)])
        certificate = self._certificate(name, key, x509.BasicConstraints(ca=False, path_length=None))
        secret = key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        text = (certificate.public_bytes(PEM) + secret).decode()
        return Tls(private_file(self._folder / f"{user}.pem", text, account(user)), self.file)

    def _certificate(
        self, name: x509.Name, key: ec.EllipticCurvePrivateKey, constraints: x509.BasicConstraints
    ) -> x509.Certificate:
        builder = x509.CertificateBuilder(
            self._name, name, key.public_key(), x509.random_serial_number(), NOW, NOW + timedelta(days=1)
        )
        loopback = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
        builder = builder.add_extension(constraints, critical=True).add_extension(loopback, critical=False)
        for extension, critical in rfc_5280_extensions(
            key.public_key(), self._key.public_key(), constraints.ca
        ):
            builder = builder.add_extension(extension, critical=critical)
        return builder.sign(self._key, hashes.SHA256())


@pytest.fixture(scope="module")
def authority(server_home: Path) -> Authority:
    """The authority that the servers' certificates are from."""
    folder = server_home / "tls"
    folder.mkdir(mode=0o711)
    return Authority(folder, "authority")


@pytest.fixture(params=["trusted", "another"])
def settings_of(request: pytest.FixtureRequest, authority: Authority, server_home: Path) -> tuple[Path, bool]:
    """The authority that the client is told of, and whether it is the servers' own."""
    if request.param == "trusted":
        return authority.file, True
    other = Authority(server_home / "tls", "another")
    return other.file, False


@pytest.fixture(scope="module")
def rabbitmq_tls(server_home: Path, authority: Authority) -> Iterator[RabbitMQ]:
    """A broker that speaks TLS only."""
    server = RabbitMQ(server_home / "rabbitmq-tls", tls=authority.issue("rabbitmq"))
    server.start()
    yield server
    server.kill()


async def test_the_broker_over_tls(rabbitmq_tls: RabbitMQ, settings_of: tuple[Path, bool]) -> None:
    ca_file, trusted = settings_of
    url = rabbitmq_tls.url_for("ingest").split("?")[0]
    settings = ServiceSettings(amqp_url=url, tls_ca_file=ca_file)
    publisher = Publisher(settings.amqp_url)
    await publisher.start(5 if trusted else 1)
    assert publisher.connected is trusted
    await publisher.close()
    if trusted:
        await redeclare(settings.amqp_url, "ingest")
    else:
        with pytest.raises(OSError, match="certificate"):
            await redeclare(settings.amqp_url, "ingest")


async def test_redis_over_tls(
    server_home: Path, authority: Authority, settings_of: tuple[Path, bool]
) -> None:
    ca_file, trusted = settings_of
    server = Redis(server_home / f"redis-tls-{trusted}", tls=authority.issue("redis"))
    server.start()
    client = connect_redis(ServiceSettings(redis_url=server.url.split("?")[0], tls_ca_file=ca_file).redis_url)
    if trusted:
        assert await client.ping()
    else:
        with pytest.raises(AWAY):
            await client.ping()
    await client.aclose()
    server.stop()


async def test_the_database_over_tls(
    server_home: Path, authority: Authority, settings_of: tuple[Path, bool]
) -> None:
    ca_file, trusted = settings_of
    server = Postgres(
        server_home / f"postgres-tls-{trusted}", throwaway=True, tls=authority.issue("postgres")
    )
    server.start()
    url = server.url("postgres", "postgres").split("?")[0] + "?sslmode=verify-full"
    settings = ServiceSettings(database_url=url, tls_ca_file=ca_file)
    if trusted:
        pool = await create_pool(settings, role="test")
        assert await pool.fetchval("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()")
        await pool.close()
    else:
        with pytest.raises(OSError, match="certificate"):
            await create_pool(settings, role="test")
    server.stop()
