from typing import Any

import charts
import helm_python
import pytest


@pytest.mark.parametrize(
    ("values", "place"),
    [
        ({"service_name": "ingest"}, "service_name"),
        ({"service": "ingets"}, "/service"),
        ({}, "/service"),
        ({"service": "ingest", "roles": {"workers": {}}}, "workers"),
        ({"service": "ingest", "roles": {"worker": {"replica": 3}}}, "replica"),
        ({"service": "ingest", "roles": {"worker": {"replicas": "3"}}}, "/roles/worker/replicas"),
        ({"service": "ingest", "roles": {"worker": {"autoscaling": {"maximum": 3}}}}, "maximum"),
        ({"service": "ingest", "roles": {"worker": {"resources": {"limit": {}}}}}, "limit"),
        ({"service": "ingest", "settings": {"prefech": 10}}, "prefech"),
        ({"service": "ingest", "roles": {"worker": {"settings": {"prefech": 10}}}}, "prefech"),
        ({"service": "ingest", "image": {"digest": "sha256:short"}}, "/image/digest"),
        ({"service": "ingest", "global": {"kedaa": {}}}, "kedaa"),
        ({"service": "ingest", "global": {"vault": {"url": "http://vault"}}}, "/global/vault/url"),
        ({"service": "ingest", "global": {"trustedProxies": "10.0.0.1"}}, "/global/trustedProxies"),
    ],
)
def test_typo_is_refused_and_its_place_named(values: dict[str, Any], place: str) -> None:
    with pytest.raises(helm_python.HelmError, match=place):
        charts.render(charts.SERVICE, values)


@pytest.mark.parametrize("service", charts.SERVICES)
def test_what_a_service_has_by_default_would_be_accepted_as_values(service: str) -> None:
    defaults, own = (
        charts.yaml.safe_load((charts.SERVICE / file).read_text())
        for file in ("defaults.yaml", f"services/{service}.yaml")
    )
    charts.load(charts.SERVICE).validate_schema({**defaults, **own, "service": service})


def test_role_can_be_switched_off_and_a_value_beats_the_service_s() -> None:
    values = {
        "service": "ingest",
        "roles": {"worker": {"enabled": False}, "api": {"resources": {"limits": {"memory": "2Gi"}}}},
    }
    objects = charts.render(charts.SERVICE, values)
    assert sorted(map(charts.name, charts.of_kind(objects, "Deployment"))) == [
        "esp-ingest-api",
        "esp-ingest-maintenance",
    ]
    (container,) = charts.pod(charts.named(objects, "Deployment", "esp-ingest-api"))["containers"]
    assert container["resources"]["limits"] == {"cpu": "2", "memory": "2Gi"}
    assert container["resources"]["requests"] == {"cpu": "500m", "memory": "256Mi"}


def test_settings_reach_the_role_as_the_service_reads_them() -> None:
    values = {
        "service": "ingest",
        "settings": {"quarantine_max_rows": 2_000_000, "registry_reload_s": 1.5},
        "roles": {"worker": {"settings": {"prefetch": 5000}}},
    }
    objects = charts.render(charts.SERVICE, values)

    def environment(deployment: str) -> dict[str, str]:
        (container,) = charts.pod(charts.named(objects, "Deployment", deployment))["containers"]
        return {one["name"]: one["value"] for one in container["env"]}

    worker, api = environment("esp-ingest-worker"), environment("esp-ingest-api")
    assert worker["ESP_INGEST_QUARANTINE_MAX_ROWS"] == api["ESP_INGEST_QUARANTINE_MAX_ROWS"] == "2000000"
    assert worker["ESP_INGEST_REGISTRY_RELOAD_S"] == "1.5"
    assert worker["ESP_INGEST_PREFETCH"] == "5000"
    assert "ESP_INGEST_PREFETCH" not in api


def test_names_are_the_same_alone_and_through_the_umbrella() -> None:
    def names(release: str) -> list[str]:
        return sorted(map(charts.name, charts.render(charts.SERVICE, {"service": "auth"}, release)))

    assert names("esp") == names("esp-auth")
