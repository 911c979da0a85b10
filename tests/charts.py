"""Render the Helm charts offline, with the values that tests and documents use."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import helm_python
import jsonschema
import yaml
from esp_common.topology import SERVICES
from kubernetes_validate.utils import schema_contents
from referencing import Registry, Resource

HELM = Path(__file__).parents[1] / "deploy" / "helm"
SERVICE = HELM / "esp-service"
UMBRELLA = HELM / "esp"
INFRA = HELM / "esp-infra"
KUBERNETES = ("1.30.0", "1.37.0")
"""The oldest version that the charts are for, and the newest that there are schemas of."""
_CUSTOM = Path(__file__).parent / "contract" / "helm" / "schemas"

Object = dict[str, Any]
EVERYTHING: Mapping[str, Any] = {
    "image": {"registry": "registry.example/esp", "tag": "1.2.3", "pullSecrets": ["registry"]},
    "ca": {"secret": "esp-ca"},
    "trustedProxies": "10.244.0.0/16",
    "otelEndpoint": "http://collector.monitoring:4318",
    "vault": {"url": "https://vault.vault:8200"},
    "keda": {"enabled": True},
    "monitoring": {"enabled": True, "labels": {"release": "prometheus"}},
}
"""Global values with every optional part switched on."""


@dataclass(frozen=True)
class Rendering:
    """One way to install a chart."""

    name: str
    chart: Path
    values: str
    release: str = "esp"

    def objects(self) -> list[Object]:
        """Return every object of the release."""
        return _rendered(self.chart, self.values, self.release)


def render(chart: Path, values: Mapping[str, Any], release: str = "esp") -> list[Object]:
    """Return every object of a release; raise helm_python.HelmError for values that the chart refuses."""
    loaded = load(chart)
    files = loaded.render(dict(values), name=release, namespace="esp")
    return [
        found for name, text in sorted(files.items()) if name.endswith(".yaml") for found in _objects(text)
    ]


def load(chart: Path) -> helm_python.Chart:
    """Return the chart in a folder, loaded anew: rendering takes switched-off dependencies out for good."""
    return helm_python.Chart.load(chart)


def _objects(text: str) -> Iterator[Object]:
    yield from filter(None, yaml.load_all(text, Loader=yaml.CSafeLoader))


@cache
def _rendered(chart: Path, values: str, release: str) -> list[Object]:
    return render(chart, json.loads(values), release)


def services() -> list[Rendering]:
    """Return each service alone, as it is by default and with every optional part."""
    return [
        Rendering(
            f"{service}-{kind}", SERVICE, json.dumps({"service": service, "global": values}), f"esp-{service}"
        )
        for service in SERVICES
        for kind, values in (("default", {}), ("everything", EVERYTHING))
    ]


def validate(found: Object) -> None:
    """Raise unless `found` is valid by Kubernetes' schemas or by its custom resource's."""
    group, _, version = found["apiVersion"].rpartition("/")
    custom = _CUSTOM / f"{found['kind'].lower()}-{group}-{version}.json"
    if custom.exists():
        _custom(custom).validate(found)
        return
    file = "-".join(filter(None, (found["kind"].lower(), group.split(".")[0], version)))
    for kubernetes in KUBERNETES:
        _builtin(file, kubernetes).validate(found)


@cache
def _custom(file: Path) -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator(json.loads(file.read_text()))


@cache
def _builtin(file: str, kubernetes: str) -> jsonschema.Draft202012Validator:
    """Return what kubernetes_validate makes anew, from files of 2 MB, for each object."""
    schema = schema_contents(f"{_folder(kubernetes)}/{file}.json", kubernetes)
    registry = Resource.from_contents(schema) @ _definitions(kubernetes)
    return jsonschema.Draft202012Validator(schema, registry=registry)


@cache
def _definitions(kubernetes: str) -> Registry[Any]:
    definitions = schema_contents(f"{_folder(kubernetes)}/_definitions.json", kubernetes)
    return Resource.from_contents(definitions) @ Registry()


def _folder(kubernetes: str) -> str:
    return f"kubernetes-json-schema/v{kubernetes}-local-strict"


def renderings() -> list[Rendering]:
    """Return every way to install that the tests look at."""
    return [*services(), *umbrella(), *infra()]


def umbrella() -> list[Rendering]:
    """Return the umbrella chart with its default values and with each of its values files."""
    return list(_with_each_values_file(UMBRELLA))


def infra() -> list[Rendering]:
    """Return the servers' chart with its default values and with each of its values files."""
    return list(_with_each_values_file(INFRA))


def _with_each_values_file(chart: Path) -> Iterator[Rendering]:
    yield Rendering(f"{chart.name}-default", chart, "{}", chart.name)
    for file in sorted(chart.glob("values-*.yaml")):
        kind = file.stem.removeprefix("values-")
        yield Rendering(
            f"{chart.name}-{kind}", chart, json.dumps(yaml.safe_load(file.read_text())), chart.name
        )


def of_kind(objects: list[Object], *kinds: str) -> list[Object]:
    """Return the objects of some kinds."""
    return [found for found in objects if found["kind"] in kinds]


def name(found: Object) -> str:
    """Return the name of an object."""
    return str(found["metadata"]["name"])


def named(objects: list[Object], kind: str, name: str) -> Object:
    """Return the one object of a kind and name."""
    (found,) = (one for one in of_kind(objects, kind) if one["metadata"]["name"] == name)
    return found


def pod(workload: Object) -> Object:
    """Return the specification of a workload's pods."""
    return dict(workload["spec"]["template"]["spec"])


def component(found: Object) -> str:
    """Return the role that an object is about."""
    return str(found["metadata"]["labels"].get("app.kubernetes.io/component", ""))


def selects(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    """Return whether a label selector (of matchLabels) selects `labels`."""
    wanted = selector.get("matchLabels", {})
    return all(labels.get(label) == value for label, value in wanted.items())


def secret_items(workload: Object) -> list[dict[str, str]]:
    """Return which keys of its Secret a workload mounts, and as which files."""
    (volume,) = (one for one in pod(workload)["volumes"] if one["name"] == "secrets")
    return list(volume["secret"]["items"])
