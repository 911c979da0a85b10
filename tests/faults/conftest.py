"""The platform under faults, on servers of this suite's own."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import aio_pika
import pytest
from bed import Bed, Deployment
from rig import Announced, Rig


@pytest.fixture(scope="session")
def bed() -> Iterator[Bed]:
    """Servers that this suite may stop, kill and fill without disturbing other tests."""
    with Bed() as bed:
        yield bed


@pytest.fixture(scope="session")
def _deployments() -> dict[str, Deployment]:
    return {}


@pytest.fixture(scope="module")
def deployment(bed: Bed, engine: str, _deployments: dict[str, Deployment]) -> Deployment:
    """A migrated database with the simulated field's assets, one on each engine for all modules."""
    if engine not in bed.engines:
        pytest.skip("this machine's PostgreSQL has no TimescaleDB community edition")
    if engine not in _deployments:
        _deployments[engine] = bed.deploy(engine)
    return _deployments[engine]


@pytest.fixture
def rig(deployment: Deployment, tmp_path: Path) -> Iterator[Rig]:
    """An empty platform; its roles end with the test."""
    deployment.forget()
    rig = Rig(deployment, tmp_path)
    yield rig
    rig.stop()


@pytest.fixture
async def announced(rig: Rig) -> AsyncIterator[Announced]:
    """What `esp.telemetry` says from now on."""
    async with await aio_pika.connect(rig.bed.rabbitmq.url) as connection:
        announced = Announced(await connection.channel())
        await announced.listen()
        yield announced
