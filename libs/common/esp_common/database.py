"""PostgreSQL: the connection pool, and queries kept in described .sql files."""

import asyncio
import re
from collections.abc import Callable, Coroutine, Iterator, Mapping
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Final, Literal

import asyncpg
from asyncpg.pool import PoolConnectionProxy

from esp_common.settings import ServiceSettings, service_of
from esp_common.vault import Login, VaultKeeper, keeper_of

Engine = Literal["timescale", "postgres"]
"""Where readings and records are kept: in TimescaleDB, or in plain PostgreSQL."""

if TYPE_CHECKING:
    Connection = asyncpg.Connection[Any] | PoolConnectionProxy[Any]
    Pool = asyncpg.Pool[Any]
else:
    # asyncpg's classes are generic for type checkers only.
    Connection = asyncpg.Connection | PoolConnectionProxy
    Pool = asyncpg.Pool

OUTAGES: Final = (
    OSError,
    TimeoutError,
    asyncpg.InterfaceError,
    # What a connection says between the server's farewell and its end: it is in no state to be used.
    asyncpg.InternalClientError,
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.TransactionRollbackError,
    asyncpg.LockNotAvailableError,
)
"""What the database raises when it is away, restarting or overtaxed: the same will do later."""

GRACE_S: Final = 5.0
"""How much longer than the server's own timeout a statement is waited for."""

_NAME: Final = re.compile(r"^-- name: *(\w+) *$", re.MULTILINE)


class Queries(Mapping[str, str]):
    """The named queries of one .sql file; `queries.insert_row` and `queries["insert_row"]` are its text."""

    def __init__(self, text: str) -> None:
        _, *parts = _NAME.split(text)
        names, bodies = parts[::2], parts[1::2]
        if len(set(names)) != len(names):
            raise ValueError(f"query named twice: {sorted(name for name in names if names.count(name) > 1)}")
        self._queries = {name: body.strip() for name, body in zip(names, bodies, strict=True)}

    def __getitem__(self, name: str) -> str:
        return self._queries[name]

    def __getattr__(self, name: str) -> str:
        try:
            return self.__dict__["_queries"][name]  # type: ignore[no-any-return]
        except KeyError:
            raise AttributeError(f"no query named {name}") from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._queries)

    def __len__(self) -> int:
        return len(self._queries)


def load_queries(package: str, name: str = "queries.sql") -> Queries:
    """Return the queries of `package`'s file `name`: each starts with a line `-- name: <name>`."""
    return Queries(files(package).joinpath(name).read_text(encoding="utf-8"))


def is_outage(error: Exception) -> bool:
    """Whether `error` is the database's trouble, not that of what was written: then the same will do later.

    A missing table or right is one as well: it fails all that is written alike, and will be mended.
    """
    fault_of_the_data = (asyncpg.DataError, asyncpg.IntegrityConstraintViolationError)
    return isinstance(error, OUTAGES) or (
        isinstance(error, asyncpg.PostgresError) and not isinstance(error, fault_of_the_data)
    )


async def create_pool(
    settings: ServiceSettings,
    *,
    role: str,
    min_size: int = 1,
    max_size: int = 10,
    init: "Callable[[asyncpg.Connection[asyncpg.Record]], Coroutine[Any, Any, None]] | None" = None,
) -> Pool:
    """Return a pool whose connections give up on a statement after the setting's seconds.

    `role` is what the server shows as the application (`esp-ingest worker`). The server enforces the
    timeout, so a statement ends even when this process is gone. Where Vault makes the database logins,
    each new connection takes the one that is good now, and older connections go when they are next idle.
    """
    timeout_ms = str(int(settings.statement_timeout_s * 1000))
    keeper = keeper_of(service_of(type(settings)))
    pool = await asyncpg.create_pool(
        settings.database_url,
        connect=_connect_with(keeper) if keeper else None,
        min_size=min_size,
        max_size=max_size,
        init=init,
        timeout=10,
        command_timeout=settings.statement_timeout_s + GRACE_S if settings.statement_timeout_s else None,
        server_settings={
            "application_name": role,
            "statement_timeout": timeout_ms,
            "idle_in_transaction_session_timeout": timeout_ms,
            "timezone": "UTC",
        },
    )
    if keeper:
        _renew_with(keeper, pool)
    return pool


def _connect_with(keeper: VaultKeeper) -> Callable[..., Coroutine[Any, Any, Any]]:
    """Return asyncpg's connect with the login that `keeper` has at the time."""

    async def connect(*address: Any, **options: Any) -> Any:
        if (login := keeper.login) is None:
            return await _connect_without_vault(keeper, *address, **options)
        try:
            return await asyncpg.connect(*address, **{**options, **_credentials(login)})
        except asyncpg.InvalidAuthorizationSpecificationError as refusal:
            if not await asyncio.to_thread(keeper.replace, login.user) or keeper.login is None:
                # Callers take it as the outage that it is: both will be back.
                raise ConnectionRefusedError(f"{refusal}; and Vault makes no other login") from refusal
            return await asyncpg.connect(*address, **{**options, **_credentials(keeper.login)})

    return connect


async def _connect_without_vault(keeper: VaultKeeper, *address: Any, **options: Any) -> Any:
    try:
        return await asyncpg.connect(*address, **options)
    except asyncpg.InvalidAuthorizationSpecificationError as refusal:
        if not keeper.fell_back:
            raise
        # An outage, not a mistake: the keeper goes on asking Vault for a login that is good.
        raise ConnectionRefusedError(f"{refusal}; and Vault has made no login yet") from refusal


def _credentials(login: Login) -> dict[str, str]:
    return {"user": login.user, "password": login.password}


def _renew_with(keeper: VaultKeeper, pool: Pool) -> None:
    """Have `pool` give up its connections, each when it is next idle, whenever there is a new login."""
    loop = asyncio.get_running_loop()

    def expire() -> None:
        if not loop.is_closed():
            asyncio.run_coroutine_threadsafe(pool.expire_connections(), loop)

    keeper.on_login(expire)
    keeper.start()
