"""Parts of the charts that follow from the code: names of settings, and the edge's configuration.

`python tests/chart_files.py` brings both up to date, after a setting or the configuration of nginx changed.
"""

import json
from pathlib import Path

from esp_archiver.settings import ArchiverSettings
from esp_auth.settings import AuthSettings
from esp_backup.settings import BackupSettings
from esp_common.settings import ServiceSettings
from esp_diagnostics.settings import DiagnosticsSettings
from esp_ingest.settings import IngestSettings
from esp_platform.nginx import configuration
from esp_platform.render import TARGETS
from esp_platform.settings import PlatformSettings

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
UMBRELLA_SCHEMA = HELM / "esp" / "values.schema.json"
EDGE_CONFIGURATION = HELM / "esp" / "files" / "nginx.conf"


def secret_names() -> set[str]:
    """Return the settings that only a file may hold."""
    return {name for cls in CLASSES for name, field in cls.model_fields.items() if field.repr is False}


def public_names() -> list[str]:
    """Return the settings that values may hold."""
    found = {name for cls in CLASSES for name in cls.model_fields}
    return sorted(found - secret_names() - SET_BY_CHART)


def platform_names(*, secret: bool) -> list[str]:
    """Return the settings of esp-platform that are secrets, or that values may hold."""
    return sorted(
        name
        for name, field in PlatformSettings.model_fields.items()
        if (field.repr is False) is secret and name not in {"secrets_folder", "ca_file"}
    )


def edge_configuration() -> str:
    """Return nginx.conf of the edge."""
    return configuration(TARGETS["helm"].site)


def write() -> None:
    """Bring the files up to date."""
    _set_names(SCHEMA, {"settingName": public_names()})
    platform = {"settingName": platform_names(secret=False), "secretName": platform_names(secret=True)}
    _set_names(UMBRELLA_SCHEMA, platform)
    EDGE_CONFIGURATION.write_text(edge_configuration())


def _set_names(file: Path, names: dict[str, list[str]]) -> None:
    schema = json.loads(file.read_text())
    for definition, allowed in names.items():
        schema["$defs"][definition] = {"enum": allowed}
    file.write_text(json.dumps(schema, indent=2, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    write()
