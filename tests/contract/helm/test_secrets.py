import json

import charts
import pytest
from chart_files import platform_names, public_names, secret_names
from charts import Object, pod


def test_no_secret_is_a_value_or_in_a_config_map(objects: list[Object], workloads: list[Object]) -> None:
    secret = {name.upper() for name in secret_names()}
    for workload in workloads:
        for variable in (
            one for container in pod(workload)["containers"] for one in container.get("env", [])
        ):
            assert "valueFrom" not in variable, "an environment is shown by the runtime; mount a file"
            setting = variable["name"].split("_", 2)[-1]
            assert "@" not in variable["value"], "a URL with a login"
            if variable["name"].startswith("ESP_PLATFORM_"):
                continue
            assert setting not in secret, variable["name"]
            if setting.endswith("_FILE") and setting.removesuffix("_FILE") in secret:
                assert variable["value"].startswith("/run/secrets/esp/")
    text = json.dumps(charts.of_kind(objects, "ConfigMap")).lower()
    assert not [name for name in secret if f'"{name.lower()}"' in text]
    assert charts.of_kind(objects, "Secret") == []


def test_every_secret_file_that_a_role_is_told_of_is_mounted_for_its_group_only(
    workloads: list[Object],
) -> None:
    for workload in workloads:
        volumes = {volume["name"]: volume for volume in pod(workload)["volumes"]}
        for container in pod(workload)["containers"]:
            files = {
                one["value"].rpartition("/")[2]
                for one in container.get("env", [])
                if one.get("value", "").startswith("/run/secrets/esp/")
            }
            if not files:
                continue
            secret = volumes.get("secrets", volumes.get("platform-secrets"))["secret"]
            assert {item["path"] for item in secret.get("items", [])} == files or secret[
                "secretName"
            ] == "esp-bootstrap"
            assert secret["defaultMode"] == 0o440


def test_roles_get_only_the_secrets_that_they_need() -> None:
    def keys(service: str, workload: str) -> set[str]:
        rendering = next(one for one in charts.services() if one.name == f"{service}-default")
        found = next(
            one
            for one in rendering.objects()
            if charts.name(one) == workload and one["kind"] in ("Deployment", "Job")
        )
        return {item["key"] for item in charts.secret_items(found)}

    assert keys("ingest", "esp-ingest-migrate") == {"owner_database_url"}
    assert keys("ingest", "esp-ingest-worker") == {"amqp_url", "database_url", "redis_url"}
    assert keys("ingest", "esp-ingest-maintenance") == {"amqp_url", "owner_database_url", "redis_url"}
    assert "broker_secret" not in keys("auth", "esp-auth-worker")
    assert "broker_management_url" not in keys("auth", "esp-auth-api")


def test_settings_that_values_may_have_are_those_of_the_services_without_the_secrets() -> None:
    schema = json.loads((charts.SERVICE / "values.schema.json").read_text())
    assert schema["$defs"]["settingName"]["enum"] == public_names(), (
        "settings were added or removed: run `python tests/chart_files.py`"
    )


def test_settings_of_the_bootstrap_are_those_of_esp_platform() -> None:
    names = json.loads((charts.UMBRELLA / "values.schema.json").read_text())["$defs"]
    assert names["settingName"]["enum"] == platform_names(secret=False), "run `python tests/chart_files.py`"
    assert names["secretName"]["enum"] == platform_names(secret=True), "run `python tests/chart_files.py`"


@pytest.mark.parametrize("secret", sorted(secret_names()))
def test_secret_given_as_a_setting_is_refused(secret: str) -> None:
    with pytest.raises(charts.helm_python.HelmError, match=secret):
        charts.render(charts.SERVICE, {"service": "auth", "settings": {secret: "x"}})
