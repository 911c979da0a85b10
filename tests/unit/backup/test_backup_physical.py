"""Physical backups: what the retention lets go, what a hold keeps, and the holes of the archive."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from esp_backup.domain.modes import Mode
from esp_backup.domain.physical import Physical, expiry, usable
from esp_backup.domain.spans import hole_at, holes, segment_number
from esp_backup.domain.verification import damaged_segments, problems
from esp_backup.pgbackrest import configuration_text, differing_options
from esp_backup.settings import BackupSettings
from hypothesis import given
from hypothesis import strategies as st

NOW = datetime(2026, 3, 4, 12, 30, tzinfo=UTC)
DAY, MINUTE = timedelta(days=1), timedelta(minutes=1)
ACCOUNT = "AccountName=esp;AccountKey=a2V5;"


def _segment(number: int, timeline: int = 1) -> str:
    return f"{timeline:08X}{number // 256:08X}{number % 256:08X}"


def _backup(
    label: str, age: timedelta = DAY, *, damaged: bool = False, held: str | None = None, first: int = 1
) -> Physical:
    type_ = {"D": "diff", "I": "incr"}.get(label[-1], "full")
    at = NOW - age
    wal = _segment(first)
    return Physical("azure", label, type_, at, at, 1000, 100, damaged, wal, wal, held)


def _fulls(*ages_days: int, **others: object) -> list[Physical]:
    return [_backup(f"{age:02}F", age * DAY, **others) for age in ages_days]


def test_a_time_of_retention_keeps_the_full_backup_that_its_oldest_moment_needs():
    result = expiry(_fulls(1, 29, 31, 40, 50), NOW, age=30 * DAY)
    assert result.gone == ("50F", "40F")
    assert result.fulls_with_wal == 3


def test_a_number_of_retention_keeps_the_newest_good_ones():
    assert expiry(_fulls(1, 2, 3), NOW, count=2).gone == ("03F",)
    damaged = [*_fulls(1, damaged=True), *_fulls(2, 3)]
    assert expiry(damaged, NOW, count=2).gone == ()


def test_a_held_backup_stays_and_keeps_no_log_but_its_own():
    backups = [*_fulls(1, 2, 3), *_fulls(4, held="before the migration")]
    result = expiry(backups, NOW, count=2)
    assert (result.gone, result.fulls_with_wal) == (("03F",), 2)


def test_a_held_incremental_backup_keeps_the_full_one_it_needs():
    backups = [*_fulls(1, 2, 3), _backup("03F_05I", 2.5 * DAY, held="evidence")]
    assert expiry(backups, NOW, count=1).gone == ("02F",)


@given(
    st.lists(st.tuples(st.integers(0, 99), st.booleans(), st.booleans()), unique_by=lambda each: each[0]),
    st.integers(1, 5),
    st.one_of(st.none(), st.integers(1, 60)),
)
def test_whatever_the_policy_the_newest_good_one_and_the_held_ones_stay(ages, count, days):
    backups = [
        _backup(f"{age:02}F", age * DAY, damaged=damaged, held="x" if held else None)
        for age, damaged, held in ages
    ]
    gone = set(expiry(backups, NOW, age=days and days * DAY, count=count).gone)
    assert not gone & {each.label for each in backups if each.held}
    if good := usable(backups):
        assert max(good, key=lambda each: each.ended_at).label not in gone


def test_a_backup_on_top_of_a_damaged_one_is_not_usable():
    backups = [_backup("01F", damaged=True), _backup("01F_02I"), _backup("03F")]
    assert [each.label for each in usable(backups)] == ["03F"]


def test_incremental_backups_are_taken_between_full_ones():
    schedules = BackupSettings().schedules
    assert schedules["full"].latest(NOW) == NOW.replace(hour=1, minute=15)
    assert schedules["incr"].latest(NOW) == NOW.replace(hour=7, minute=15)
    assert "diff" not in schedules
    weekly = BackupSettings(full_every_days=7, incr_every_h=0).schedules
    assert weekly["full"].latest(NOW) == datetime(2026, 3, 2, 1, 15, tzinfo=UTC)
    assert weekly["diff"].latest(NOW) == NOW.replace(hour=1, minute=15)
    assert "incr" not in weekly


def test_schedules_have_only_the_work_of_the_mode():
    assert {"full", "incr", "dump"} <= BackupSettings().schedules.keys()
    for mode in (Mode.OPERATOR, Mode.MANAGED):
        assert BackupSettings(mode=mode).schedules.keys() == {"dump", "set", "verify", "drill"}


def test_a_local_repository_is_refused_where_somebody_else_takes_physical_backups():
    with pytest.raises(ValueError, match="local_repository is for mode local"):
        BackupSettings(mode=Mode.MANAGED, local_repository="/var/lib/repository")


def _archive(*numbers: int) -> dict[str, datetime]:
    return {_segment(number): NOW - 10 * DAY + number * MINUTE for number in numbers}


def test_an_archive_without_a_gap_has_no_hole():
    assert holes([_backup("1F", 9 * DAY)], _archive(*range(1, 600))) == []


def test_missing_segments_are_a_hole_until_the_next_backup_ended():
    backups = [_backup("1F", 9 * DAY, first=2), _backup("2F", DAY, first=50)]
    archive = _archive(*range(1, 10), *range(13, 60))
    (hole,) = holes(backups, archive)
    assert (hole.begin, hole.end) == (archive[_segment(9)], NOW - DAY)
    assert (hole.first_segment, hole.segments) == (_segment(10), 3)
    assert hole_at(NOW - 2 * DAY, [hole]) == hole
    assert hole_at(NOW - timedelta(hours=1), [hole]) is None


def test_a_hole_without_a_backup_after_it_reaches_the_end_of_the_archive():
    archive = _archive(1, 2, 3, 5, 6)
    (hole,) = holes([_backup("1F", 9 * DAY)], archive)
    assert (hole.begin, hole.end) == (archive[_segment(3)], archive[_segment(6)])


def test_gaps_before_the_first_backup_are_no_hole():
    assert holes([_backup("1F", DAY, first=20)], _archive(1, 2, 10, *range(20, 40))) == []


def test_a_new_timeline_goes_on_with_the_numbers_of_the_old():
    archive = _archive(1, 2, 3)
    archive |= {_segment(number, 2): NOW for number in (3, 4, 5)}
    assert holes([_backup("1F", 9 * DAY)], archive) == []


@given(st.sets(st.integers(0, 600), min_size=1), st.sets(st.integers(0, 600), min_size=1, max_size=4))
def test_holes_are_in_order_and_do_not_overlap(present, firsts):
    backups = [_backup(f"{first}F", 10 * DAY - first * MINUTE, first=first) for first in firsts]
    found = holes(backups, _archive(*present))
    assert all(hole.begin < hole.end and hole.segments > 0 for hole in found)
    assert all(before.end <= after.begin for before, after in pairwise(found))


def test_segments_are_numbered_across_logs_and_other_files_are_not():
    assert segment_number(_segment(255)) == 255
    assert segment_number("0000000A0000000100000000") == 256
    assert segment_number("00000002.history") is None


DIGEST = "93c7b99c906843bc6c4033beb2624faad06faaa3"
MESSAGES = f"""\
INFO: invalid result 15-1/0000000100000000/00000001000000000000000B-{DIGEST}.lz4: [29] raised from local-1
      [FormatError] on retry after 0ms
INFO: invalid checksum 15-1/0000000100000000/000000010000000000000009-{DIGEST}.lz4
"""


def test_damaged_segments_of_the_log_are_named():
    report = "stanza: esp\nstatus: error\n  archiveId: 15-1, total WAL checked: 9, total valid WAL: 7\n"
    report += "    missing: 0, checksum invalid: 1, size invalid: 0, other: 1\n"
    names = ["000000010000000000000009", "00000001000000000000000B"]
    assert damaged_segments(MESSAGES) == names
    said = problems(report, MESSAGES)["wal"]
    assert said == f"1 checksum invalid, 1 other: segment {names[0]}, {names[1]}"


@pytest.mark.parametrize(
    ("changed", "differs"),
    [
        ({"processes": 5, "io_timeout_s": 7, "full_days": 3}, []),
        ({"blob_container": "elsewhere"}, ["repo1-azure-container"]),
        ({"encryption_key": "A" * 43 + "="}, ["repo1-cipher-pass", "repo1-cipher-type"]),
        ({"cluster_data": "/srv/other"}, ["pg1-path"]),
    ],
    ids=["how", "container", "key", "cluster"],
)
def test_a_configuration_of_other_repositories_is_told_from_one_of_other_habits(changed, differs):
    settings = BackupSettings(blob_connection_string=ACCOUNT)
    other = BackupSettings(blob_connection_string=ACCOUNT, **changed)
    assert differing_options(configuration_text(settings), configuration_text(other)) == differs
