"""Who each pod is: to Vault by its service account, to Azure storage by its managed identity."""

from typing import Any

import charts
import pytest
from charts import Object, name, pod
from esp_archiver.settings import ArchiverSettings
from esp_backup.settings import BackupSettings
from esp_platform.identities import APP_ROLES
from esp_platform.settings import PlatformSettings

ROLES = {role.name: role for role in APP_ROLES}


def by_token(**vault: Any) -> dict[str, Any]:
    return {"vault": {"url": "https://vault.vault:8200", "auth": "jwt", **vault}}


def of_services(workloads: list[Object]) -> list[Object]:
    return [one for one in workloads if "ESP_VAULT_URL" in environment(one)]


def environment(workload: Object) -> dict[str, str]:
    (container,) = pod(workload)["containers"]
    return {one["name"]: one["value"] for one in container.get("env", [])}


def services_by_token(**vault: Any) -> list[Object]:
    return [
        found
        for service in charts.SERVICES
        for found in charts.render(charts.SERVICE, {"service": service, "global": by_token(**vault)})
    ]


def workloads_of(objects: list[Object]) -> list[Object]:
    return charts.of_kind(objects, "Deployment", "Job")


def test_pods_use_the_service_account_that_their_vault_role_is_bound_to() -> None:
    objects = services_by_token()
    subject = PlatformSettings.model_fields["vault_jwt_subject"].default
    accounts = {name(one) for one in charts.of_kind(objects, "ServiceAccount")}
    used = set()
    for workload in workloads_of(objects):
        settings = environment(workload)
        role = ROLES[settings["ESP_VAULT_JWT_ROLE"]]
        account = pod(workload)["serviceAccountName"]
        namespace = workload["metadata"]["namespace"]
        assert subject.format(name=role.name) == f"system:serviceaccount:{namespace}:{account}"
        assert role.database_role == settings["ESP_VAULT_DATABASE_ROLE"]
        assert account in accounts
        used.add(role.name)
    assert used == ROLES.keys()


def test_owner_of_a_schema_is_the_account_of_migrations_and_of_maintenance_only() -> None:
    owners = {
        name(one)
        for one in workloads_of(services_by_token())
        if pod(one)["serviceAccountName"].endswith("-owner")
    }
    assert owners == {*(f"esp-{service}-migrate" for service in charts.SERVICES), "esp-ingest-maintenance"}


def test_token_for_vault_is_a_rotated_file_for_vault_alone() -> None:
    for workload in workloads_of(services_by_token(jwt={"mount": "kubernetes", "audience": "our-vault"})):
        (volume,) = (one for one in pod(workload)["volumes"] if one["name"] == "vault-token")
        (source,) = volume["projected"]["sources"]
        token = source["serviceAccountToken"]
        (container,) = pod(workload)["containers"]
        mounts = {one["name"]: one["mountPath"] for one in container["volumeMounts"]}
        settings = environment(workload)
        assert settings["ESP_VAULT_JWT_FILE"] == f"{mounts['vault-token']}/{token['path']}"
        assert settings["ESP_VAULT_JWT_MOUNT"] == "kubernetes"
        assert token["audience"] == "our-vault"
        assert pod(workload)["automountServiceAccountToken"] is False
        assert not {key for key in settings if "ROLE_ID" in key or "SECRET_ID" in key}
        assert not [one for one in charts.secret_items(workload) if "vault" in one["key"]]


def test_audience_is_the_bootstrap_s_by_default() -> None:
    values = charts.yaml.safe_load((charts.SERVICE / "values.yaml").read_text())
    audience = PlatformSettings.model_fields["vault_jwt_audience"].default
    assert values["global"]["vault"]["jwt"] == {"mount": "jwt", "audience": audience}


def test_on_premises_services_log_in_by_token_and_the_bootstrap_can_check_it() -> None:
    objects = next(one for one in charts.umbrella() if one.name == "esp-onprem").objects()
    roles = {environment(one)["ESP_VAULT_JWT_ROLE"] for one in of_services(workloads_of(objects))}
    assert roles == ROLES.keys()
    bootstrap = environment(charts.named(objects, "Job", "esp-bootstrap"))
    keys = bootstrap["ESP_PLATFORM_VAULT_JWT_KEYS_FILE"]
    assert keys.startswith(bootstrap["ESP_PLATFORM_SECRETS_FOLDER"])
    assert bootstrap["ESP_PLATFORM_VAULT_JWT_ISSUER"]


@pytest.mark.parametrize(
    ("service", "settings"), [("archiver", ArchiverSettings), ("backup", BackupSettings)]
)
def test_storage_by_identity_mounts_no_key_of_the_account(service: str, settings: Any) -> None:
    objects = next(one for one in charts.umbrella() if one.name == "esp-aks").objects()
    deployments = [
        one for one in charts.of_kind(objects, "Deployment") if name(one).startswith(f"esp-{service}-")
    ]
    assert len(deployments) == 2
    for deployment in deployments:
        variables = environment(deployment)
        prefix = settings.model_config["env_prefix"]
        assert variables[f"{prefix}BLOB_ACCOUNT_URL"].startswith("https://")
        assert f"{prefix}BLOB_CONNECTION_STRING_FILE" not in variables
        assert "blob_connection_string" not in {one["key"] for one in charts.secret_items(deployment)}
        labels = deployment["spec"]["template"]["metadata"]["labels"]
        assert labels["azure.workload.identity/use"] == "true"
        account = charts.named(objects, "ServiceAccount", pod(deployment)["serviceAccountName"])
        assert "azure.workload.identity/client-id" in account["metadata"]["annotations"]


@pytest.mark.parametrize("auth", ["token", ""])
def test_unknown_way_to_log_in_is_refused(auth: str) -> None:
    with pytest.raises(charts.helm_python.HelmError, match="/global/vault/auth"):
        charts.render(charts.SERVICE, {"service": "ingest", "global": by_token(auth=auth)})
