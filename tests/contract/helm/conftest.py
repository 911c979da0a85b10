"""Every rendering of the charts, one after the other."""

import charts
import pytest
from charts import Object, Rendering


@pytest.fixture(params=charts.renderings(), ids=lambda rendering: rendering.name)
def rendering(request: pytest.FixtureRequest) -> Rendering:
    """A chart with values."""
    found: Rendering = request.param
    return found


@pytest.fixture
def objects(rendering: Rendering) -> list[Object]:
    """Every object of the rendering."""
    return rendering.objects()


@pytest.fixture
def workloads(objects: list[Object]) -> list[Object]:
    """Everything that has pods of ours."""
    return charts.of_kind(objects, "Deployment", "Job", "StatefulSet")
