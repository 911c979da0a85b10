from collections.abc import Iterator
from typing import Any

import charts
from charts import Object, name

SERVICE_EGRESS = {
    "ingest-api": {5432, 5671, 6379},
    "ingest-worker": {5432, 5671, 6379},
    "ingest-maintenance": {5432, 5671, 6379},
    "ingest-migrate": {5432},
    "diagnostics-api": {5432, 5671, 6379},
    "diagnostics-worker": {5432, 5671, 6379},
    "diagnostics-notifier": {5432, 5671, 6379, 443, 465, 587},
    "diagnostics-migrate": {5432},
    "auth-api": {5432, 5671, 6379},
    "auth-worker": {5432, 5671, 6379, 15671},
    "auth-migrate": {5432},
    "archiver-api": {5432, 5671, 6379, 443},
    "archiver-worker": {5432, 5671, 6379, 443},
    "archiver-migrate": {5432},
    "backup-api": {5432, 5671, 6379, 443},
    "backup-worker": {5432, 5671, 6379, 15671, 443},
    "backup-migrate": {5432},
}
"""What each role connects to: PostgreSQL, AMQP, Redis, the management API, blob storage, notifications."""
DNS = 53


def _policies_of(objects: list[Object], workload: Object) -> list[Object]:
    labels = workload["spec"]["template"]["metadata"]["labels"]
    return [
        policy
        for policy in charts.of_kind(objects, "NetworkPolicy")
        if charts.selects(policy["spec"]["podSelector"], labels)
    ]


def _rules(policies: list[Object], direction: str) -> Iterator[dict[str, Any]]:
    for policy in policies:
        yield from policy["spec"].get(direction, [])


def _ports(rule: dict[str, Any]) -> set[int]:
    return {port["port"] for port in rule["ports"]}


def test_every_pod_is_refused_what_no_policy_allows(objects: list[Object], workloads: list[Object]) -> None:
    for workload in workloads:
        policies = _policies_of(objects, workload)
        assert [policy for policy in policies if policy["spec"]["policyTypes"] == ["Ingress", "Egress"]]


def test_roles_connect_only_to_what_the_architecture_says(
    objects: list[Object], workloads: list[Object]
) -> None:
    for workload in workloads:
        role = name(workload).removeprefix("esp-")
        if role not in SERVICE_EGRESS:
            continue
        rules = list(_rules(_policies_of(objects, workload), "egress"))
        ports = set().union(*map(_ports, rules)) - {DNS}
        optional = {8200, 4318}
        assert ports - optional == SERVICE_EGRESS[role], role
        for rule in rules:
            assert rule["to"], f"{role}: a rule without peers lets through to anywhere"


def test_no_service_may_connect_to_another(objects: list[Object], workloads: list[Object]) -> None:
    services = [one["spec"]["template"]["metadata"]["labels"] for one in workloads]
    for workload in workloads:
        if workload["metadata"]["labels"]["app.kubernetes.io/name"] == "esp-edge":
            continue
        for rule in _rules(_policies_of(objects, workload), "egress"):
            for peer in rule["to"]:
                if "podSelector" in peer and "namespaceSelector" not in peer:
                    assert not [labels for labels in services if charts.selects(peer["podSelector"], labels)]


def test_metrics_are_read_from_the_monitoring_namespace_only(
    objects: list[Object], workloads: list[Object]
) -> None:
    for workload in charts.of_kind(workloads, "Deployment"):
        rules = list(_rules(_policies_of(objects, workload), "ingress"))
        peers = [peer for rule in rules if 9000 in _ports(rule) for peer in rule["from"]]
        assert peers == [
            {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}
        ]


def test_apis_are_asked_by_the_edge_only_and_auth_by_the_broker_too(
    objects: list[Object], workloads: list[Object]
) -> None:
    for workload in workloads:
        rules = list(_rules(_policies_of(objects, workload), "ingress"))
        askers = {
            peer["podSelector"]["matchLabels"]["app.kubernetes.io/name"]
            for rule in rules
            if 8000 in _ports(rule)
            for peer in rule["from"]
        }
        match name(workload).removeprefix("esp-").split("-"):
            case ["auth", "api"]:
                assert askers == {"esp-edge", "esp-rabbitmq"}
            case [_, "api"]:
                assert askers == {"esp-edge"}
            case _:
                assert askers == set()


def test_notifications_reach_no_private_address() -> None:
    rendering = next(one for one in charts.services() if one.name == "diagnostics-default")
    policy = charts.named(rendering.objects(), "NetworkPolicy", "esp-diagnostics-notifier")
    (rule,) = (rule for rule in policy["spec"]["egress"] if 587 in _ports(rule))
    assert {"10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16"} <= set(
        rule["to"][0]["ipBlock"]["except"]
    )
