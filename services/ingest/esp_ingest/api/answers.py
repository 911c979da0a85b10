"""Parameters that the routes share."""

from typing import Annotated

from esp_common.contracts.channels import MASK_NAMES
from fastapi import Path, Query
from pydantic import AfterValidator

from esp_ingest.asset_kinds import NO_NUL

Id = Annotated[str, Path(min_length=1, max_length=64, pattern=NO_NUL)]
IdFilter = Annotated[str | None, Query(max_length=64, pattern=NO_NUL)]
FieldFilter = Annotated[
    str | None, Query(max_length=64, pattern=NO_NUL, description="Only those of this field.")
]


def _known_channel(given: str | None) -> str | None:
    if given is not None and given not in MASK_NAMES:
        raise ValueError(f"not a channel; known: {', '.join(MASK_NAMES)}")
    return given


ChannelFilter = Annotated[
    str | None,
    AfterValidator(_known_channel),
    Query(max_length=64, json_schema_extra={"enum": list(MASK_NAMES)}, description="Only this channel."),
]
