"""Ids that the routes share."""

from typing import Annotated, Final

from fastapi import Path, Query

NO_NUL: Final = "^[^\\u0000]+$"
PumpId = Annotated[
    str, Path(alias="id", min_length=1, max_length=64, pattern=NO_NUL, description="The pump.")
]
FieldId = Annotated[
    str, Path(alias="id", min_length=1, max_length=64, pattern=NO_NUL, description="The field.")
]
FieldFilter = Annotated[
    str | None, Query(max_length=64, pattern=NO_NUL, description="Only those of this field.")
]
PumpFilter = Annotated[
    str | None, Query(max_length=64, pattern=NO_NUL, description="Only those of this pump.")
]
