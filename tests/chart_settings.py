"""Names of the settings that a chart's `settings` may have: every one of a service that is no secret.

`python tests/chart_settings.py` writes them into the schema, after a setting was added or removed.
"""

import json
from pathlib import Path

from esp_archiver.settings import ArchiverSettings
from esp_auth.settings import AuthSettings
from esp_backup.settings import BackupSettings
from esp_common.settings import ServiceSettings
from esp_diagnostics.settings import DiagnosticsSettings
from esp_ingest.settings import IngestSettings

CLASSES: tuple[type[ServiceSettings], ...] = (
    ArchiverSettings,
    AuthSettings,
    BackupSettings,
    DiagnosticsSettings,
    IngestSettings,
)
SET_BY_CHART = frozenset({"http_host", "http_port", "metrics_host", "metrics_port", "shutdown_delay_s"})
HELM = Path(__file__).parents[1] / "deploy" / "helm"
SCHEMAS = (HELM / "esp-service" / "values.schema.json",)


def secret_names() -> set[str]:
    """Return the settings that only a file may hold."""
    return {name for cls in CLASSES for name, field in cls.model_fields.items() if field.repr is False}


def public_names() -> list[str]:
    """Return the settings that values may hold."""
    found = {name for cls in CLASSES for name in cls.model_fields}
    return sorted(found - secret_names() - SET_BY_CHART)


def write() -> None:
    """Bring the schemas up to date."""
    for file in SCHEMAS:
        schema = json.loads(file.read_text())
        schema["$defs"]["settingName"]["enum"] = public_names()
        file.write_text(json.dumps(schema, indent=2, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    write()
