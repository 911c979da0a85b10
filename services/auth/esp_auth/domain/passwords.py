"""Passwords: what is good enough for one (NIST SP 800-63B), and their Argon2id hashes."""

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
"""A username shorter than this may stand in a password: it would by chance."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What one hash costs: memory in KiB, passes over it, and lanes."""

    memory_kib: int
    passes: int
    lanes: int


class Passwords:
    """Hashes and compares passwords at one cost. Each call takes tens of milliseconds and holds no lock."""

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
        """Return whether `password` is what `stored` is the hash of."""
        try:
            return self._hasher.verify(stored, normal(password))
        except (VerificationError, InvalidHashError):
            return False

    def outdated(self, stored: str) -> bool:
        """Return whether `stored` was made at another cost than today's."""
        return self._hasher.check_needs_rehash(stored)


def normal(password: str) -> str:
    """Return one form of what looks the same, however a keyboard composes it (NFKC)."""
    return unicodedata.normalize("NFKC", password)


def check_password(password: str, username: str) -> None:
    """Raise InvalidInput, naming every reason, when `username` should not have this password."""
    if reasons := weaknesses(normal(password), username):
        # Neither the password nor the list of near misses: this text is answered and logged.
        fields = [{"where": ["password"], "what": reason} for reason in reasons]
        raise InvalidInput("; ".join(reasons), fields=fields, fix="choose a longer phrase of your own")


def weaknesses(password: str, username: str) -> list[str]:
    """Return why `password` is too weak for `username`; nothing when it is not."""
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
    """Return whether the password is on the list (alone, decorated, or repeated), or one of a kind."""
    core = _undecorated(folded)
    unit = _repeated_unit(folded)
    listed = bool({folded, core, _repeated_unit(core)} & common_passwords())
    return listed or len(unit) <= len(folded) // 3 or _is_run(folded)


def _undecorated(folded: str) -> str:
    """Return what is left without the digits and signs that a rule about them makes people add."""
    ends = "".join({c for c in folded if not c.isalpha()})
    return folded.strip(ends)


def _repeated_unit(text: str) -> str:
    """Return the shortest text of which `text` is a repetition: itself when it is none."""
    return text[: (text + text).find(text, 1)] if text else text


def _is_run(text: str) -> bool:
    """Return whether each character follows from the one before by the same step: 123456789012."""
    # By ten, so that 0 comes after 9.
    return len({(ord(after) - ord(before)) % 10 for before, after in pairwise(text)}) == 1


@cache
def common_passwords() -> frozenset[str]:
    """Return the 30,000 passwords people use most (zxcvbn's list)."""
    # Not loaded with the module: it takes a tenth of a second, and most commands never need it.
    from zxcvbn.frequency_lists import FREQUENCY_LISTS

    return frozenset(FREQUENCY_LISTS["passwords"])
