"""What counts as the database's trouble, so that messages wait for its end instead of being given up."""

import asyncpg
import pytest
from esp_common.database import is_outage


@pytest.mark.parametrize(
    "error",
    [
        asyncpg.AdminShutdownError("terminating connection due to administrator command"),
        asyncpg.InternalClientError("cannot switch to state 12; another operation (2) is in progress"),
        asyncpg.InterfaceError("connection is closed"),
        asyncpg.ObjectNotInPrerequisiteStateError("database is not currently accepting connections"),
        ConnectionResetError(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_server_going_away_is_an_outage_at_every_step(error: Exception) -> None:
    assert is_outage(error)


@pytest.mark.parametrize(
    "error",
    [asyncpg.DataError("invalid input"), asyncpg.UniqueViolationError("duplicate key"), ValueError()],
    ids=lambda error: type(error).__name__,
)
def test_what_is_wrong_with_the_data_is_no_outage(error: Exception) -> None:
    assert not is_outage(error)
