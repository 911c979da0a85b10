"""What follows from the encryption key: a key for each purpose, and sealing what leaves this machine."""

import base64
import binascii
from typing import Final

from esp_common import sealing
from esp_common.errors import Conflict, InvalidInput

KEY_BYTES: Final = 32
REPOSITORY: Final = "repository"
SETS: Final = "sets"
DUMPS: Final = "dumps"


class Unreadable(Conflict):
    """What is stored was sealed under another key, or was changed."""

    code, title = "backup-unreadable", "Backup does not open"


def decode_key(text: str) -> bytes:
    """Return the 32 bytes of a key in base64; raise InvalidInput when it is not one."""
    try:
        key = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if len(key) != KEY_BYTES:
        raise InvalidInput(
            f"the encryption key is not {KEY_BYTES} bytes in base64", fix="make one: openssl rand -base64 32"
        )
    return key


def derive(key: bytes, label: str) -> bytes:
    """Return the 32-byte key for one purpose (HKDF-SHA256, RFC 5869, with `label` as the info)."""
    return sealing.derive(key, f"esp-backup {label}")


def passphrase(key: bytes) -> str:
    """Return the passphrase of the repositories."""
    return base64.urlsafe_b64encode(derive(key, REPOSITORY)).decode()


def seal(key: bytes, content: bytes, name: str) -> bytes:
    """Return `content` encrypted (AES-256-GCM, random nonce first); it opens only under the same `name`."""
    return sealing.seal(derive(key, SETS), content, name)


def unseal(key: bytes, sealed: bytes, name: str) -> bytes:
    """Return what was sealed as `name`; raise Unreadable when the key, the name or a byte is another."""
    return _unsealed(derive(key, SETS), sealed, name)


def seal_piece(dumps_key: bytes, content: bytes, owner: str) -> bytes:
    """Return a piece of a dump's file encrypted, 28 bytes longer; `dumps_key`: `derive(key, DUMPS)`."""
    return sealing.seal(dumps_key, content, owner)


def unseal_piece(dumps_key: bytes, sealed: bytes, owner: str) -> bytes:
    """Return a piece that was sealed as `owner`'s; raise Unreadable when key, owner or a byte is another."""
    return _unsealed(dumps_key, sealed, owner)


def _unsealed(key: bytes, sealed: bytes, name: str) -> bytes:
    try:
        return sealing.unseal(key, sealed, name)
    except sealing.WrongMasterKey:
        raise Unreadable(
            f"{name} does not open", fix="give the encryption key it was made with, or take another backup"
        ) from None
