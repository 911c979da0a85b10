from itertools import chain
from typing import Any

import charts
from charts import Object, component, name, pod


def _containers(workload: Object) -> list[dict[str, Any]]:
    return [*pod(workload).get("initContainers", []), *pod(workload)["containers"]]


def test_pods_run_as_10001_and_cannot_become_anyone_else(workloads: list[Object]) -> None:
    for workload in workloads:
        context = pod(workload)["securityContext"]
        assert context["runAsNonRoot"] is True
        assert (context["runAsUser"], context["runAsGroup"], context["fsGroup"]) == (10001, 10001, 10001)
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}


def test_containers_have_no_privilege_and_a_read_only_root(workloads: list[Object]) -> None:
    for container in chain.from_iterable(map(_containers, workloads)):
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }


def test_pods_share_nothing_with_their_node(workloads: list[Object]) -> None:
    for workload in workloads:
        assert not {"hostNetwork", "hostPID", "hostIPC"} & pod(workload).keys()
        for volume in pod(workload)["volumes"]:
            assert "hostPath" not in volume


def test_pods_have_no_kubernetes_token_and_no_variables_of_services(workloads: list[Object]) -> None:
    for workload in workloads:
        assert pod(workload)["automountServiceAccountToken"] is False
        assert pod(workload)["enableServiceLinks"] is False


def test_containers_ask_for_and_are_limited_in_cpu_and_memory(workloads: list[Object]) -> None:
    for container in chain.from_iterable(map(_containers, workloads)):
        for kind in ("requests", "limits"):
            assert container["resources"][kind].keys() >= {"cpu", "memory"}, container["name"]


def test_writable_folders_are_volumes_with_a_size(workloads: list[Object]) -> None:
    for workload in workloads:
        volumes = {volume["name"]: volume for volume in pod(workload)["volumes"]}
        for container in _containers(workload):
            mounts = {mount["mountPath"]: mount for mount in container["volumeMounts"]}
            assert "/tmp" in mounts
            for mount in mounts.values():
                assert mount.get("readOnly") or _is_bounded(mount["name"], workload, volumes)


def _is_bounded(name: str, workload: Object, volumes: dict[str, dict[str, Any]]) -> bool:
    claims = {claim["metadata"]["name"] for claim in workload["spec"].get("volumeClaimTemplates", [])}
    if name in claims or "persistentVolumeClaim" in volumes[name]:
        return True
    return "sizeLimit" in volumes[name]["emptyDir"]


def test_probes_ask_health_on_the_metrics_port(objects: list[Object]) -> None:
    for deployment in charts.of_kind(objects, "Deployment"):
        if deployment["metadata"]["labels"]["app.kubernetes.io/name"] == "esp-edge":
            continue
        (container,) = pod(deployment)["containers"]
        asked = {kind: container[f"{kind}Probe"]["httpGet"] for kind in ("startup", "liveness", "readiness")}
        assert asked == {
            "startup": {"path": "/health/startup", "port": "metrics"},
            "liveness": {"path": "/health/live", "port": "metrics"},
            "readiness": {"path": "/health/ready", "port": "metrics"},
        }
        assert {"name": "metrics", "containerPort": 9000} in container["ports"]


def test_ports_of_a_role_are_those_that_its_settings_say(objects: list[Object]) -> None:
    for deployment in charts.of_kind(objects, "Deployment"):
        (container,) = pod(deployment)["containers"]
        ports = {port["name"]: str(port["containerPort"]) for port in container["ports"]}
        settings = {one["name"].split("_", 2)[-1]: one.get("value") for one in container.get("env", [])}
        for port in ("http", "metrics"):
            assert settings.get(f"{port.upper()}_PORT") == ports.get(port) or component(deployment) == "edge"


def test_pods_have_more_time_to_end_than_their_readiness_needs(objects: list[Object]) -> None:
    for deployment in charts.of_kind(objects, "Deployment"):
        (container,) = pod(deployment)["containers"]
        delays = [
            int(one["value"]) for one in container.get("env", []) if one["name"].endswith("_SHUTDOWN_DELAY_S")
        ]
        assert pod(deployment)["terminationGracePeriodSeconds"] >= 30 + max(delays, default=0), name(
            deployment
        )


def test_replicas_of_a_role_are_spread_over_zones_and_nodes(objects: list[Object]) -> None:
    for deployment in charts.of_kind(objects, "Deployment"):
        keys = [one["topologyKey"] for one in pod(deployment).get("topologySpreadConstraints", [])]
        single = deployment["spec"]["strategy"]["type"] == "Recreate"
        assert keys == ([] if single else ["topology.kubernetes.io/zone", "kubernetes.io/hostname"])


def test_images_are_the_registry_s_with_the_tag_given(
    rendering: charts.Rendering, workloads: list[Object]
) -> None:
    for container in chain.from_iterable(map(_containers, workloads)):
        assert ":latest" not in container["image"]
        if rendering.name.endswith("-everything"):
            assert container["image"].startswith("registry.example/esp/esp-")
            assert container["image"].endswith(":1.2.3")
