"""nginx.conf for loopback ports, Compose service names and Kubernetes service names."""

from dataclasses import replace

from esp_common import topology
from esp_platform.files import TlsFiles
from esp_platform.nginx import LOCATIONS, Site, configuration

SITE = Site(
    listen="8443",
    upstreams={name: f"{name}-api:8000" for name in topology.SERVICES},
    tls=TlsFiles("/tls/tls.crt", "/tls/tls.key", "/tls/ca.crt"),
    folder="/tmp/nginx",
    access_log="/dev/stdout",
)


def test_upstreams_are_kept_alive_when_their_addresses_do_not_change():
    text = configuration(SITE)
    assert "server diagnostics-api:8000;\n    keepalive 64;" in text
    assert "proxy_pass http://diagnostics;" in text
    assert "resolver" not in text


def test_a_resolver_is_asked_for_the_address_of_every_upstream():
    text = configuration(replace(SITE, resolver="127.0.0.11"))
    assert "resolver 127.0.0.11" in text
    assert text.count("proxy_pass http://$upstream;") == len(LOCATIONS)
    assert "upstream diagnostics {" not in text


def test_only_trusted_proxies_name_the_client():
    assert "real_ip" not in configuration(SITE)
    text = configuration(replace(SITE, trusted_proxies=("10.0.0.0/8", "fd00::/8")))
    assert "set_real_ip_from 10.0.0.0/8;\n  set_real_ip_from fd00::/8;" in text
    assert "real_ip_header X-Forwarded-For;\n  real_ip_recursive on;" in text


def test_a_container_runs_workers_and_the_native_stack_one_process():
    assert "worker_processes auto;" in configuration(SITE)
    assert "master_process off;" in configuration(replace(SITE, one_process=True))
