"""What the store's functions take as a connection: a plain one, or one lent by a pool."""

from typing import TYPE_CHECKING, Any, Final

import asyncpg
from asyncpg.pool import PoolConnectionProxy

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
    asyncpg.PostgresConnectionError,
    asyncpg.CannotConnectNowError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.InsufficientResourcesError,
    asyncpg.QueryCanceledError,
)
"""What is raised while the database is away, starting, stopping or overloaded: the same will do later."""
