import datetime as dt
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import charts
import helm_python
import pytest
from chart_files import EDGE_CONFIGURATION, edge_configuration
from charts import Object
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


def _umbrella(kind: str) -> list[Object]:
    return next(one for one in charts.umbrella() if one.name == f"esp-{kind}").objects()


def _configuration(objects: list[Object], release: str = "esp") -> str:
    return str(charts.named(objects, "ConfigMap", f"{release}-edge")["data"]["nginx.conf"])


def test_umbrella_installs_what_each_service_installs_alone() -> None:
    alone = {
        (found["kind"], charts.name(found))
        for rendering in charts.services()
        if rendering.name.endswith("-default")
        for found in rendering.objects()
    }
    together = {(found["kind"], charts.name(found)) for found in _umbrella("default")}
    assert {found for found in together - alone if not found[1].startswith("esp-edge")} == set()
    assert alone - together == set()


@pytest.mark.parametrize("release", ["esp", "north"])
def test_edge_asks_services_of_its_release_at_the_port_that_they_have(release: str) -> None:
    objects = charts.render(charts.UMBRELLA, {}, release)
    upstreams = re.findall(r"server ([\w-]+):(\d+);", _configuration(objects, release))
    assert len(upstreams) == len(charts.SERVICES)
    for host, port in upstreams:
        assert charts.named(objects, "Service", host)["spec"]["ports"][0]["port"] == int(port)


def test_edge_starts_without_a_service_that_is_switched_off() -> None:
    objects = charts.render(charts.UMBRELLA, {"backup": {"enabled": False}})
    service = charts.named(objects, "Service", "esp-backup")
    assert "selector" not in service["spec"]
    assert [found for found in charts.of_kind(objects, "Deployment") if "backup" in charts.name(found)] == []


def test_edge_has_the_configuration_of_the_common_generator() -> None:
    assert EDGE_CONFIGURATION.read_text() == edge_configuration(), "run `python tests/chart_files.py`"


@pytest.mark.parametrize("kind", ["default", "aks", "onprem"])
def test_nginx_accepts_its_configuration(kind: str, tmp_path: Path) -> None:
    text = re.sub(r"server [\w-]+:8000;", "server 127.0.0.1:8000;", _configuration(_umbrella(kind)))
    text = text.replace("/tmp/", f"{tmp_path}/").replace("/run/secrets/tls", str(tmp_path))
    _write_certificate(tmp_path)
    file = tmp_path / "nginx.conf"
    file.write_text(text)
    tried = subprocess.run(
        ["nginx", "-e", "stderr", "-t", "-c", file], capture_output=True, text=True, check=False
    )
    assert tried.returncode == 0, tried.stderr


def _write_certificate(folder: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "esp.example")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now)
        .not_valid_after(now + dt.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    (folder / "tls.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    private = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    (folder / "tls.key").write_bytes(key.private_bytes(serialization.Encoding.PEM, *private))


def test_edge_sees_the_client_s_address_and_believes_only_the_proxies_given() -> None:
    service = charts.named(_umbrella("aks"), "Service", "esp-edge")
    assert service["spec"]["type"] == "LoadBalancer"
    assert service["spec"]["externalTrafficPolicy"] == "Local"
    assert "set_real_ip_from" not in _configuration(_umbrella("aks"))
    behind_gateway = _configuration(_umbrella("onprem"))
    assert "set_real_ip_from 10.244.0.0/16;" in behind_gateway
    assert "real_ip_recursive on;" in behind_gateway


def test_services_believe_the_edge() -> None:
    for deployment in charts.of_kind(_umbrella("aks"), "Deployment"):
        (container,) = charts.pod(deployment)["containers"]
        settings = {one["name"].split("_", 2)[-1]: one["value"] for one in container.get("env", [])}
        assert settings.get("TRUSTED_PROXIES") == ("10.244.0.0/16" if "HTTP_PORT" in settings else None)


def test_gateway_sends_to_the_edge_encrypted() -> None:
    objects = _umbrella("onprem")
    route = charts.named(objects, "HTTPRoute", "esp-edge")
    assert route["spec"]["rules"] == [{"backendRefs": [{"name": "esp-edge", "port": 443}]}]
    policy = charts.named(objects, "BackendTLSPolicy", "esp-edge")
    assert policy["spec"]["targetRefs"] == [{"group": "", "kind": "Service", "name": "esp-edge"}]


def test_each_service_has_an_azure_identity_of_its_own_on_aks() -> None:
    accounts = charts.of_kind(_umbrella("aks"), "ServiceAccount")
    clients = {
        charts.name(account): account["metadata"]
        .get("annotations", {})
        .get("azure.workload.identity/client-id")
        for account in accounts
        if charts.component(account) not in {"owner", "edge", "bootstrap"}
    }
    assert len(set(clients.values())) == len(charts.SERVICES)
    for deployment in charts.of_kind(_umbrella("aks"), "Deployment"):
        labels = deployment["spec"]["template"]["metadata"]["labels"]
        assert labels.get("azure.workload.identity/use") == (
            None if charts.component(deployment) == "edge" else "true"
        )


def test_servers_are_set_up_before_the_migrations_and_first_users_made_after_them() -> None:
    jobs = charts.of_kind(_umbrella("onprem"), "Job")
    weights = {charts.name(job): int(job["metadata"]["annotations"]["helm.sh/hook-weight"]) for job in jobs}
    in_order = sorted(weights, key=lambda job: weights[job])
    assert in_order[0] == "esp-bootstrap"
    assert in_order[-1] == "esp-first-users"
    assert in_order[1:-1] == [
        f"esp-{service}-migrate" for service in ("ingest", "auth", "diagnostics", "archiver", "backup")
    ]
    commands = {charts.name(job): charts.pod(job)["containers"][0]["args"] for job in jobs}
    assert commands["esp-bootstrap"] == ["apply", "database", "vault", "broker", "redis"]
    assert commands["esp-first-users"] == ["apply", "users"]


def test_trial_has_one_pod_of_each_role() -> None:
    objects = _umbrella("minimal")
    assert charts.of_kind(objects, "HorizontalPodAutoscaler", "ScaledObject") == []
    assert {found["spec"]["replicas"] for found in charts.of_kind(objects, "Deployment")} == {1}


@pytest.mark.parametrize(
    ("values", "place"),
    [
        ({"ingset": {}}, "ingset"),
        ({"edge": {"replica": 2}}, "replica"),
        ({"bootstrap": {"parts": ["databases"]}}, "/bootstrap/parts/0"),
        ({"bootstrap": {"settings": {"database_admin_url": "x"}}}, "database_admin_url"),
        ({"bootstrap": {"settings": {"amqp_url": "amqps://admin:x@broker"}}}, "/bootstrap/settings/amqp_url"),
        ({"diagnostics": {"settings": {"otel_endpoint": "http://a:b@c"}}}, "/settings/otel_endpoint"),
        ({"edge": {"trustedProxies": ["10.0.0.1"]}}, "/edge/trustedProxies/0"),
        ({"edge": {"gateway": {"enabled": True}}}, "/edge/gateway/"),
        ({"global": {"kedaa": {}}}, "kedaa"),
        ({"ingest": {"rolse": {}}}, "rolse"),
        ({"ingest": {"service": "auth"}}, "/ingest/service"),
        ({"auth": {"settings": {"lockout_first": 1}}}, "lockout_first"),
    ],
)
def test_typo_is_refused_and_its_place_named(values: dict[str, Any], place: str) -> None:
    with pytest.raises(helm_python.HelmError, match=place):
        charts.render(charts.UMBRELLA, values)


def test_shared_values_are_described_once() -> None:
    ours, theirs = (
        json.loads((chart / "values.schema.json").read_text())["$defs"]
        for chart in (charts.UMBRELLA, charts.SERVICE)
    )
    assert ours["global"] == theirs["global"]


def test_package_holds_everything_it_needs(tmp_path: Path) -> None:
    archive = helm_python.package(charts.UMBRELLA, destination=tmp_path)
    rendered = helm_python.Chart.load(archive).render({}, name="esp")
    assert any(name.endswith("ingest/templates/deployment.yaml") for name in rendered)


@pytest.mark.parametrize("kind", ["aks", "onprem", "minimal"])
def test_backup_leaves_physical_backups_to_the_provider_or_operator(kind: str) -> None:
    worker = charts.named(_umbrella(kind), "Deployment", "esp-backup-worker")
    (container,) = worker["spec"]["template"]["spec"]["containers"]
    environment = {variable["name"]: variable.get("value") for variable in container["env"]}
    assert environment["ESP_BACKUP_MODE"] == "managed"
