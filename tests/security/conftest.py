"""The platform as it is deployed, once for all the tests of a run's process."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from deployed import Deployed
from esp_stack.servers import Postgres, Redis


@pytest.fixture(scope="session")
def deployed(server_home: Path, postgres_server: Postgres, redis_server: Redis) -> Iterator[Deployed]:
    """Servers, both services' APIs and auth's worker."""
    with Deployed(server_home / "security", postgres_server, redis_server.url_of(15)) as deployed:
        yield deployed
