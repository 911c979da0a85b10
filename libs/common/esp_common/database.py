"""PostgreSQL: the connection pool, and queries in documented .sql files."""

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
"""Storage engine: TimescaleDB or plain PostgreSQL."""

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
    # Raised by a connection that the server has terminated but that is not closed yet.
    asyncpg.InternalClientError,
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.TransactionRollbackError,
    asyncpg.LockNotAvailableError,
)
"""Errors of a database that is unavailable, restarting or overloaded; a retry may succeed."""

GRACE_S: Final = 5.0
"""Client-side grace on top of the server's own statement timeout."""

_NAME: Final = re.compile(r"^-- name: *(\w+) *$", re.MULTILINE)


class Queries(Mapping[str, str]):
    """Named queries of one .sql file: `queries.insert_row` or `queries["insert_row"]`."""

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
    """Return the queries of `package`'s file `name`; each starts with a line `-- name: <name>`."""
    return Queries(files(package).joinpath(name).read_text(encoding="utf-8"))


def is_outage(error: Exception) -> bool:
    """Return whether `error` is caused by the database rather than by the data, so that a retry may succeed.

    A missing table or privilege counts too: it fails every write alike and is repaired by an operator.
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
    """Return a pool whose statements time out after the setting's seconds.

    `role` is the application name shown by the server (`esp-ingest worker`). The server enforces the timeout,
    so a statement ends even if this process is gone. If Vault issues the database logins, each new connection
    uses the current one, and connections with an older login are replaced when idle.
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
    """Return asyncpg's connect with the keeper's current login."""

    async def connect(*address: Any, **options: Any) -> Any:
        if (login := keeper.login) is None:
            return await _connect_without_vault(keeper, *address, **options)
        try:
            return await asyncpg.connect(*address, **{**options, **_credentials(login)})
        except asyncpg.InvalidAuthorizationSpecificationError as refusal:
            if not await asyncio.to_thread(keeper.replace, login.user) or keeper.login is None:
                # Callers treat it as an outage: both will be back.
                raise ConnectionRefusedError(f"{refusal}; and Vault makes no other login") from refusal
            return await asyncpg.connect(*address, **{**options, **_credentials(keeper.login)})

    return connect


async def _connect_without_vault(keeper: VaultKeeper, *address: Any, **options: Any) -> Any:
    try:
        return await asyncpg.connect(*address, **options)
    except asyncpg.InvalidAuthorizationSpecificationError as refusal:
        if not keeper.fell_back:
            raise
        # An outage, not a mistake: the keeper continues to request a valid login from Vault.
        raise ConnectionRefusedError(f"{refusal}; and Vault has made no login yet") from refusal


def _credentials(login: Login) -> dict[str, str]:
    return {"user": login.user, "password": login.password}


def _renew_with(keeper: VaultKeeper, pool: Pool) -> None:
    """Replace `pool`'s connections, each when idle, whenever there is a new login."""
    loop = asyncio.get_running_loop()

    def expire() -> None:
        if not loop.is_closed():
            asyncio.run_coroutine_threadsafe(pool.expire_connections(), loop)

    keeper.on_login(expire)
    keeper.start()
