"""Where a part lies: the names any reader of hive-partitioned Parquet knows how to read."""

import re
from datetime import date
from typing import Final, NamedTuple
from urllib.parse import quote, unquote

from esp_archiver.domain.datasets import FORMS, SCHEMA_VERSION, Dataset

_NAME: Final = re.compile(
    r"(?P<dataset>[a-z]+)/v(?P<version>\d+)/(?:field=(?P<field>[^/]+)/)?"
    r"year=(?P<year>\d{4})/month=(?P<month>\d{2})/day=(?P<day>\d{2})/part-(?P<part>\d{4})\.parquet"
)


class Place(NamedTuple):
    """Which part of which day; `field_id` is empty where the dataset is not parted by field."""

    dataset: Dataset
    field_id: str
    day: date
    part: int

    @property
    def name(self) -> str:
        """Name of the part's object."""
        return f"{folder(self.dataset, self.field_id, self.day)}part-{self.part:04d}.parquet"


MERGING: Final = "merging/"
"""Prefix of merged parts that are proved before they replace a part; nothing of it matches a dataset."""


def staged_name(place: Place) -> str:
    """Return the name under which a merged part is proved first."""
    return f"{MERGING}{place.name}"


def folder(dataset: Dataset, field_id: str, day: date) -> str:
    """Return the prefix of a day's objects."""
    field = f"field={quote(field_id, safe='')}/" if FORMS[dataset].partitioned else ""
    return f"{dataset}/v{SCHEMA_VERSION}/{field}year={day:%Y}/month={day:%m}/day={day:%d}/"


def place_of(name: str) -> Place | None:
    """Return the place an object's name stands for, None when it is not a part's."""
    found = _NAME.fullmatch(name)
    if found is None or found["dataset"] not in set(Dataset) or int(found["version"]) != SCHEMA_VERSION:
        return None
    dataset = Dataset(found["dataset"])
    if FORMS[dataset].partitioned != (found["field"] is not None):
        return None
    try:
        day = date(int(found["year"]), int(found["month"]), int(found["day"]))
    except ValueError:
        return None
    return Place(dataset, unquote(found["field"] or ""), day, int(found["part"]))
