"""Which API keys are valid. Until keys are kept in a database there is one: the bootstrap key."""

import hashlib
import hmac
import os

from esp_common.auth import PERMISSIONS, Principal, key_digest

BOOTSTRAP = Principal("bootstrap", "key", frozenset(PERMISSIONS))


class Keys:
    """The valid keys, held as HMAC-SHA256 under a secret of this process and compared in constant time."""

    def __init__(self, bootstrap_key: str | None) -> None:
        self._pepper = os.urandom(32)
        self._bootstrap = self._seal(key_digest(bootstrap_key)) if bootstrap_key else None

    def find(self, digest: str) -> Principal | None:
        """Return whose key has this `esp_common.auth.key_digest`, or None."""
        known = self._bootstrap is not None and hmac.compare_digest(self._seal(digest), self._bootstrap)
        return BOOTSTRAP if known else None

    def _seal(self, digest: str) -> bytes:
        return hmac.digest(self._pepper, digest.encode(), hashlib.sha256)
