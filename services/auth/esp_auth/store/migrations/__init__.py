"""The service's database migrations, run by `esp_common.migrations`."""

from esp_common import migrations
from esp_common.database import Engine


def migrate(database_url: str, engine: str = "auto", *, sql: bool = False) -> Engine:
    """Bring the database at `database_url` to the newest revision and return its storage engine."""
    return migrations.migrate(__name__, "auth", database_url, engine, sql=sql)
