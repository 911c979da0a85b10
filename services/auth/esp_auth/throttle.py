"""Throttling of guesses, so that wrong guesses by one do not keep another out.

- A password is refused for a while after failures of its account from the same address, or in the same
  session.
- Failures of an account from new addresses, and failures of an address, only delay further logins, and not
  those of an account from an address where it has logged in before.
- A code of the second factor is refused for a while after failures of its account from anywhere: it is short,
  and only somebody who has the password comes as far as to guess it.
"""

import math
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address
from typing import Final
from uuid import UUID

from esp_common.database import Connection
from esp_common.errors import RateLimited

from esp_auth.domain.lockout import Attempts, Rule, after_failure, delay_s, wait_s
from esp_auth.domain.secrets import mac
from esp_auth.store.attempts import AttemptStore
from esp_auth.store.users import UserStore

IPV6_NETWORK_BITS: Final = 64
"""One subscriber has a whole network of this size, and may use any address in it."""


@dataclass(frozen=True, slots=True)
class Rules:
    """`refusal`: of an account at one place. `delay`: of an account's, or of an address's failures."""

    refusal: Rule
    account_delay: Rule
    address_delay: Rule


@dataclass(frozen=True, slots=True)
class Guess:
    """The account whose secret is tried, and the place: an address, or an open session."""

    username: str
    address: str | None = None
    session_id: UUID | None = None

    @property
    def account(self) -> str:
        """The account, whether it exists or not."""
        return f"account:{self.username.lower()}"

    @property
    def place(self) -> str:
        """The place where the guess comes from."""
        if self.session_id is not None:
            return f"session:{self.session_id}"
        return f"address:{network_of(self.address)}"


class Throttle:
    """Count failures and compute waits. Names and addresses are stored as HMACs under `key`."""

    def __init__(self, key: bytes, rules: Rules) -> None:
        self._key = key
        self._rules = rules

    async def check(self, connection: Connection, guess: Guess) -> None:
        """Raise RateLimited, the same for every account, while the account has to wait at this place.

        Call it within one's turn to hash, so that simultaneous guesses are counted in between.
        """
        await self._check(connection, self._pair(guess))

    async def check_code(self, connection: Connection, guess: Guess) -> None:
        """Raise RateLimited while the account has to wait with codes, wherever they come from."""
        await self._check(connection, self._code(guess))

    async def delay_s(self, connection: Connection, guess: Guess) -> float:
        """Return for how many seconds to delay a login before its password is checked."""
        store = AttemptStore(connection)
        if await store.is_known(self._pair(guess)):
            return 0.0
        rules = self._delays(guess)
        known, now = await store.read(rules)
        return max(delay_s(known.get(subject), rule, now) for subject, rule in rules.items())

    async def count_failure(self, connection: Connection, guess: Guess) -> None:
        """Count one more wrong password, in the caller's transaction."""
        rules = {self._pair(guess): self._rules.refusal}
        if guess.session_id is None and not await AttemptStore(connection).is_known(self._pair(guess)):
            rules |= self._delays(guess)
        await self._count(connection, guess, rules)

    async def count_code_failure(self, connection: Connection, guess: Guess) -> None:
        """Count one more wrong code, in the caller's transaction."""
        await self._count(connection, guess, {self._code(guess): self._rules.refusal})

    async def note_login(self, connection: Connection, guess: Guess, user_id: UUID) -> None:
        """Delete the account's failures at this place, which becomes a known one, and those of its codes."""
        store = AttemptStore(connection)
        await store.clear([self._pair(guess), self._code(guess)])
        await store.remember(self._pair(guess), user_id)

    async def clear(self, connection: Connection, username: str) -> None:
        """Delete an account's failures everywhere, in the caller's transaction."""
        await AttemptStore(connection).clear_account(self._mac(Guess(username).account))

    async def _check(self, connection: Connection, subject: bytes) -> None:
        known, now = await AttemptStore(connection).read([subject])
        if (wait := wait_s(known.get(subject), self._rules.refusal, now)) > 0:
            raise RateLimited(
                "too many failed attempts", retry_after_s=math.ceil(wait), fix="wait, then try once more"
            )

    async def _count(self, connection: Connection, guess: Guess, rules: dict[bytes, Rule]) -> None:
        store = AttemptStore(connection)
        now = await UserStore(connection).now()
        account, address = self._mac(guess.account), self._address(guess)
        accounts = {subject: None if subject == address else account for subject in rules}
        for subject, attempts in (await store.lock(accounts, now)).items():
            known: Attempts | None = attempts if attempts.failures else None
            await store.write(subject, after_failure(known, rules[subject], now))

    def _delays(self, guess: Guess) -> dict[bytes, Rule]:
        rules = {self._mac(guess.account): self._rules.account_delay}
        if guess.address is not None:
            rules[self._address(guess)] = self._rules.address_delay
        return rules

    def _address(self, guess: Guess) -> bytes:
        return self._mac(f"address:{network_of(guess.address)}")

    def _pair(self, guess: Guess) -> bytes:
        return self._mac(f"{guess.account} {guess.place}")

    def _code(self, guess: Guess) -> bytes:
        return self._mac(f"{guess.account} code")

    def _mac(self, text: str) -> bytes:
        return mac(self._key, text)


def network_of(address: str | None) -> str:
    """Return the address, or the IPv6 network it belongs to."""
    if address is None:
        return ""
    try:
        parsed = ip_address(address)
    except ValueError:
        return address
    if not isinstance(parsed, IPv6Address):
        return str(parsed)
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return f"{IPv6Address(int(parsed) >> IPV6_NETWORK_BITS << IPV6_NETWORK_BITS)}/{IPV6_NETWORK_BITS}"
