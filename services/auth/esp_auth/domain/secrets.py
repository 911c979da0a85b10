"""Keys derived from the master key, one for each purpose, and one-way hashes of secrets."""

import hashlib
import hmac
from typing import Final

from esp_common.sealing import WrongMasterKey, decode_master_key, derive, seal, unseal

__all__ = [
    "API_KEY_PEPPER",
    "AUDIT_CHAIN",
    "LOGIN_ATTEMPTS",
    "REFRESH",
    "SIGNING_KEYS",
    "TOTP",
    "WrongMasterKey",
    "decode_master_key",
    "derive",
    "mac",
    "seal",
    "unseal",
]

API_KEY_PEPPER: Final = "api-key pepper"
SIGNING_KEYS: Final = "signing keys"
TOTP: Final = "totp"
AUDIT_CHAIN: Final = "audit chain"
REFRESH: Final = "refresh"
LOGIN_ATTEMPTS: Final = "login attempts"


def mac(key: bytes, text: str) -> bytes:
    """Return the HMAC-SHA256 of `text`, stored for secrets that need never be read again."""
    return hmac.digest(key, text.encode(), hashlib.sha256)
