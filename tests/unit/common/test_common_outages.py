"""What counts as the database's trouble, so that messages wait for its end instead of being given up."""

import ast
from pathlib import Path

import asyncpg
import pytest
from esp_common import database
from esp_common.database import is_outage

REPOSITORY = Path(__file__).parents[3]


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


def test_only_one_place_lists_the_errors_of_an_outage() -> None:
    """A list of one's own misses some: a role ended when its connection died in the middle of a statement."""
    listed = [
        str(path.relative_to(REPOSITORY))
        for folder in ("libs", "services")
        for path in (REPOSITORY / folder).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and node.attr in ("InterfaceError", "InternalClientError")
    ]
    assert set(listed) == {str(Path(database.__file__).relative_to(REPOSITORY))}
