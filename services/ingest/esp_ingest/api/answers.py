"""Parameters that the routes share."""

from typing import Annotated

from fastapi import Path, Query

from esp_ingest.asset_kinds import NO_NUL

Id = Annotated[str, Path(min_length=1, max_length=64, pattern=NO_NUL)]
IdFilter = Annotated[str | None, Query(max_length=64, pattern=NO_NUL)]
FieldFilter = Annotated[
    str | None, Query(max_length=64, pattern=NO_NUL, description="Only those of this field.")
]
