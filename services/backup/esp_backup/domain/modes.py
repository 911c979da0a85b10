"""The backup modes: who takes the physical backups, what this service does, and what that promises."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Final, NamedTuple

from esp_common.errors import InvalidInput

from esp_backup.domain.physical import TYPES


class Mode(StrEnum):
    """Who takes the physical backups of the database and archives its WAL.

    `local`: this service, beside the database. `operator`: a database operator that keeps them with
    pgBackRest in Azure Blob Storage. `managed`: the provider of a managed database, or an operator with
    another tool.
    """

    LOCAL = "local"
    OPERATOR = "operator"
    MANAGED = "managed"


class Promise(NamedTuple):
    """What holds in a mode. `kinds`: the work of this service; `limits`: what it cannot do."""

    physical_by: str
    kinds: frozenset[str]
    rpo: str
    rto: str
    limits: tuple[str, ...]


_LOGICAL: Final = ("dump", "set", "verify", "drill")

PROMISES: Final[Mapping[Mode, Promise]] = {
    Mode.LOCAL: Promise(
        physical_by="this service, with pgBackRest",
        kinds=frozenset({*_LOGICAL, *TYPES}),
        rpo="archive_timeout (60 s) and the time that a segment takes to be archived",
        rto="what the last drill measured: restore of the newest backup and replay of its WAL",
        limits=("the worker must run beside the database, with its data folder and socket",),
    ),
    Mode.OPERATOR: Promise(
        physical_by="the database operator, with pgBackRest",
        kinds=frozenset(_LOGICAL),
        rpo="the operator's archive_timeout and the time that a segment takes to be archived",
        rto="what the last drill measured: restore of the operator's newest backup in a scratch volume",
        limits=(
            "full, differential and incremental backups and their retention are the operator's",
            "a restore into service is the operator's (a new cluster from the repository)",
        ),
    ),
    Mode.MANAGED: Promise(
        physical_by="the provider or operator of the managed database",
        kinds=frozenset(_LOGICAL),
        rpo="point-in-time restore: the provider's (Azure Database for PostgreSQL states up to 5 min) or the"
        " operator's archive_timeout; dumps alone: one hour and the time that a dump takes",
        rto="point-in-time restore: the provider's; dumps alone: what the last drill measured",
        limits=(
            "this service neither sees nor verifies the provider's or operator's backups",
            "a drill loads a dump into a scratch instance; it says nothing of point-in-time restore",
            "role passwords are not in the dumps: a managed database does not show them",
        ),
    ),
}


def require(mode: Mode, kind: str) -> None:
    """Raise InvalidInput when this service does not do work of `kind` in `mode`."""
    promise = PROMISES[mode]
    if kind not in promise.kinds:
        raise InvalidInput(
            f"no {kind} in backup mode {mode}: {promise.physical_by} takes physical backups",
            fix=f"ask for one of {', '.join(sorted(promise.kinds))}, or set ESP_BACKUP_MODE",
        )
