"""X.509 extensions without which Python 3.13 and later refuse a certificate."""

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey

NO_USAGE = dict.fromkeys(
    (
        "digital_signature",
        "content_commitment",
        "key_encipherment",
        "data_encipherment",
        "key_agreement",
        "key_cert_sign",
        "crl_sign",
        "encipher_only",
        "decipher_only",
    ),
    False,
)


def rfc_5280_extensions(
    key: EllipticCurvePublicKey, issuer_key: EllipticCurvePublicKey, is_authority: bool
) -> list[tuple[x509.ExtensionType, bool]]:
    """Return the extensions of a certificate of `key`, each with whether it is critical.

    `ssl.create_default_context` sets VERIFY_X509_STRICT since Python 3.13, which asks for what RFC 5280 does:
    key identifiers, and the key usage of an authority.
    """
    usage = NO_USAGE | {"digital_signature": True, "key_cert_sign": is_authority}
    return [
        (x509.SubjectKeyIdentifier.from_public_key(key), False),
        (x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key), False),
        (x509.KeyUsage(**usage), True),
    ]
