"""Throttling of guesses: by account, whether it exists or not, and by address."""

import math
from collections.abc import Iterator

from esp_common.database import Connection
from esp_common.errors import RateLimited

from esp_auth.domain.lockout import Rule, after_failure, wait_s
from esp_auth.domain.secrets import mac
from esp_auth.store.attempts import AttemptStore
from esp_auth.store.users import UserStore


class Throttle:
    """Counts failures and tells who has to wait. Names and addresses are kept as HMACs under `key`."""

    def __init__(self, key: bytes, *, account: Rule, address: Rule) -> None:
        self._key = key
        self._account_rule = account
        self._address_rule = address

    async def check(self, connection: Connection, username: str, address: str | None) -> None:
        """Raise RateLimited, the same for every account, while the account or the address has to wait.

        Ask within one's turn to hash: what is guessed at the same time is then counted in between.
        """
        rules = dict(self._rules(username, address))
        known, now = await AttemptStore(connection).read(rules)
        wait = max(wait_s(known.get(subject), rule, now) for subject, rule in rules.items())
        if wait > 0:
            raise RateLimited(
                "too many failed attempts", retry_after_s=math.ceil(wait), fix="wait, then try once more"
            )

    async def count_failure(self, connection: Connection, username: str, address: str | None) -> None:
        """Count one failure more, in the caller's transaction."""
        rules = dict(self._rules(username, address))
        store = AttemptStore(connection)
        now = await UserStore(connection).now()
        for subject, attempts in (await store.lock(rules, now)).items():
            known = attempts if attempts.failures else None
            await store.write(subject, after_failure(known, rules[subject], now))

    async def clear(self, connection: Connection, username: str) -> None:
        """Forget an account's failures, in the caller's transaction; an address's are not its doing."""
        await AttemptStore(connection).clear(self._account(username))

    def _rules(self, username: str, address: str | None) -> Iterator[tuple[bytes, Rule]]:
        yield self._account(username), self._account_rule
        if address is not None:
            yield mac(self._key, f"address:{address}"), self._address_rule

    def _account(self, username: str) -> bytes:
        return mac(self._key, f"account:{username.lower()}")
