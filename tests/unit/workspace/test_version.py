"""One version and one licence: packages, charts, images of the values and the changelog."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from esp_common import __version__

ROOT = Path(__file__).resolve().parents[3]
PROJECTS = sorted(
    path for folder in ("libs", "services", "deploy") for path in ROOT.glob(f"{folder}/*/pyproject.toml")
)
CHARTS = sorted(ROOT.glob("deploy/helm/*/Chart.yaml"))


def name(path: Path) -> str:
    return path.parent.name


def test_there_are_nine_packages_and_three_charts() -> None:
    assert (len(PROJECTS), len(CHARTS)) == (9, 3)


@pytest.mark.parametrize("path", PROJECTS, ids=name)
def test_package_has_the_version_and_the_licence(path: Path) -> None:
    project = tomllib.loads(path.read_text())["project"]
    assert (project["version"], project["license"]) == (__version__, "Apache-2.0")


@pytest.mark.parametrize("path", CHARTS, ids=name)
def test_chart_and_what_it_depends_on_have_the_version(path: Path) -> None:
    chart: dict[str, Any] = yaml.safe_load(path.read_text())
    assert {chart["version"], chart["appVersion"]} == {__version__}
    assert {dependency["version"] for dependency in chart.get("dependencies", [])} <= {__version__}


@pytest.mark.parametrize("site", ["aks", "onprem"])
def test_values_pull_images_of_the_version(site: str) -> None:
    values = yaml.safe_load((ROOT / f"deploy/helm/esp/values-{site}.yaml").read_text())
    assert values["global"]["image"]["tag"] == __version__


def test_changelog_begins_with_the_version() -> None:
    released = re.findall(r"^## \[(\d[^]]*)\] - \d{4}-\d\d-\d\d$", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert released[0] == __version__


def test_licence_is_apache_2() -> None:
    assert (ROOT / "LICENSE").read_text().split()[:4] == ["Apache", "License", "Version", "2.0,"]
