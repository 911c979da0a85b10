from collections.abc import Iterator
from typing import Any

import charts
from charts import Object, name

STORES = {"postgres", "amqp", "redis"}
EGRESS = {
    "ingest-api": STORES,
    "ingest-worker": STORES,
    "ingest-maintenance": STORES,
    "diagnostics-api": STORES,
    "diagnostics-worker": STORES,
    "diagnostics-notifier": STORES | {"https", "mail"},
    "auth-api": STORES,
    "auth-worker": STORES | {"management"},
    "archiver-api": STORES | {"https"},
    "archiver-worker": STORES | {"https"},
    "backup-api": STORES | {"https"},
    "backup-worker": STORES | {"https", "management"},
    **{job: {"postgres", "redis", "management"} for job in ("bootstrap", "first-users")},
    **{f"{service}-migrate": {"postgres"} for service in charts.SERVICES},
}
"""What each role connects to; https: blob storage, or notifications by web hook."""
PORTS = {
    53: "dns",
    443: "https",
    465: "mail",
    587: "mail",
    4318: "otel",
    5432: "postgres",
    5671: "amqp",
    6379: "redis",
    8200: "vault",
    10000: "redis",
    15671: "management",
}
EVERYONE = {"dns", "vault", "otel"}


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
        if role not in EGRESS:
            assert role in {"edge", "redis"}
            continue
        rules = list(_rules(_policies_of(objects, workload), "egress"))
        found = {PORTS[port] for rule in rules for port in _ports(rule)}
        # A site may leave its notifications to a mail relay.
        assert (found | ({"https"} & EGRESS[role])) - EVERYONE == EGRESS[role], role
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
        if charts.component(workload) == "edge":
            continue
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
