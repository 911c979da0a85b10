"""Certificates of the stack's servers: where they are, and when it is time for new ones."""

import ssl
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from esp_platform.files import TlsFiles

from esp_stack.programs import private_file


@dataclass(frozen=True)
class Tls:
    """A server's certificate with its key in one PEM file (so that they always agree), and its authority."""

    server: Path
    authority: Path

    @property
    def files(self) -> TlsFiles:
        """The paths as the server's configuration names them."""
        return TlsFiles(str(self.server), str(self.server), str(self.authority))

    def client_context(self) -> ssl.SSLContext:
        """Return what a client needs to trust the server."""
        return ssl.create_default_context(cafile=str(self.authority))


def renew(tls: Tls, issue: Callable[[], str], user: str | None) -> bool:
    """Write what `issue` returns, for `user` only, if it is time; return whether it was."""
    if not is_due(tls, datetime.now(UTC)):
        return False
    private_file(tls.server, issue(), user)
    return True


def is_due(tls: Tls, now: datetime) -> bool:
    """Return whether the certificate is missing, another authority's, or past two thirds of its life."""
    try:
        certificate = x509.load_pem_x509_certificate(tls.server.read_bytes())
        certificate.verify_directly_issued_by(x509.load_pem_x509_certificate(tls.authority.read_bytes()))
    except (OSError, ValueError, InvalidSignature):
        return True
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    return end - now < (end - begin) / 3
