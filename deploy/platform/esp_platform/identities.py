"""Identities that processes have at Vault: the secrets they read and the database role of their logins."""

from dataclasses import dataclass
from typing import Final

from esp_common.vault import MOUNT

from esp_platform.databases import ARCHIVER_OWNER, AUTH_OWNER, BACKUP_OWNER, DIAGNOSTICS_OWNER, OWNER


@dataclass(frozen=True)
class AppRole:
    """Identity of a process: it reads `service`'s secrets and has logins of one database role.

    `name` is that of its AppRole, of its JWT role and of its policy.
    """

    name: str
    service: str
    database_role: str

    @property
    def policy(self) -> str:
        """All rights of this identity."""
        paths = (f"{MOUNT}/data/{self.service}", f"database/creds/{self.database_role}")
        return "\n".join(f'path "{path}" {{ capabilities = ["read"] }}' for path in paths)


APP_ROLES: Final = (
    AppRole("ingest", "ingest", "esp_ingest"),
    AppRole("ingest-owner", "ingest", OWNER),
    AppRole("auth", "auth", "esp_auth"),
    AppRole("auth-owner", "auth", AUTH_OWNER),
    AppRole("diagnostics", "diagnostics", "esp_diagnostics"),
    AppRole("diagnostics-owner", "diagnostics", DIAGNOSTICS_OWNER),
    AppRole("archiver", "archiver", "esp_archiver"),
    AppRole("archiver-owner", "archiver", ARCHIVER_OWNER),
    AppRole("backup", "backup", "esp_backup"),
    AppRole("backup-owner", "backup", BACKUP_OWNER),
)
SNAPSHOTS: Final = "backup-snapshots"
SNAPSHOT_POLICY: Final = 'path "sys/storage/raft/snapshot" { capabilities = ["read"] }'


def policies() -> dict[str, str]:
    """Return the text of every policy by its name."""
    return {app_role.name: app_role.policy for app_role in APP_ROLES} | {SNAPSHOTS: SNAPSHOT_POLICY}
