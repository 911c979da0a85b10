"""Request types shared by the routes."""

from typing import Annotated, Final

from fastapi import Path, Query
from pydantic import BaseModel, ConfigDict

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


class RequestBody(BaseModel):
    """Request body that rejects unknown fields."""

    model_config = ConfigDict(extra="forbid")
