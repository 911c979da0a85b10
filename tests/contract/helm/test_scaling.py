import charts
import helm_python
import pytest
from charts import Object, component, name
from esp_common import topology

SINGLE = {("ingest", "maintenance"), ("archiver", "worker"), ("backup", "worker")}
BY_QUEUE = {
    ("ingest", "worker"): topology.INGEST_TELEMETRY,
    ("diagnostics", "worker"): r"^diagnostics\.telemetry\.[0-9]+$",
    ("diagnostics", "notifier"): topology.DIAGNOSTICS_NOTIFICATIONS,
}


def _role(found: Object) -> tuple[str, str]:
    return found["metadata"]["labels"]["app.kubernetes.io/name"].removeprefix("esp-"), component(found)


def test_what_leads_alone_has_one_pod_and_is_stopped_before_its_successor(objects: list[Object]) -> None:
    for deployment in charts.of_kind(objects, "Deployment"):
        if _role(deployment) in SINGLE:
            assert deployment["spec"]["replicas"] == 1
            assert deployment["spec"]["strategy"] == {"type": "Recreate"}
        else:
            assert deployment["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] == 0


def test_only_one_owner_says_how_many_replicas_there_are(objects: list[Object]) -> None:
    scaled = {
        found["spec"]["scaleTargetRef"]["name"]
        for found in charts.of_kind(objects, "HorizontalPodAutoscaler", "ScaledObject")
    }
    for deployment in charts.of_kind(objects, "Deployment"):
        assert ("replicas" in deployment["spec"]) != (name(deployment) in scaled), name(deployment)
    assert scaled <= set(map(name, charts.of_kind(objects, "Deployment")))


def test_apis_scale_on_cpu_between_two_limits(objects: list[Object]) -> None:
    for scaler in charts.of_kind(objects, "HorizontalPodAutoscaler"):
        assert component(scaler) in {"api", "edge"}
        assert 2 <= scaler["spec"]["minReplicas"] < scaler["spec"]["maxReplicas"]
        assert [metric["resource"]["name"] for metric in scaler["spec"]["metrics"]] == ["cpu"]


def test_consumers_scale_on_all_messages_of_their_queue(objects: list[Object]) -> None:
    for scaler in charts.of_kind(objects, "ScaledObject"):
        (trigger,) = scaler["spec"]["triggers"]
        metadata = trigger["metadata"]
        assert metadata["queueName"] == BY_QUEUE[_role(scaler)]
        # The management API counts what a consumer has and has not acknowledged; AMQP does not.
        assert (metadata["protocol"], metadata["mode"]) == ("http", "QueueLength")
        assert "excludeUnacknowledged" not in metadata
        assert "host" not in metadata, "the address has a password"


def test_every_consumer_of_a_queue_scales_where_there_is_keda() -> None:
    scaled = {
        _role(scaler)
        for rendering in charts.services()
        if rendering.name.endswith("-everything")
        for scaler in charts.of_kind(rendering.objects(), "ScaledObject")
    }
    assert scaled == BY_QUEUE.keys()


def test_scaler_authenticates_with_the_secret_of_the_management_api(objects: list[Object]) -> None:
    for scaler in charts.of_kind(objects, "ScaledObject"):
        (trigger,) = scaler["spec"]["triggers"]
        found = charts.named(objects, "TriggerAuthentication", trigger["authenticationRef"]["name"])
        parameters = {one["parameter"]: one["name"] for one in found["spec"]["secretTargetRef"]}
        assert parameters == {"host": "esp-keda", "tls": "esp-keda", "ca": "esp-ca"}


def test_diagnostics_has_no_more_workers_than_queues_and_loses_them_slowly(objects: list[Object]) -> None:
    for scaler in charts.of_kind(objects, "ScaledObject"):
        if _role(scaler) != ("diagnostics", "worker"):
            continue
        assert scaler["spec"]["minReplicaCount"] >= 1
        assert scaler["spec"]["maxReplicaCount"] <= topology.LANES
        down = scaler["spec"]["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]["scaleDown"]
        assert down["stabilizationWindowSeconds"] >= 1800
        assert down["policies"] == [{"type": "Pods", "value": 1, "periodSeconds": 600}]


def test_more_diagnostics_workers_than_queues_are_refused() -> None:
    values = {
        "service": "diagnostics",
        "roles": {"worker": {"autoscaling": {"max": topology.LANES + 1}}},
    }
    with pytest.raises(helm_python.HelmError, match="max 9 is above the number of queues, 8"):
        charts.render(charts.SERVICE, values)


@pytest.mark.parametrize("autoscaling", [{}, {"max": 12}])
def test_setting_of_lanes_is_the_maximum_of_diagnostics_workers(autoscaling: dict[str, int]) -> None:
    values = {
        "service": "diagnostics",
        "settings": {"lanes": 16},
        "roles": {"worker": {"autoscaling": autoscaling}},
        "global": {"keda": {"enabled": True}},
    }
    objects = charts.render(charts.SERVICE, values)
    (scaler,) = [
        each for each in charts.of_kind(objects, "ScaledObject") if _role(each) == ("diagnostics", "worker")
    ]
    assert scaler["spec"]["maxReplicaCount"] == autoscaling.get("max", 16)


@pytest.mark.parametrize(
    ("service", "role", "given", "message"),
    [
        ("ingest", "maintenance", {"autoscaling": {"kind": "cpu"}}, "a single role cannot have autoscaling"),
        ("ingest", "worker", {"autoscaling": {"min": 9}}, "min 9 is above max 8"),
        ("ingest", "api", {"shutdownDelaySeconds": 60}, "terminationGracePeriodSeconds must be above"),
        ("ingest", "api", {"egress": ["postgre"]}, "no such destination: postgre; known: amqp"),
        ("ingest", "api", {"httpFrom": ["edges"]}, "no such source: edges; known: broker, edge"),
    ],
)
def test_values_that_contradict_each_other_are_refused_with_their_place(
    service: str, role: str, given: dict[str, object], message: str
) -> None:
    with pytest.raises(helm_python.HelmError, match=message):
        charts.render(charts.SERVICE, {"service": service, "roles": {role: given}})


def test_every_replicated_role_keeps_all_pods_but_one_during_maintenance(objects: list[Object]) -> None:
    budgets = {name(found): found["spec"] for found in charts.of_kind(objects, "PodDisruptionBudget")}
    for deployment in charts.of_kind(objects, "Deployment"):
        if deployment["spec"]["strategy"]["type"] == "Recreate":
            # A budget for one pod would keep its node from being emptied.
            assert name(deployment) not in budgets
            continue
        budget = budgets[name(deployment)]
        assert budget["maxUnavailable"] == 1
        assert charts.selects(budget["selector"], deployment["spec"]["template"]["metadata"]["labels"])
