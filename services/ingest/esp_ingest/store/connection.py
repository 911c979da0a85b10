"""What the store's functions take as a connection: a plain one, or one lent by a pool."""

from typing import TYPE_CHECKING, Any

import asyncpg
from asyncpg.pool import PoolConnectionProxy

if TYPE_CHECKING:
    Connection = asyncpg.Connection[Any] | PoolConnectionProxy[Any]
    Pool = asyncpg.Pool[Any]
else:
    # asyncpg's classes are generic for type checkers only.
    Connection = asyncpg.Connection | PoolConnectionProxy
    Pool = asyncpg.Pool
