"""Encrypt secrets that must be readable again under a master key, with a derived key for each purpose."""

import base64
import binascii
import os
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from esp_common.errors import EspError, InvalidInput

MASTER_BYTES: Final = 32
_NONCE_BYTES: Final = 12


class WrongMasterKey(EspError):
    """The stored value was encrypted under another master key, or was changed."""

    code, status, title = "wrong-master-key", 503, "Stored secrets cannot be opened"


def decode_master_key(text: str) -> bytes:
    """Return the 32 bytes of a master key in base64; raise InvalidInput if it is not one."""
    try:
        master = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        master = b""
    if len(master) != MASTER_BYTES:
        raise InvalidInput(
            f"the master key is not {MASTER_BYTES} bytes in base64", fix="make one: openssl rand -base64 32"
        )
    return master


def derive(master: bytes, label: str) -> bytes:
    """Return the 32-byte key for one purpose (HKDF-SHA256, RFC 5869, with `label` as the info)."""
    return HKDF(hashes.SHA256(), MASTER_BYTES, salt=None, info=label.encode()).derive(master)


def seal(key: bytes, secret: bytes, owner: str) -> bytes:
    """Return `secret` encrypted for `owner` (AES-256-GCM, random nonce first)."""
    nonce = os.urandom(_NONCE_BYTES)
    return nonce + AESGCM(key).encrypt(nonce, secret, owner.encode())


def unseal(key: bytes, sealed: bytes, owner: str) -> bytes:
    """Return the secret encrypted for `owner`; raise WrongMasterKey if the key or the owner differs."""
    try:
        return AESGCM(key).decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], owner.encode())
    except (InvalidTag, ValueError):
        raise WrongMasterKey(
            f"the secret of {owner} does not open", fix="run with the master key it was sealed under"
        ) from None
