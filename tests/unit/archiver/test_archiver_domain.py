"""What an export is made of: names, content hashes, row groups, plans, and parts read as one."""

import json
import struct
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from math import nan
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from esp_archiver.domain.content import ContentHash, extremes, widened
from esp_archiver.domain.copied import CopiedRows, Tables
from esp_archiver.domain.datasets import FORMS, Dataset
from esp_archiver.domain.layout import Place, place_of
from esp_archiver.domain.merging import merge, merged, residual
from esp_archiver.domain.planning import Content, Part, archive_id, due, plan_day
from esp_archiver.domain.row_groups import LEAST_ROWS, MOST_ROWS, RowGroups
from esp_archiver.settings import ArchiverSettings
from esp_common.contracts.channels import CHANNEL_NAMES, MASK_BIT
from esp_common.contracts.readings import RUNNING_ABSENT, TRIP_CODE_ABSENT
from esp_common.errors import EspError
from hypothesis import given, settings
from hypothesis import strategies as st

few = settings(max_examples=40, deadline=None)

DAY = date(2026, 1, 31)
START = datetime(2026, 1, 31, tzinfo=UTC)


def test_an_objects_name_is_the_hive_layout_and_says_where_it_belongs() -> None:
    place = Place(Dataset.TELEMETRY, "north", DAY, 0)
    assert place.name == "telemetry/v1/field=north/year=2026/month=01/day=31/part-0000.parquet"
    assert Place(Dataset.AUDIT, "", DAY, 12).name == "audit/v1/year=2026/month=01/day=31/part-0012.parquet"


@few
@given(st.text(min_size=1, max_size=20).filter(lambda text: text.isprintable()), st.integers(0, 9999))
def test_a_name_is_read_back_whatever_the_field_is_called(field_id: str, part: int) -> None:
    place = Place(Dataset.TELEMETRY, field_id, DAY, part)
    assert place_of(place.name) == place
    assert place.name.count("/") == 6


@pytest.mark.parametrize(
    "name",
    [
        "telemetry/v1/field=north/year=2026/month=02/day=31/part-0000.parquet",
        "telemetry/v1/year=2026/month=01/day=31/part-0000.parquet",
        "audit/v1/field=north/year=2026/month=01/day=31/part-0000.parquet",
        "telemetry/v2/field=north/year=2026/month=01/day=31/part-0000.parquet",
        "other/v1/year=2026/month=01/day=31/part-0000.parquet",
        "telemetry/v1/field=north/year=2026/month=01/day=31/part-0000.parquet.tmp",
    ],
)
def test_what_is_no_part_is_not_taken_for_one(name: str) -> None:
    assert place_of(name) is None


SCHEMA = pa.schema(
    [
        ("name", pa.string()),
        ("time", pa.timestamp("us", "UTC")),
        ("value", pa.float64()),
        ("on", pa.bool_()),
        ("flags", pa.list_(pa.string())),
    ]
)
rows = st.lists(
    st.fixed_dictionaries(
        {
            "name": st.none() | st.text(max_size=3),
            "time": st.datetimes(
                timezones=st.just(UTC), min_value=datetime(1990, 1, 1), max_value=datetime(2040, 1, 1)
            ),
            "value": st.none() | st.floats(allow_nan=False),
            "on": st.none() | st.booleans(),
            "flags": st.none() | st.lists(st.text(max_size=2), max_size=3),
        }
    ),
    min_size=1,
    max_size=8,
)


def hashed(tables: Sequence[pa.Table]) -> str:
    content = ContentHash(SCHEMA)
    for table in tables:
        content.update(table)
    return content.hexdigest()


@few
@given(rows, st.integers(0, 8))
def test_a_content_hash_does_not_depend_on_how_rows_are_cut(of: list[dict[str, object]], cut: int) -> None:
    table = pa.Table.from_pylist(of, schema=SCHEMA)
    assert hashed([table.slice(0, cut), table.slice(cut)]) == hashed([table])
    assert hashed([pa.concat_tables([table.slice(0, cut), table.slice(cut)])]) == hashed([table])


@few
@given(rows, rows)
def test_a_content_hash_tells_rows_apart(
    one: list[dict[str, object]], other: list[dict[str, object]]
) -> None:
    same = hashed([pa.Table.from_pylist(one, schema=SCHEMA)]) == hashed(
        [pa.Table.from_pylist(other, schema=SCHEMA)]
    )
    assert same == ([str(sorted(row.items())) for row in one] == [str(sorted(row.items())) for row in other])


def test_a_content_hash_is_what_it_was_when_the_archive_was_written() -> None:
    """It stands in every file: another way to take it would call all of them damaged."""
    row = {"name": "P-1", "time": START, "value": 1.5, "on": True, "flags": ["a", "b"]}
    tables = [
        pa.Table.from_pylist(rows, schema=SCHEMA)
        for rows in ([row, {**row, "on": False}], [dict.fromkeys(SCHEMA.names), row])
    ]
    assert hashed(tables) == "876f833545059b9c074b52db92060527c56a2b78adcb099c62066b59b40cd3ab"


def test_a_column_added_later_counts_in_the_hash_only_where_it_has_a_value() -> None:
    """Rows without a mask have the hash that files written before the mask bear."""
    rows = pa.table({"name": ["P-1", "P-2"]})
    marked, unmarked = (
        rows.append_column("refused_mask", pa.array(masks, pa.int32())) for masks in ([None, 4], [None, None])
    )

    def hash_of(table: pa.Table, added: Sequence[str] = ("refused_mask",)) -> str:
        content = ContentHash(table.schema, added)
        content.update(table)
        return content.hexdigest()

    assert hash_of(unmarked) == hash_of(rows)
    assert hash_of(unmarked, ()) != hash_of(rows)
    assert hash_of(marked) != hash_of(rows)
    other = rows.append_column("refused_mask", pa.array([4, None], pa.int32()))
    assert hash_of(marked) != hash_of(other)


def test_extremes_widen_and_leave_out_what_was_never_measured() -> None:
    tables = [
        pa.table({"a": pa.array(values, pa.float64()), "b": pa.nulls(2, pa.float64())})
        for values in ([3, 1], [None, 7])
    ]
    first, second = (extremes(table, ["a", "b"]) for table in tables)
    assert widened(first, second) == widened(second, first) == {"a": (1, 7)}
    assert widened({}, first) == first


@few
@given(st.lists(st.integers(1, 3 * LEAST_ROWS), min_size=1, max_size=5), st.integers(4000, 90_000))
def test_row_groups_hold_whole_pumps_and_no_more_than_memory_allows(counts: list[int], cut: int) -> None:
    pumps = np.repeat([f"P-{n:02d}" for n in range(len(counts))], counts)
    table = pa.table({"pump_id": pumps, "n": np.arange(len(pumps))})
    groups = RowGroups("pump_id")
    made = [group for at in range(0, len(pumps), cut) for group in groups.feed(table.slice(at, cut))]
    made += groups.finish()
    assert pa.concat_tables(made)["n"].to_pylist() == list(range(len(pumps)))
    assert max(group.num_rows for group in made) <= MOST_ROWS
    assert all(group.num_rows >= LEAST_ROWS for group in made[:-1])
    large = {f"P-{n:02d}" for n, count in enumerate(counts) if count >= LEAST_ROWS}
    for pump in large:
        assert sum(pump in set(group["pump_id"].to_pylist()) for group in made) <= 2


def part(
    field_id: str, number: int, *, rows: int = 10, digest: int = 1, drops: int = 0, sole: bool = False
) -> Part:
    return Part(Place(Dataset.TELEMETRY, field_id, DAY, number), rows, digest, "hash", "etag", drops, sole)


@pytest.mark.parametrize(
    ("parts", "drops", "expected"),
    [
        ([], 0, (0, None)),
        ([part("north", 0)], 0, None),
        ([part("north", 0, digest=2)], 0, (0, 0)),
        ([part("north", 0, rows=9)], 0, (0, 0)),
        ([part("north", 0)], 1, (0, 0)),
        ([part("north", 0, digest=2), part("north", 1, digest=2, drops=1)], 1, (0, 0)),
        ([part("north", 0, digest=2, sole=True)], 0, (0, 0)),
        ([part("north", 0), part("north", 1, drops=1)], 1, (0, 0)),
        ([part("north", 0, drops=1, sole=True)], 1, None),
    ],
    ids=["new", "current", "changed", "fewer", "dropped", "late-changed", "sole", "scattered", "merged"],
)
def test_a_part_is_written_anew_only_while_the_source_has_all_of_it(
    parts: list[Part], drops: int, expected: tuple[int, int | None] | None
) -> None:
    plan = plan_day(Dataset.TELEMETRY, DAY, [Content("north", 10, 1)], parts, drops)
    exports = [(e.place.part, e.replaces and e.replaces.place.part) for e in plan.exports]
    assert exports == ([] if expected is None else [expected])
    assert bool(plan.current) == (expected is None)


@pytest.mark.parametrize(
    ("parts", "drops", "expected"),
    [
        ([part("north", 0)], 1, (0, (0,), False)),
        ([part("north", 0), part("north", 1, digest=2, drops=1)], 1, (0, (0, 1), False)),
        ([part("north", 0, digest=2)], 0, (0, (), False)),
    ],
    ids=["dropped", "scattered", "all in the source"],
)
def test_a_part_of_a_day_that_is_gone_is_merged_with_what_came_late(
    parts: list[Part], drops: int, expected: tuple[int, tuple[int, ...], bool]
) -> None:
    (export,) = plan_day(Dataset.TELEMETRY, DAY, [Content("north", 10, 1)], parts, drops).exports
    merges = tuple(each.place.part for each in export.merges)
    assert (export.place.part, merges, export.residual) == expected


def test_what_comes_late_for_a_part_that_cannot_be_replaced_lies_beside_it() -> None:
    parts = [part("north", 0), part("north", 1, digest=2, drops=1)]
    fixed = {parts[0].place.name}
    (export,) = plan_day(Dataset.TELEMETRY, DAY, [Content("north", 10, 1)], parts, 1, fixed).exports
    assert (export.place.part, export.merges, export.residual) == (1, (parts[0],), True)
    written = [parts[0], part("north", 1, drops=1)]
    assert plan_day(Dataset.TELEMETRY, DAY, [Content("north", 10, 1)], written, 1, fixed).exports == ()


def test_several_parts_are_merged_though_the_source_has_nothing_of_the_day() -> None:
    parts = [part("north", 0), part("north", 1, drops=1), part("south", 0)]
    plan = plan_day(Dataset.TELEMETRY, DAY, [], parts, 2)
    assert [(each.place.part, len(each.merges)) for each in plan.exports] == [(0, 2)]
    assert plan.exports[0].content.rows == 0


def test_a_part_of_a_field_that_has_nothing_any_more_is_set_aside() -> None:
    plan = plan_day(Dataset.TELEMETRY, DAY, [Content("south", 10, 1)], [part("north", 0)], 0)
    assert [each.place.field_id for each in plan.set_aside] == ["north"]
    assert [each.place.field_id for each in plan.exports] == ["south"]


def test_an_archive_is_named_after_its_content() -> None:
    one, other = part("north", 0), part("south", 0)
    assert archive_id(DAY, [one, other]) == archive_id(DAY, [other, one])
    assert archive_id(DAY, [one]) != archive_id(DAY, [one, other])


def test_days_are_due_when_they_ended_long_enough_ago() -> None:
    days = [DAY, DAY - timedelta(days=1), DAY - timedelta(days=2)]
    assert due(days, DAY + timedelta(days=1), 1) == [DAY - timedelta(days=2), DAY - timedelta(days=1)]


TELEMETRY = FORMS[Dataset.TELEMETRY].schema


def readings(*of: tuple[str, int, float | None, float | None]) -> pa.Table:
    schema = pa.schema([TELEMETRY.field(name) for name in ("pump_id", "time", "motor_temp_c", "choke_pct")])
    names = schema.names
    return pa.Table.from_pylist(
        [dict(zip(names, (p, START + timedelta(seconds=s), a, b), strict=True)) for p, s, a, b in of],
        schema=schema,
    )


def test_parts_are_read_as_one_with_each_reading_once() -> None:
    first = readings(("P-1", 1, 90, None), ("P-1", 3, 91, 5))
    later = readings(("P-1", 2, 80, 8), ("P-1", 1, 70, 7), ("P-1", 3, None, None))
    assert (
        merged([first, later]).to_pylist()
        == readings(("P-1", 1, 90, 7), ("P-1", 2, 80, 8), ("P-1", 3, 91, 5)).to_pylist()
    )


FLAGS = ("fault_channels", "frozen_channels")


def flagged(*of: tuple[int, float | None, float | None, list[str]]) -> pa.Table:
    names = ("pump_id", "time", "motor_temp_c", "choke_pct", *FLAGS)
    rows = [
        dict(zip(names, ("P-1", START + timedelta(seconds=s), a, b, faults, []), strict=True))
        for s, a, b, faults in of
    ]
    return pa.Table.from_pylist(rows, schema=pa.schema([TELEMETRY.field(name) for name in names]))


def test_flags_come_from_the_part_whose_value_is_taken() -> None:
    first = flagged((1, 90, None, []), (2, 0, None, ["motor_temp_c"]))
    later = flagged((1, 0, 7, ["motor_temp_c", "choke_pct"]), (2, 0, None, []))
    found = merge([first, later])
    assert [row["fault_channels"] for row in found.table.to_pylist()] == [["choke_pct"], ["motor_temp_c"]]
    assert [(each.channel, each.archived, each.value) for each in found.contradictions] == [
        ("motor_temp_c", 90, 0)
    ]


def test_what_a_later_part_adds_is_its_new_values_alone() -> None:
    base = flagged((1, 90, None, []), (2, 91, 5, []))
    late = flagged((1, 70, 7, ["motor_temp_c", "choke_pct"]), (2, 91, 5, []), (3, 1, None, ["motor_temp_c"]))
    assert (
        residual(base, late).to_pylist()
        == flagged((1, None, 7, ["choke_pct"]), (3, 1, None, ["motor_temp_c"])).to_pylist()
    )


MASKS = ("refused_mask", "clamped_mask")
MOTOR, CHOKE, RUNNING, TRIP = (
    1 << MASK_BIT[name] for name in ("motor_temp_c", "choke_pct", "running", "trip_code")
)


def masked(*of: tuple[int, float | None, float | None, bool | None, int, int]) -> pa.Table:
    """Return readings: second, motor temperature, choke, running, refused and clamped channels."""
    names = ("pump_id", "time", "motor_temp_c", "choke_pct", "running", *MASKS)
    rows = [
        dict(zip(names, ("P-1", START + timedelta(seconds=s), *rest, a or None, b or None), strict=True))
        for s, *rest, a, b in of
    ]
    return pa.Table.from_pylist(rows, schema=pa.schema([TELEMETRY.field(name) for name in names]))


def masks_in(table: pa.Table) -> list[tuple[int, int]]:
    return [(row["refused_mask"] or 0, row["clamped_mask"] or 0) for row in table.to_pylist()]


def test_a_channel_stays_refused_until_its_value_comes_whichever_part_came_first() -> None:
    first = masked((1, None, 5, None, MOTOR | RUNNING, CHOKE), (2, 90, None, True, MOTOR | CHOKE, 0))
    later = masked((1, 0, None, True, TRIP, MOTOR), (2, None, 7, None, RUNNING, CHOKE))
    expected = [(TRIP, MOTOR | CHOKE), (MOTOR, CHOKE)]
    assert masks_in(merged([first, later])) == expected
    assert masks_in(merged([later, first])) == expected


def test_a_clamped_value_that_is_not_taken_leaves_no_mark() -> None:
    later = masked((1, 0, None, None, 0, MOTOR))
    for first in (masked((1, 90, None, None, 0, 0)), masked((1, 0, None, None, 0, 0))):
        assert masks_in(merged([first, later])) == [(0, 0)]
        assert masks_in(merged([later, first])) == [(0, MOTOR)]


def test_a_later_part_adds_marks_that_say_something_new() -> None:
    base = masked((1, 90, None, None, CHOKE, 0), (2, 90, None, None, 0, 0), (3, 90, 1, None, 0, 0))
    late = masked(
        (1, 0, None, None, CHOKE, MOTOR), (2, None, None, None, RUNNING, 0), (3, None, None, None, CHOKE, 0)
    )
    added = residual(base, late)
    assert added.to_pylist() == masked((2, None, None, None, RUNNING, 0)).to_pylist()
    assert masks_in(merged([base, added])) == [(CHOKE, 0), (RUNNING, 0), (0, 0)]


cells = st.none() | st.integers(0, 3)
bits = st.integers(0, 3).map(lambda two: (two & 1) * MOTOR | (two >> 1) * CHOKE)
few_readings = st.dictionaries(st.integers(0, 5), st.tuples(cells, cells), max_size=5)


@few
@given(st.lists(few_readings, min_size=2, max_size=4))
def test_merging_keeps_each_value_that_came_first_and_no_reading_twice(
    parts: list[dict[int, tuple[int | None, int | None]]],
) -> None:
    tables = [flagged(*((s, a, b, []) for s, (a, b) in sorted(of.items()))) for of in parts]
    expected: dict[int, list[int | None]] = {}
    for of in parts:
        for s, values in of.items():
            known = expected.setdefault(s, [None, None])
            expected[s] = [k if k is not None else v for k, v in zip(known, values, strict=True)]
    found = merge(tables).table.to_pylist()
    assert [row["time"] for row in found] == [START + timedelta(seconds=s) for s in sorted(expected)]
    assert [[row["motor_temp_c"], row["choke_pct"]] for row in found] == [
        expected[s] for s in sorted(expected)
    ]
    added = residual(tables[0], tables[1])
    assert merge([tables[0], added]).table.equals(merge(tables[:2]).table)


def _marked(second: int, a: int | None, b: int | None, refused: int, clamped: int) -> tuple[Any, ...]:
    """Return a reading in which only absent channels are refused, and only present ones clamped."""
    present = (a is not None) * MOTOR | (b is not None) * CHOKE
    return second, a, b, None, refused & ~present, clamped & present


marked_readings = st.dictionaries(st.integers(0, 3), st.tuples(cells, cells, bits, bits), max_size=4).map(
    lambda of: masked(*(_marked(second, *rest) for second, rest in sorted(of.items())))
)


@few
@given(marked_readings, marked_readings)
def test_what_a_later_part_adds_gives_the_same_marks_as_all_of_it(base: pa.Table, late: pa.Table) -> None:
    assert merge([base, residual(base, late)]).table.equals(merge([base, late]).table)


def test_one_part_is_read_as_it_is() -> None:
    only = readings(("P-1", 1, 90, None))
    assert merged([only]) is only


def test_a_copy_that_ends_early_is_not_taken_for_whole() -> None:
    copied = CopiedRows(10)
    assert list(copied.feed(b"PGCOPY\n\xff\r\n\x00" + bytes(8))) == []
    with pytest.raises(EspError, match="ended early"):
        list(copied.finish())


def test_what_is_no_copy_is_refused() -> None:
    with pytest.raises(EspError, match="not a binary COPY"):
        list(CopiedRows(10).feed(b"something else altogether"))


@pytest.mark.parametrize(
    "keys", [[(1, 5), (1, 5)], [(1, 5), (1, 4)], [(2, 1), (1, 9)]], ids=["twice", "time", "pump"]
)
@pytest.mark.parametrize("cut", [1, 2], ids=["between pieces", "within a piece"])
def test_a_copy_that_is_not_by_pump_and_time_is_refused(keys: list[tuple[int, int]], cut: int) -> None:
    rows = [copied_row(pump, time) for pump, time in keys]
    tables = Tables(["P-1", "P-2"])
    pieces = [bytearray(b"".join(rows[at : at + cut])) for at in range(0, len(rows), cut)]
    with pytest.raises(EspError, match="order of pump and time"):
        [tables.table(piece) for piece in pieces]


def test_the_marks_of_a_copy_are_null_where_nothing_is_marked() -> None:
    table = Tables(["P-1"]).table(bytearray(copied_row(1, 5, 3, 1 << 25) + copied_row(1, 6)))
    assert table["refused_mask"].to_pylist() == [3, None]
    assert table["clamped_mask"].to_pylist() == [1 << 25, None]


def test_a_copy_by_pump_and_time_becomes_readings() -> None:
    tables = Tables(["P-1", "P-2"])
    first = tables.table(bytearray(copied_row(1, 5) + copied_row(1, 6)))
    second = tables.table(bytearray(copied_row(2, 0)))
    assert pa.concat_tables([first, second])["pump_id"].to_pylist() == ["P-1", "P-1", "P-2"]
    assert second.to_pylist()[0]["time"] == datetime(2000, 1, 1, tzinfo=UTC)
    assert second.to_pylist()[0]["choke_pct"] is None


def copied_row(pump: int, time_us: int, refused: int = 0, clamped: int = 0) -> bytes:
    """Return a row of a binary COPY in which nothing was measured; `time_us` since 2000."""
    fields = [struct.pack(">ii", 4, pump), struct.pack(">iq", 8, time_us)]
    fields += [struct.pack(">id", 8, nan)] * len(CHANNEL_NAMES)
    states = (RUNNING_ABSENT, TRIP_CODE_ABSENT, 0, 0, refused, clamped)
    fields += [struct.pack(">ii", 4, state) for state in states]
    return struct.pack(">h", len(fields)) + b"".join(fields)


def test_the_lifecycle_policy_is_about_every_dataset_and_deletes_nothing() -> None:
    document = Path(__file__).parents[3] / "deploy/azure/archive-lifecycle.json"
    (rule,) = json.loads(document.read_text())["rules"]
    assert (rule["enabled"], rule["type"]) == (True, "Lifecycle")
    container = ArchiverSettings.model_fields["blob_container"].default
    assert rule["definition"]["filters"] == {
        "blobTypes": ["blockBlob"],
        "prefixMatch": [f"{container}/{dataset}/" for dataset in Dataset],
    }
    assert rule["definition"]["actions"].keys() == {"baseBlob"}
    assert rule["definition"]["actions"]["baseBlob"].keys() == {"tierToCool", "tierToCold"}
