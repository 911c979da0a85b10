"""What the charts have from the code: the names of settings, and the edge's configuration.

`python tests/chart_files.py` brings both up to date, after a setting or the configuration of nginx changed.
"""

import json
from pathlib import Path

from esp_archiver.settings import ArchiverSettings
from esp_auth.settings import AuthSettings
from esp_backup.settings import BackupSettings
from esp_common.settings import ServiceSettings
from esp_common.topology import SERVICES
from esp_diagnostics.settings import DiagnosticsSettings
from esp_ingest.settings import IngestSettings
from esp_platform.files import TlsFiles
from esp_platform.nginx import Site, configuration

CLASSES: tuple[type[ServiceSettings], ...] = (
    ArchiverSettings,
    AuthSettings,
    BackupSettings,
    DiagnosticsSettings,
    IngestSettings,
)
SET_BY_CHART = frozenset({"http_host", "http_port", "metrics_host", "metrics_port", "shutdown_delay_s"})
HELM = Path(__file__).parents[1] / "deploy" / "helm"
SCHEMA = HELM / "esp-service" / "values.schema.json"
EDGE_CONFIGURATION = HELM / "esp" / "files" / "nginx.conf"
EDGE = Site(
    listen="8443",
    upstreams={service: f"esp-{service}:8000" for service in SERVICES},
    tls=TlsFiles("/run/secrets/tls/tls.crt", "/run/secrets/tls/tls.key", "/run/secrets/tls/ca.crt"),
    folder="/tmp",
    access_log="/dev/stdout",
)


def secret_names() -> set[str]:
    """Return the settings that only a file may hold."""
    return {name for cls in CLASSES for name, field in cls.model_fields.items() if field.repr is False}


def public_names() -> list[str]:
    """Return the settings that values may hold."""
    found = {name for cls in CLASSES for name in cls.model_fields}
    return sorted(found - secret_names() - SET_BY_CHART)


def edge_configuration() -> str:
    """Return nginx.conf of the edge."""
    return configuration(EDGE)


def write() -> None:
    """Bring the files up to date."""
    schema = json.loads(SCHEMA.read_text())
    schema["$defs"]["settingName"]["enum"] = public_names()
    SCHEMA.write_text(json.dumps(schema, indent=2, ensure_ascii=False) + "\n")
    EDGE_CONFIGURATION.write_text(edge_configuration())


if __name__ == "__main__":
    write()
