"""Password strength (NIST SP 800-63B) and Argon2id hashes."""

import unicodedata
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Final

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from argon2.low_level import Type
from esp_common.errors import InvalidInput

SHORTEST: Final = 12
LONGEST: Final = 128
SHORTEST_TELLING_NAME: Final = 3
"""Minimum length of a username that a password must not contain; shorter ones occur by chance."""


@dataclass(frozen=True, slots=True)
class Cost:
    """Cost of one hash: memory in KiB, passes over it, and lanes."""

    memory_kib: int
    passes: int
    lanes: int


class Passwords:
    """Hash and verify passwords at one cost. Each call takes tens of milliseconds and holds no lock."""

    def __init__(self, cost: Cost) -> None:
        self._hasher = PasswordHasher(
            time_cost=cost.passes, memory_cost=cost.memory_kib, parallelism=cost.lanes, type=Type.ID
        )
        self.nobodys = self._hasher.hash("no account has this password")
        """The hash to compare with where there is no account, so that it takes as long."""

    def hash(self, password: str) -> str:
        """Return the hash of `password` with its parameters and a random salt, as text."""
        return self._hasher.hash(normal(password))

    def matches(self, stored: str, password: str) -> bool:
        """Return whether `password` matches the hash `stored`."""
        try:
            return self._hasher.verify(stored, normal(password))
        except (VerificationError, InvalidHashError):
            return False

    def outdated(self, stored: str) -> bool:
        """Return whether `stored` was made at another cost than the current one."""
        return self._hasher.check_needs_rehash(stored)


def normal(password: str) -> str:
    """Return the NFKC form, equal for texts that look the same."""
    return unicodedata.normalize("NFKC", password)


def check_password(password: str, username: str) -> None:
    """Raise InvalidInput with every weakness of the password for `username`."""
    if reasons := weaknesses(normal(password), username):
        # Without the password or similar ones: this text is returned and logged.
        fields = [{"where": ["password"], "what": reason} for reason in reasons]
        raise InvalidInput("; ".join(reasons), fields=fields, fix="choose a longer phrase of your own")


def weaknesses(password: str, username: str) -> list[str]:
    """Return the weaknesses of `password` for `username`, if any."""
    folded = password.casefold()
    reasons = []
    if not SHORTEST <= len(password) <= LONGEST:
        reasons.append(f"the password must have {SHORTEST} to {LONGEST} characters")
    if len(username) >= SHORTEST_TELLING_NAME and username.casefold() in folded:
        reasons.append("the password must not contain the username")
    if _is_common(folded):
        reasons.append("the password is one that many people use")
    return reasons


def _is_common(folded: str) -> bool:
    """Return whether the password is common (alone, decorated, or repeated), or one repeated character."""
    core = _undecorated(folded)
    unit = _repeated_unit(folded)
    listed = bool({folded, core, _repeated_unit(core)} & common_passwords())
    return listed or len(unit) <= len(folded) // 3 or _is_run(folded)


def _undecorated(folded: str) -> str:
    """Return the text without the digits and signs that people add to satisfy rules."""
    ends = "".join({c for c in folded if not c.isalpha()})
    return folded.strip(ends)


def _repeated_unit(text: str) -> str:
    """Return the shortest text of which `text` is a repetition: itself if it is none."""
    return text[: (text + text).find(text, 1)] if text else text


def _is_run(text: str) -> bool:
    """Return whether each character follows from the previous one by the same step: 123456789012."""
    # By ten, so that 0 comes after 9.
    return len({(ord(after) - ord(before)) % 10 for before, after in pairwise(text)}) == 1


@cache
def common_passwords() -> frozenset[str]:
    """Return the 30,000 most common passwords (zxcvbn's list)."""
    # Loaded on demand: it takes a tenth of a second, and most commands never need it.
    from zxcvbn.frequency_lists import FREQUENCY_LISTS

    return frozenset(FREQUENCY_LISTS["passwords"])
