"""Checks of a service's `doctor` command: a check that fails is reported and does not stop the others."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import asyncpg

from esp_common.database import OUTAGES
from esp_common.errors import EspError


@dataclass(frozen=True, slots=True)
class Finding:
    """Result of one check; `detail`: the state found, or the fault and its remedy."""

    name: str
    passed: bool
    detail: str

    @property
    def row(self) -> tuple[str, str, str]:
        """The finding as a row of a table: name, result, detail."""
        return self.name, "ok" if self.passed else "FAILED", self.detail


async def run_check(
    name: str, check: Callable[[], Awaitable[str]], *, faults: tuple[type[Exception], ...] = ()
) -> Finding:
    """Return the finding of `check`, which returns the state found or raises.

    `faults`: errors that mean a failed check, besides those of the platform and of the database.
    """
    expected: tuple[type[Exception], ...] = (*OUTAGES, asyncpg.PostgresError, *faults)
    try:
        return Finding(name, True, await check())
    except EspError as error:
        return Finding(name, False, f"{error.detail}; {error.fix}" if error.fix else error.detail)
    except expected as error:
        return Finding(name, False, " ".join(str(error).split()) or type(error).__name__)
