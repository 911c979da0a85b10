"""What the routes share: ids, pages with cursors, and the problems they answer with."""

from typing import Annotated, Final

from esp_common.answers import UtcTime
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
Since = Annotated[UtcTime | None, Query(alias="from", description="Only those at or after this time.")]
Until = Annotated[UtcTime | None, Query(alias="to", description="Only those before this time.")]


def as_serial(text: str) -> int:
    """Return the number of a row that a cursor holds; raise ValueError for one that no row can have."""
    number = int(text)
    if not 0 <= number < 2**63:
        raise ValueError("no row has such a number")
    return number
