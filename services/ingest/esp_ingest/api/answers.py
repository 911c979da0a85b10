"""What the routes share: pages with cursors, and the problems they answer with."""

from typing import Annotated

from esp_common.answers import UtcTime
from fastapi import Path, Query

from esp_ingest.asset_kinds import NO_NUL

Id = Annotated[str, Path(min_length=1, max_length=64, pattern=NO_NUL)]
IdFilter = Annotated[str | None, Query(max_length=64, pattern=NO_NUL)]
FieldFilter = Annotated[
    str | None, Query(max_length=64, pattern=NO_NUL, description="Only those of this field.")
]
Since = Annotated[UtcTime | None, Query(alias="from", description="Only those at or after this time.")]
Until = Annotated[UtcTime | None, Query(alias="to", description="Only those before this time.")]
