"""Certificate authority of an installation without Vault: certifies the servers of a Docker host."""

from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from esp_platform.files import write_private

AUTHORITY_LIFETIME: Final = timedelta(days=3650)
CERTIFICATE_LIFETIME: Final = timedelta(days=825)
RENEW_BEFORE: Final = timedelta(days=30)
CLOCK_TOLERANCE: Final = timedelta(minutes=5)
SIGNS_CERTIFICATES: Final = x509.KeyUsage(
    digital_signature=False,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=True,
    crl_sign=True,
    encipher_only=False,
    decipher_only=False,
)


class Authority:
    """Certificate authority with its key in `folder`, created there the first time."""

    def __init__(self, folder: Path) -> None:
        if not (folder / "ca.key").exists():
            _create(folder)
        self.pem = (folder / "ca.crt").read_text()
        self._certificate = x509.load_pem_x509_certificate(self.pem.encode())
        key = serialization.load_pem_private_key((folder / "ca.key").read_bytes(), None)
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise TypeError(f"{folder / 'ca.key'} is not an elliptic-curve key")
        self._key = key

    def certify(self, folder: Path, names: list[str]) -> None:
        """Write tls.crt and tls.key for `names` into `folder` unless a valid pair for all of them is there.

        A pair is renewed in its last 30 days.
        """
        if (folder / "tls.crt").exists() and _is_valid(folder / "tls.crt", names):
            return
        key = ec.generate_private_key(ec.SECP256R1())
        alternatives = [*map(x509.DNSName, names), x509.IPAddress(ip_address("127.0.0.1"))]
        # Python 3.13 refuses a certificate that does not identify its issuer's key.
        issuer_key = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        builder = (
            _builder(_name(names[0]), self._certificate.subject, key, CERTIFICATE_LIFETIME)
            .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
            .add_extension(issuer_key, critical=False)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        )
        write_private(folder / "tls.key", _key_pem(key))
        write_private(folder / "tls.crt", _pem(builder.sign(self._key, hashes.SHA256())))


def _create(folder: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name("ESP platform CA")
    builder = (
        _builder(name, name, key, AUTHORITY_LIFETIME)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(SIGNS_CERTIFICATES, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    write_private(folder / "ca.crt", _pem(builder.sign(key, hashes.SHA256())))
    write_private(folder / "ca.key", _key_pem(key))


def _is_valid(path: Path, names: list[str]) -> bool:
    """Return whether a certificate has all of `names` and does not need renewal."""
    certificate = x509.load_pem_x509_certificate(path.read_bytes())
    extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    has_names = set(names) <= set(extension.value.get_values_for_type(x509.DNSName))
    return has_names and certificate.not_valid_after_utc > datetime.now(UTC) + RENEW_BEFORE


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, lifetime: timedelta
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return x509.CertificateBuilder(
        issuer, subject, key.public_key(), x509.random_serial_number(), now - CLOCK_TOLERANCE, now + lifetime
    )


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def _key_pem(key: ec.EllipticCurvePrivateKey) -> str:
    form = serialization.PrivateFormat.PKCS8
    return key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()).decode()
