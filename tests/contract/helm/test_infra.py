import re
from typing import Any

import charts
import helm_python
import jsonschema
import pytest
from charts import Object, name
from esp_platform import broker, redis
from esp_platform.files import TlsFiles

TLS = TlsFiles("/run/secrets/tls/tls.crt", "/run/secrets/tls/tls.key", "/run/secrets/tls/ca.crt")
PARTS = {
    "certificates": {"Issuer", "Certificate"},
    "rabbitmq": {"RabbitmqCluster"},
    "postgres": {"Cluster", "ObjectStore", "ScheduledBackup"},
    "redis": {"StatefulSet"},
    "externalSecrets": {"SecretStore", "ExternalSecret"},
}


def _infra(kind: str) -> list[Object]:
    return next(one for one in charts.infra() if one.name == f"esp-infra-{kind}").objects()


@pytest.mark.parametrize("part", PARTS)
def test_part_that_is_switched_off_leaves_nothing_and_the_others_stay(part: str) -> None:
    values: dict[str, Any] = {"postgres": {"backup": {"enabled": True}}}
    values.setdefault(part, {})["enabled"] = False
    objects = charts.render(charts.INFRA, values)
    kinds = {found["kind"] for found in objects}
    assert not PARTS[part] & kinds
    others = set().union(*(kinds for other, kinds in PARTS.items() if other != part))
    assert others <= kinds
    assert not [
        found for found in objects if part in name(found) and part in {"rabbitmq", "postgres", "redis"}
    ]


@pytest.mark.parametrize(
    ("values", "place"),
    [
        ({"rabbitmqq": {}}, "rabbitmqq"),
        ({"rabbitmq": {"replicas": 2}}, "/rabbitmq/replicas"),
        ({"postgres": {"instance": 3}}, "instance"),
        ({"postgres": {"storage": {"size": "200GB"}}}, "/postgres/storage/size"),
        ({"externalSecrets": {"store": {"provider": "aws"}}}, "/externalSecrets/store/provider"),
        ({"certificates": {"edgeNames": []}}, "/certificates/edgeNames"),
    ],
)
def test_typo_is_refused_and_its_place_named(values: dict[str, Any], place: str) -> None:
    with pytest.raises(helm_python.HelmError, match=place):
        charts.render(charts.INFRA, values)


def test_custom_resource_with_an_unknown_field_is_invalid() -> None:
    cluster = charts.named(_infra("default"), "Cluster", "esp-postgres")
    with pytest.raises(jsonschema.ValidationError, match="instance"):
        charts.validate({**cluster, "spec": {**cluster["spec"], "instance": 3}})


def test_every_secret_that_a_service_mounts_is_made_with_its_keys() -> None:
    made = {
        name(found): {one["secretKey"] for one in found["spec"]["data"]}
        for found in charts.of_kind(_infra("onprem"), "ExternalSecret")
    }
    umbrella = next(one for one in charts.umbrella() if one.name == "esp-onprem").objects()
    for workload in charts.of_kind(umbrella, "Deployment", "Job"):
        for volume in charts.pod(workload)["volumes"]:
            if volume["name"] == "secrets":
                keys = {item["key"] for item in volume["secret"]["items"]}
                assert keys <= made[volume["secret"]["secretName"]], name(workload)
    for authentication in charts.of_kind(umbrella, "TriggerAuthentication"):
        for one in authentication["spec"]["secretTargetRef"]:
            assert one["name"] == "esp-ca" or one["key"] in made[one["name"]]


def test_certificates_are_made_for_every_secret_that_is_mounted() -> None:
    made = {found["spec"]["secretName"] for found in charts.of_kind(_infra("default"), "Certificate")}
    assert made == {
        "esp-authority",
        "esp-ca",
        "esp-edge-tls",
        "esp-postgres-tls",
        "esp-rabbitmq-tls",
        "esp-redis-tls",
    }


def test_nobody_mounts_the_key_of_the_authority(objects: list[Object], workloads: list[Object]) -> None:
    for workload in workloads:
        for volume in charts.pod(workload)["volumes"]:
            assert volume.get("secret", {}).get("secretName") != "esp-authority"
            if volume.get("secret", {}).get("secretName") == "esp-ca":
                assert [item["key"] for item in volume["secret"]["items"]] == ["ca.crt"]


def test_broker_is_three_nodes_on_three_machines_with_tls_only() -> None:
    spec = charts.named(_infra("default"), "RabbitmqCluster", "esp-rabbitmq")["spec"]
    assert spec["replicas"] == 3
    (rule,) = spec["affinity"]["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    assert rule["topologyKey"] == "kubernetes.io/hostname"
    assert spec["tls"] == {"secretName": "esp-rabbitmq-tls", "disableNonTLSListeners": True}
    # Those that the operator always has are management, Prometheus and peer discovery.
    assert {*spec["rabbitmq"]["additionalPlugins"], "rabbitmq_management", "rabbitmq_prometheus"} == set(
        broker.PLUGINS
    )


def test_broker_is_configured_as_everywhere_but_for_what_the_operator_does() -> None:
    listeners = broker.Listeners("0.0.0.0", 5671, 8883, 15671, 15691)
    everywhere = _lines(broker.configuration(listeners, "", TLS, broker.AuthBackend("http://auth")))
    spec = charts.named(_infra("default"), "RabbitmqCluster", "esp-rabbitmq")["spec"]
    here = _lines(spec["rabbitmq"]["additionalConfig"])
    operators = (
        "listeners",
        "management.",
        "prometheus.",
        "mqtt.listeners",
        "ssl_options.",
        "cluster_name",
        "log.",
    )
    missing = {
        key: value
        for key, value in everywhere.items()
        if here.get(key) != value and not key.startswith(operators) and not key.endswith("_path")
    }
    assert missing == {}
    assert here["log.exchange"] == "true", "auth reads the broker's log there"
    assert not [key for key in here if key.endswith("_path")], "the paths of auth's API have a secret in them"


def test_broker_s_secret_reaches_it_as_a_file_with_every_path_of_auth() -> None:
    secret = charts.named(_infra("default"), "ExternalSecret", "esp-rabbitmq-auth")["spec"]
    text = secret["target"]["template"]["data"]["auth.conf"]
    everywhere = broker.configuration(
        broker.Listeners("0.0.0.0", 1, 2, 3, 4),
        "",
        None,
        broker.AuthBackend("http://esp-auth.esp.svc:8000/broker/{{ .broker_secret }}"),
    )
    paths = {key: value for key, value in _lines(everywhere).items() if key.endswith("_path")}
    assert _lines(text) == paths


def test_redis_is_configured_as_everywhere() -> None:
    everywhere = _lines(
        redis.configuration("0.0.0.0", 6379, "/data", "aclfile /run/secrets/esp/users.acl", TLS), " "
    )
    (container,) = charts.pod(charts.named(_infra("default"), "StatefulSet", "esp-redis"))["containers"]
    arguments = container["command"][1:]
    here = {key.removeprefix("--"): value for key, value in zip(arguments[::2], arguments[1::2], strict=True)}
    assert {
        key: value.strip('"') for key, value in everywhere.items() if key not in {"bind", "daemonize"}
    } == here


def _lines(text: str, separator: str = " = ") -> dict[str, str]:
    pairs = (line.split(separator, 1) for line in text.splitlines() if line and not line.startswith("#"))
    return dict(pairs)


def test_network_policies_know_the_servers_by_the_labels_that_they_have() -> None:
    objects = _infra("default")
    values = charts.yaml.safe_load((charts.SERVICE / "values.yaml").read_text())
    destinations = values["global"]["networkPolicy"]["destinations"]
    labels = {
        "amqp": {"app.kubernetes.io/name": name(charts.of_kind(objects, "RabbitmqCluster")[0])},
        "management": {"app.kubernetes.io/name": name(charts.of_kind(objects, "RabbitmqCluster")[0])},
        "postgres": {"cnpg.io/cluster": name(charts.of_kind(objects, "Cluster")[0])},
        "redis": charts.named(objects, "StatefulSet", "esp-redis")["spec"]["selector"]["matchLabels"],
    }
    for destination, expected in labels.items():
        assert destinations[destination]["to"] == [{"podSelector": {"matchLabels": expected}}]


def test_guide_fills_every_secret_that_the_key_vault_is_asked_for() -> None:
    asked = {
        one["remoteRef"]["key"]
        for found in charts.of_kind(_infra("azure"), "ExternalSecret")
        for one in found["spec"]["data"]
    }
    guide = (charts.HELM.parents[1] / "docs" / "deploying.md").read_text()
    filled = {
        name.replace("$service", service)
        for name in re.findall(r"^ *put (esp-[\w$-]+)", guide, re.MULTILINE)
        for service in charts.SERVICES
    }
    assert filled == asked


def test_database_on_premises_is_backed_up_by_the_operator_and_the_service_knows_that() -> None:
    objects = _infra("onprem")
    cluster = charts.named(objects, "Cluster", "esp-postgres")["spec"]
    (plugin,) = cluster["plugins"]
    backup = charts.named(objects, "ScheduledBackup", "esp-postgres")["spec"]
    assert backup["pluginConfiguration"]["name"] == plugin["name"] == "barman-cloud.cloudnative-pg.io"
    store = charts.named(objects, "ObjectStore", plugin["parameters"]["barmanObjectName"])["spec"]
    wanted = store["configuration"]["azureCredentials"]["connectionString"]
    secret = charts.named(objects, "ExternalSecret", wanted["name"])["spec"]
    assert wanted["key"] in {one["secretKey"] for one in secret["data"]}
    umbrella = next(one for one in charts.umbrella() if one.name == "esp-onprem").objects()
    (container,) = charts.pod(charts.named(umbrella, "Deployment", "esp-backup-worker"))["containers"]
    modes = [one["value"] for one in container["env"] if one["name"] == "ESP_BACKUP_MODE"]
    assert modes == ["managed"], "esp-backup does not read the plugin's backups"


def test_azure_values_leave_database_and_redis_to_azure() -> None:
    kinds = {found["kind"] for found in _infra("azure")}
    assert not kinds & {"Cluster", "StatefulSet"}
    store = charts.named(_infra("azure"), "SecretStore", "esp")
    assert store["spec"]["provider"]["azurekv"]["authType"] == "WorkloadIdentity"
