"""The service's capabilities, wired together; each is created on first use."""

from collections.abc import Callable
from datetime import timedelta
from functools import cached_property, partial

from esp_common.contracts.events import Event
from esp_common.database import Pool
from redis.asyncio import Redis

from esp_auth.api_keys import ApiKeys
from esp_auth.domain import secrets
from esp_auth.domain.lockout import Rule
from esp_auth.domain.passwords import Cost, Passwords
from esp_auth.gateways import Gateways
from esp_auth.hashing import Hashing
from esp_auth.logins import Logins
from esp_auth.revocations import Revocations
from esp_auth.second_factor import SecondFactor
from esp_auth.sessions import Lifetimes, Sessions
from esp_auth.settings import AuthSettings
from esp_auth.signing import Signing
from esp_auth.store.attempts import AttemptStore
from esp_auth.store.users import UserStore
from esp_auth.throttle import Rules, Throttle
from esp_auth.users import Users


class Identity:
    """The capabilities of the service.

    `redis`: where revocations are copied to (None: nowhere). `on_event`: called at once with the keys and
    tokens that this process revokes, and the keys it signs with.
    """

    def __init__(
        self,
        pool: Pool,
        settings: AuthSettings,
        redis: "Redis | None" = None,
        on_event: Callable[[Event], None] = lambda _: None,
    ) -> None:
        self._pool = pool
        self._settings = settings
        self._master = settings.master
        self._on_event = on_event
        self.revocations = Revocations(pool, redis, token_s=settings.access_token_s, on_revoked=on_event)

    def derived(self, label: str) -> bytes:
        """Return the key for one purpose."""
        return secrets.derive(self._master, label)

    @cached_property
    def signing(self) -> Signing:
        """Signing keys and tokens."""
        return Signing(
            self._pool,
            self.derived(secrets.SIGNING_KEYS),
            token_s=self._settings.access_token_s,
            publish_s=self._settings.signing_key_publish_s,
            on_new_key=self._on_event,
        )

    @cached_property
    def api_keys(self) -> ApiKeys:
        """API keys."""
        overlap_s = self._settings.api_key_overlap_s
        pepper = self.derived(secrets.API_KEY_PEPPER)
        return ApiKeys(self._pool, pepper, overlap_s=overlap_s, on_revoked=self._on_event)

    @cached_property
    def gateways(self) -> Gateways:
        """Authorization of gateways on the broker."""
        return Gateways(self.api_keys, vhost=self._settings.broker_vhost)

    @cached_property
    def sessions(self) -> Sessions:
        """Sessions."""
        settings = self._settings
        return Sessions(
            self._pool,
            self.derived(secrets.REFRESH),
            self.signing,
            self.revocations,
            Lifetimes(settings.access_token_s, settings.refresh_token_s, settings.session_s),
            totp_required_for_admin=settings.totp_required_for_admin,
        )

    @cached_property
    def second_factor(self) -> SecondFactor:
        """Second factors."""
        return SecondFactor(self._pool, self.derived(secrets.TOTP), self.throttle)

    @cached_property
    def hashing(self) -> Hashing:
        """Password hashes."""
        settings = self._settings
        cost = Cost(settings.argon2_memory_kib, settings.argon2_passes, settings.argon2_lanes)
        return Hashing(Passwords(cost), slots=settings.hashes_at_once, max_waiting=settings.hashes_waiting)

    @cached_property
    def throttle(self) -> Throttle:
        """Throttling of guesses."""
        settings = self._settings
        forget_s = settings.lockout_forget_s
        delay = partial(
            Rule, first_s=settings.delay_first_s, longest_s=settings.delay_longest_s, forget_s=forget_s
        )
        rules = Rules(
            refusal=Rule(
                settings.lockout_account_failures,
                settings.lockout_first_s,
                settings.lockout_longest_s,
                forget_s,
            ),
            account_delay=delay(settings.delay_account_failures),
            address_delay=delay(settings.delay_address_failures),
        )
        return Throttle(self.derived(secrets.LOGIN_ATTEMPTS), rules)

    @cached_property
    def logins(self) -> Logins:
        """Logins."""
        return Logins(
            self._pool, self.hashing, self.throttle, self.sessions, self.second_factor, self.revocations
        )

    @cached_property
    def users(self) -> Users:
        """Users."""
        return Users(
            self._pool, self.hashing, self.throttle, self.sessions, self.second_factor, self.revocations
        )

    async def tidy(self) -> None:
        """Delete expired sessions, failures, revocations and signing keys."""
        async with self._pool.acquire() as connection:
            now = await UserStore(connection).now()
            await AttemptStore(connection).prune(
                now - timedelta(seconds=self._settings.lockout_forget_s),
                now - timedelta(days=self._settings.known_address_days),
            )
        await self.sessions.prune(now - timedelta(days=self._settings.session_kept_days))
        await self.revocations.prune(now)
        await self.signing.prune()
