"""The `esp-diagnostics` command: one subcommand per role, and maintenance commands."""

from typing import TYPE_CHECKING, Final

from esp_common.cli import dead_letter_commands, group
from esp_common.errors import run_cli
from esp_common.service_cli import add_service_commands

from esp_diagnostics.settings import SERVICE, DiagnosticsSettings

if TYPE_CHECKING:
    from esp_diagnostics.notifications.dead_letters import DeadLetters


LETTER_COLUMNS: Final = ("id", "died_at", "event_id", "alert_id", "priority", "title", "refusal")


def _dead_letters() -> tuple[DiagnosticsSettings, "DeadLetters"]:
    from esp_diagnostics.notifications.dead_letters import DeadLetters

    settings = DiagnosticsSettings.load()
    return settings, DeadLetters(settings.amqp_url)


app = group("Diagnose pumps, raise alerts and notify people.")
letters = dead_letter_commands(
    SERVICE,
    "Notifications that a destination did not accept; `refusal`: why one cannot be replayed.",
    LETTER_COLUMNS,
    _dead_letters,
)
app.add_typer(letters, name="dead-letters")


ROLES: Final = {
    "api": "Serve the HTTP API.",
    "worker": "Evaluate accepted readings: states, findings and alerts.",
    "notifier": "Send notifications, process platform events, and end shelving and delays.",
}

add_service_commands(app, DiagnosticsSettings, ROLES)


def main() -> None:
    """Run the command."""
    run_cli(app)
