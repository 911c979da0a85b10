"""The schema's history: Alembic revisions that run plain SQL files, some of them one per engine."""

from importlib.resources import files
from typing import Any, Final, Literal

import psycopg
from alembic import command
from alembic.config import Config
from sqlalchemy.engine import make_url

Engine = Literal["timescale", "postgres"]

SCRIPTS: Final = "esp_auth.store:migrations"

_HAS_TIMESCALE: Final = """
SELECT current_setting('timescaledb.license', true) = 'timescale'
   AND EXISTS (SELECT FROM pg_extension WHERE extname = 'timescaledb')
"""


def migrate(database_url: str, engine: str = "auto", *, sql: bool = False) -> Engine:
    """Bring the database at `database_url` to the newest revision and return its storage engine.

    `engine`: `timescale`, `postgres`, or `auto` for TimescaleDB where the server has its TSL edition. With
    `sql` nothing is run: the statements of the whole history are printed, and `auto` means `timescale`.
    """
    chosen = _choose(database_url, engine, offline=sql)
    config = Config()
    config.set_main_option("script_location", SCRIPTS)
    config.attributes["url"] = make_url(database_url).set(drivername="postgresql+psycopg")
    config.attributes["engine"] = chosen
    command.upgrade(config, "head", sql=sql)
    return chosen


def statements(name: str) -> str:
    """Return the text of the SQL file `name` of this folder's `sql`."""
    return files(__package__).joinpath("sql", name).read_text(encoding="utf-8")


def _choose(database_url: str, engine: str, *, offline: bool) -> Engine:
    if engine == "postgres":
        return "postgres"
    if engine == "timescale" or offline:
        return "timescale"
    with psycopg.connect(database_url) as connection:
        row: tuple[Any, ...] | None = connection.execute(_HAS_TIMESCALE).fetchone()
    return "timescale" if row and row[0] else "postgres"
