"""The rules of backups: when work is due, what may go, what the archive covers, what a report says."""

import base64
import os
from datetime import UTC, datetime, timedelta

import pytest
from esp_backup.domain.counts import Table, mismatches
from esp_backup.domain.retention import Kept, beyond_age, beyond_count
from esp_backup.domain.schedule import Schedule, is_due
from esp_backup.domain.sealing import Unreadable, decode_key, passphrase, seal, unseal
from esp_backup.domain.verification import UnknownReport, problems
from esp_backup.domain.wal import Beat, Coverage, position, segment_end
from esp_backup.domain.window import recovery_window
from esp_backup.pgbackrest import configuration_text
from esp_backup.sealed_files import open_folder, seal_folder
from esp_backup.settings import BackupSettings
from esp_common.errors import InvalidInput
from hypothesis import given
from hypothesis import strategies as st

NOW = datetime(2026, 3, 4, 12, 30, tzinfo=UTC)  # a Wednesday
HOUR, DAY, WEEK = timedelta(hours=1), timedelta(days=1), timedelta(weeks=1)
RETRY = timedelta(minutes=5)
INSTANTS = st.datetimes(datetime(2020, 1, 1), datetime(2040, 1, 1), timezones=st.just(UTC))


# --- when -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("schedule", "latest"),
    [
        (Schedule(HOUR, timedelta(minutes=7)), NOW.replace(minute=7)),
        (Schedule(HOUR, timedelta(minutes=45)), NOW.replace(hour=11, minute=45)),
        (Schedule(DAY, timedelta(minutes=75)), NOW.replace(hour=1, minute=15)),
        (Schedule(WEEK, timedelta(days=6, hours=5)), datetime(2026, 3, 1, 5, tzinfo=UTC)),
    ],
    ids=["this hour", "the hour before", "this day", "last Sunday"],
)
def test_the_latest_instant_of_a_schedule(schedule, latest):
    assert schedule.latest(NOW) == latest


@given(INSTANTS, st.sampled_from([HOUR, DAY, WEEK]), st.integers(0, 59))
def test_the_latest_instant_is_within_a_period_and_never_to_come(now, period, minute):
    latest = Schedule(period, timedelta(minutes=minute)).latest(now)
    assert latest <= now < latest + period


@pytest.mark.parametrize(
    ("last_good", "last_try", "due"),
    [
        (None, None, True),
        (NOW - 2 * DAY, NOW - 2 * DAY, True),
        (NOW - HOUR, NOW - HOUR, False),
        (NOW - 2 * DAY, NOW - timedelta(minutes=4), False),
        (NOW - 2 * DAY, NOW - RETRY, True),
    ],
    ids=["never done", "missed", "done", "failed just now", "failed a while ago"],
)
def test_work_is_due_once_a_period_and_again_a_while_after_a_failure(last_good, last_try, due):
    schedule = Schedule(DAY, timedelta(minutes=75))
    assert is_due(schedule, NOW, last_good=last_good, last_try=last_try, retry=RETRY) == due


# --- what may go ------------------------------------------------------------------------------------------


def _kept(*ages_and_health: tuple[int, bool]) -> list[Kept]:
    return [Kept(f"{age}", NOW - age * DAY, good) for age, good in ages_and_health]


def test_dumps_beyond_the_number_kept_go_oldest_first():
    assert beyond_count(_kept(*((age, True) for age in range(5))), 3) == ["4", "3"]


def test_a_damaged_dump_does_not_push_out_a_good_one():
    assert beyond_count(_kept((0, False), (1, False), (2, True), (3, True)), 2) == []


def test_sets_past_their_age_go_but_for_the_last_good_one():
    assert beyond_age(_kept((1, True), (31, True)), 30 * DAY, NOW) == ["31"]
    assert beyond_age(_kept((1, False), (31, True), (40, True)), 30 * DAY, NOW) == ["40"]


BACKUPS = st.lists(
    st.builds(lambda n, good: Kept(str(n), NOW - n * HOUR, good), st.integers(0, 5000), st.booleans()),
    unique_by=lambda backup: backup.name,
)


@given(BACKUPS, st.integers(0, 30), st.integers(0, 100))
def test_whatever_the_policy_the_newest_good_one_stays(backups, count, days):
    good = [backup for backup in backups if backup.good]
    gone = {*beyond_count(backups, count), *beyond_age(backups, days * DAY, NOW)}
    assert not good or max(good, key=lambda backup: backup.taken_at).name not in gone


# --- the log ----------------------------------------------------------------------------------------------


def test_positions_and_segments_of_the_log_are_bytes_of_one_line():
    assert position("0/1600028") == 0x1600028
    assert position("2/10") == (2 << 32) + 16
    assert segment_end("000000010000000000000001") == 2 * 16 * 1024 * 1024
    assert segment_end("0000000A00000003000000FF") == 4 << 32
    assert segment_end("00000002.history") is None


def test_the_archive_covers_the_newest_beat_that_is_wholly_in_it():
    coverage = Coverage()
    for number in range(4):
        coverage.beat(Beat(100 * number, NOW + timedelta(seconds=number)))
    assert coverage.archived(99) == NOW
    assert coverage.archived(200) == NOW + timedelta(seconds=2)
    assert coverage.archived(150) == NOW + timedelta(seconds=2)


def test_the_recovery_window_begins_with_the_oldest_backup_and_ends_with_the_archive():
    window = recovery_window([NOW - DAY, NOW - 9 * DAY], NOW)
    assert (window.begin, window.end) == (NOW - 9 * DAY, NOW)
    for outside in (NOW - 10 * DAY, NOW + HOUR):
        with pytest.raises(InvalidInput, match="outside the recovery window"):
            window.require(outside)
    with pytest.raises(InvalidInput, match="no full backup"):
        recovery_window([], NOW).require(NOW)


# --- rows -------------------------------------------------------------------------------------------------


def test_a_table_nobody_wrote_to_has_exactly_its_rows():
    still = {"a": Table(10, 0)}
    assert mismatches(still, still, {"a": 10}) == []
    assert mismatches(still, still, {"a": 9}) == ["a has 9 rows, not 10"]
    assert mismatches(still, still, {}) == ["a is missing"]


def test_a_table_that_grew_meanwhile_has_a_number_between():
    before, after = {"a": Table(10, 3)}, {"a": Table(14, 3)}
    assert mismatches(before, after, {"a": 12}) == []
    assert mismatches(before, after, {"a": 15}) == ["a has 15 rows, not 10 to 14"]


def test_a_table_that_lost_rows_meanwhile_is_not_judged_by_their_number():
    assert mismatches({"a": Table(10, 0)}, {"a": Table(12, 9)}, {"a": 3}) == []
    assert mismatches({"gone": Table(10, 0)}, {}, {}) == []


# --- reports of pgBackRest --------------------------------------------------------------------------------

SOUND = """\
stanza: esp
status: ok
  archiveId: 15-1, total WAL checked: 4, total valid WAL: 4
    missing: 0, checksum invalid: 0, size invalid: 0, other: 0
  backup: 20261123-172726F, status: valid, total files checked: 1352, total valid files: 1352
    missing: 0, checksum invalid: 0, size invalid: 0, other: 0
"""


def test_a_sound_repository_has_no_problems():
    assert problems(SOUND) == {}


def test_a_damaged_file_of_a_backup_is_told_with_its_label():
    report = SOUND.replace("status: ok", "status: error").replace("status: valid", "status: invalid")
    head, _, tail = report.rpartition("checksum invalid: 0")
    assert problems(f"{head}checksum invalid: 1{tail}") == {"20261123-172726F": "invalid: 1 checksum invalid"}


def test_a_missing_segment_of_the_log_is_told_as_such():
    report = SOUND.replace("status: ok", "status: error").replace("missing: 0", "missing: 2", 1)
    assert problems(report) == {"wal": "2 missing"}


def test_an_error_without_a_place_is_told_all_the_same():
    assert problems("stanza: esp\nstatus: error\n  no backup found\n") == {"repository": "no backup found"}


def test_a_report_without_status_is_not_taken_for_a_good_one():
    with pytest.raises(UnknownReport):
        problems("")


# --- encryption and configuration -------------------------------------------------------------------------

KEY = bytes(range(32))


def test_a_sealed_set_opens_under_its_own_name_and_key_only():
    sealed = seal(KEY, b"definitions", "sets/1")
    assert unseal(KEY, sealed, "sets/1") == b"definitions"
    assert b"definitions" not in sealed
    for key, content, name in [
        (KEY, sealed, "sets/2"),
        (os.urandom(32), sealed, "sets/1"),
        (KEY, sealed[:-1] + bytes([sealed[-1] ^ 1]), "sets/1"),
        (KEY, b"", "sets/1"),
    ]:
        with pytest.raises(Unreadable):
            unseal(key, content, name)


def test_a_key_of_another_length_is_refused():
    with pytest.raises(InvalidInput, match="32 bytes"):
        decode_key("c2hvcnQ=")


ACCOUNT = "AccountName=esp;AccountKey=a2V5;"


def _settings(connection: str, **others: object) -> BackupSettings:
    return BackupSettings(blob_connection_string=connection, **others)


def test_azure_itself_is_addressed_by_host_and_its_stand_in_by_path():
    azure = configuration_text(_settings(f"{ACCOUNT}EndpointSuffix=core.windows.net"))
    assert "repo1-azure-endpoint=blob.core.windows.net" in azure
    assert "uri-style" not in azure
    stand_in = configuration_text(_settings(f"{ACCOUNT}BlobEndpoint=https://localhost:17000/esp;"))
    assert "repo1-azure-uri-style=path\nrepo1-storage-host=localhost\nrepo1-storage-port=17000\n" in stand_in


@pytest.mark.parametrize(
    ("url", "lines"),
    [
        (
            "https://esp1.blob.core.windows.net",
            ("repo1-azure-account=esp1\n", "repo1-azure-endpoint=blob.core.windows.net\n"),
        ),
        (
            "https://localhost:17000/esp",
            (
                "repo1-azure-account=esp\n",
                "repo1-azure-uri-style=path\nrepo1-storage-host=localhost\nrepo1-storage-port=17000\n",
            ),
        ),
    ],
)
def test_account_by_url_is_opened_with_a_sas_token(url, lines):
    settings = BackupSettings(blob_account_url=url, repository_sas_token="?sv=2025&sig=x")
    text = configuration_text(settings)
    assert "repo1-azure-key=sv=2025&sig=x\nrepo1-azure-key-type=sas\n" in text
    for line in lines:
        assert line in text


def test_account_by_url_without_a_sas_token_is_refused_for_pgbackrest():
    settings = BackupSettings(blob_account_url="https://esp1.blob.core.windows.net")
    with pytest.raises(InvalidInput, match=r"pgBackRest.* cannot use the identity") as refusal:
        configuration_text(settings)
    assert "ESP_BACKUP_REPOSITORY_SAS_TOKEN_FILE" in refusal.value.fix


def test_nothing_is_encrypted_without_a_key_and_everything_with_one(tmp_path):
    plain = configuration_text(_settings(ACCOUNT, local_repository=tmp_path))
    assert "cipher" not in plain
    key = base64.b64encode(KEY).decode()
    sealed = configuration_text(_settings(ACCOUNT, local_repository=tmp_path, encryption_key=key))
    for repository in ("repo1", "repo2"):
        assert f"{repository}-cipher-type=aes-256-cbc\n" in sealed
        assert f"{repository}-cipher-pass={passphrase(KEY)}\n" in sealed
    assert key not in sealed


@pytest.mark.parametrize("text", ["", "AccountName=esp;", f"{ACCOUNT}BlobEndpoint=http://localhost/esp;"])
def test_a_storage_account_that_cannot_be_used_is_refused(text):
    with pytest.raises(InvalidInput):
        configuration_text(_settings(text))


# --- sealed files -----------------------------------------------------------------------------------------

SEALING_KEY = bytes(range(32))


@pytest.fixture
def sealed(tmp_path, monkeypatch):
    """A folder with sealed files of no, one and several pieces, and what they were."""
    monkeypatch.setattr("esp_backup.sealed_files.PIECE_BYTES", 16)
    contents = {"empty": b"", "data/one": b"0123456789abcdef", "data/two": b"b" * 40}
    for name, content in contents.items():
        path = tmp_path / "plain" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    seal_folder(SEALING_KEY, tmp_path / "plain", tmp_path / "sealed", "of-noon")
    return tmp_path / "sealed", contents


def test_sealed_files_open_as_they_were_and_leave_nothing_plain(sealed, tmp_path):
    folder, contents = sealed
    assert not [path for path in (tmp_path / "plain").rglob("*") if path.is_file()]
    assert not [
        path for path in folder.rglob("*") if b"bbbb" in (path.read_bytes() if path.is_file() else b"")
    ]
    open_folder(SEALING_KEY, folder, tmp_path / "opened", "of-noon")
    assert {name: (tmp_path / "opened" / name).read_bytes() for name in contents} == contents


def _cut(folder):
    path = folder / "data" / "two.sealed"
    path.write_bytes(path.read_bytes()[: 16 + 28])


def _swap_pieces(folder):
    path = folder / "data" / "two.sealed"
    content = path.read_bytes()
    path.write_bytes(content[44:88] + content[:44] + content[88:])


def _swap_files(folder):
    (folder / "data" / "one.sealed").rename(folder / "empty.sealed")


def _empty(folder):
    (folder / "data" / "one.sealed").write_bytes(b"")


def _flip(folder):
    path = folder / "data" / "one.sealed"
    content = bytearray(path.read_bytes())
    content[20] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("tamper", [_cut, _swap_pieces, _swap_files, _empty, _flip])
def test_sealed_files_that_were_tampered_with_do_not_open(sealed, tmp_path, tamper):
    folder, _ = sealed
    tamper(folder)
    with pytest.raises(Unreadable):
        open_folder(SEALING_KEY, folder, tmp_path / "opened", "of-noon")


@pytest.mark.parametrize(("key", "name"), [(bytes(32), "of-noon"), (SEALING_KEY, "of-midnight")])
def test_sealed_files_open_under_their_key_and_name_alone(sealed, tmp_path, key, name):
    with pytest.raises(Unreadable):
        open_folder(key, sealed[0], tmp_path / "opened", name)


def test_dumps_are_not_sealed_without_a_key():
    with pytest.raises(ValueError, match="seal_dumps needs encryption_key"):
        BackupSettings(seal_dumps=True)
