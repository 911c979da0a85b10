"""Routing of notifications, and signals of platform events."""

from datetime import UTC, datetime, time
from typing import Any

import pytest
from esp_common.contracts.events import Event
from esp_common.errors import InvalidInput
from esp_diagnostics.alerts.platform import platform_signal
from esp_diagnostics.notifications.delivery import parse_message
from esp_diagnostics.notifications.routing import Message, Route, Shift, destinations, is_repetition
from esp_diagnostics.notifications.sender import DestinationRefused, Sender, redacted
from esp_diagnostics.settings import DiagnosticsSettings

WEEKDAYS = frozenset(range(5))
MONDAY = datetime(2026, 6, 1, 12, tzinfo=UTC)


def message(**other: Any) -> Message:
    given = {"event_id": "e", "notice": "raised", "priority": "medium", "title": "Gas lock", "time": MONDAY}
    return Message(**{**given, "field_id": "north", **other})


def route(*ids: str, **other: Any) -> Route:
    given: dict[str, Any] = {
        "route_id": "r",
        "field_ids": None,
        "least_priority": "low",
        "notices": frozenset({"raised", "escalated"}),
        "shift": None,
        "destination_ids": ids,
    }
    return Route(**{**given, **other})


@pytest.mark.parametrize(
    ("limits", "told", "wanted"),
    [
        ({}, {}, True),
        ({"field_ids": frozenset({"north"})}, {}, True),
        ({"field_ids": frozenset({"south"})}, {}, False),
        ({"field_ids": frozenset({"north"})}, {"field_id": None}, False),
        ({}, {"field_id": None}, True),
        ({"least_priority": "high"}, {}, False),
        ({"least_priority": "high"}, {"priority": "critical"}, True),
        ({"notices": frozenset({"cleared"})}, {}, False),
        ({"enabled": False}, {}, False),
    ],
    ids=[
        "any",
        "its-field",
        "another-field",
        "platform-not-of-field",
        "platform",
        "too-low",
        "high-enough",
        "another-notice",
        "disabled",
    ],
)
def test_a_route_matches_by_its_limits(limits: dict[str, Any], told: dict[str, Any], wanted: bool) -> None:
    assert route("a", **limits).matches(message(**told), MONDAY) is wanted


def test_each_destination_is_selected_once() -> None:
    routes = [route("a", "b"), route("b", "c"), route("d", least_priority="critical")]
    assert destinations(message(), routes, MONDAY) == ["a", "b", "c"]
    assert destinations(message(destination_id="d"), routes, MONDAY) == ["d"]


@pytest.mark.parametrize(
    ("clock", "days", "span", "on_duty"),
    [
        ("2026-06-01T08:00+00:00", WEEKDAYS, ("06:00", "18:00"), True),
        # 08:00 in Oslo is 06:00 UTC in summer, and 07:00 UTC in winter.
        ("2026-06-01T05:59+00:00", WEEKDAYS, ("08:00", "16:00"), False),
        ("2026-06-01T06:00+00:00", WEEKDAYS, ("08:00", "16:00"), True),
        ("2026-12-01T06:30+00:00", WEEKDAYS, ("08:00", "16:00"), False),
        ("2026-06-01T14:00+00:00", WEEKDAYS, ("08:00", "16:00"), False),
        ("2026-06-06T10:00+00:00", WEEKDAYS, ("08:00", "16:00"), False),
        # Over midnight: Friday's shift reaches into Saturday, Sunday has none that reaches into Monday.
        ("2026-06-05T22:00+00:00", WEEKDAYS, ("18:00", "06:00"), True),
        ("2026-06-06T03:00+00:00", WEEKDAYS, ("18:00", "06:00"), True),
        ("2026-06-01T02:00+00:00", WEEKDAYS, ("18:00", "06:00"), False),
        ("2026-06-03T02:00+00:00", WEEKDAYS, ("07:00", "07:00"), True),
    ],
    ids=[
        "day",
        "before-in-summer",
        "begins-in-summer",
        "before-in-winter",
        "ends",
        "weekend",
        "evening",
        "night-of-friday",
        "night-of-sunday",
        "round-the-clock",
    ],
)
def test_a_shift_follows_local_time(
    clock: str, days: frozenset[int], span: tuple[str, str], on_duty: bool
) -> None:
    shift = Shift("Europe/Oslo", days, *map(time.fromisoformat, span))
    assert shift.on_duty(datetime.fromisoformat(clock)) is on_duty


@pytest.mark.parametrize(
    ("last", "now", "same"),
    [
        (("raised", "medium"), ("raised", "medium"), True),
        (("raised", "high"), ("raised", "medium"), True),
        (("raised", "low"), ("raised", "medium"), False),
        (("cleared", "medium"), ("raised", "medium"), False),
        (("raised", "medium"), ("escalated", "high"), False),
    ],
    ids=["same", "lower", "higher", "back-after-it-was-gone", "escalated"],
)
def test_only_repeated_messages_are_suppressed(
    last: tuple[str, str], now: tuple[str, str], same: bool
) -> None:
    assert is_repetition(message(notice=now[0], priority=now[1]), *last) is same


def test_a_message_contains_condition_place_and_action() -> None:
    told = message(pump_id="P-7", action="Purge, wait, restart.", condition="gas_lock", occurrences=3)
    assert told.subject == "[MEDIUM] raised: Gas lock (P-7)"
    for part in (
        "2026-06-01 12:00:00 UTC",
        "pump P-7",
        "field north",
        "occurrence 3",
        "Purge, wait, restart.",
    ):
        assert part in told.text


def test_a_message_is_parsed_from_its_event() -> None:
    data = {"notice": "raised", "priority": "high", "title": "Gas lock", "time": "2026-06-01T12:00:00Z"}
    read = parse_message(Event("alert.notice", "diagnostics", "x", data, id="e1"))
    assert (read.event_id, read.title, read.time) == ("e1", "Gas lock", MONDAY)


@pytest.mark.parametrize(
    "data",
    [
        None,
        [],
        {},
        {"notice": "sung", "priority": "high", "title": "x", "time": "2026-06-01T12:00:00Z"},
        {"notice": "raised", "priority": "info", "title": "x", "time": "2026-06-01T12:00:00Z"},
        {"notice": "raised", "priority": "high", "title": "x", "time": "noon"},
        {"notice": "raised", "priority": "high", "title": "x", "time": "2026-06-01T12:00:00Z", "alert_id": 1},
    ],
    ids=["none", "list", "empty", "notice", "priority", "time", "alert"],
)
def test_invalid_messages_are_rejected(data: Any) -> None:
    with pytest.raises(InvalidInput):
        parse_message(Event("alert.notice", "diagnostics", "x", data))


@pytest.mark.parametrize(
    ("type_", "data", "condition", "subject", "active"),
    [
        ("backup.failed", {"kind": "full", "reason": "no room"}, "backup_failed", "full", True),
        ("backup.completed", {"kind": "full"}, "backup_failed", "full", False),
        ("backup.completed", {"kind": "dump"}, "backup_failed", "dump", False),
        ("backup.drill-failed", {}, "backup_drill_failed", "", True),
        ("backup.drill-passed", {}, "backup_drill_failed", "", False),
        ("archive.failed", {"problem": "no blob storage"}, "archive_failed", "", True),
        ("archive.completed", {"problem": None}, "archive_failed", "", False),
        ("archive.damaged", {"object": "a/b", "problem": "page"}, "archive_damaged", "a/b", True),
        ("archive.repaired", {"object": "a/b"}, "archive_damaged", "a/b", False),
        ("maintenance.behind", {"reason": "900 s"}, "aggregates_behind", "", True),
        ("maintenance.current", {}, "aggregates_behind", "", False),
        ("maintenance.jobs-failing", {"reason": "x"}, "timescaledb_jobs_failing", "", True),
        ("maintenance.jobs-working", {}, "timescaledb_jobs_failing", "", False),
        ("backup.failed", "no object", "backup_failed", "", True),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_a_platform_alert_is_cleared_by_the_matching_success(
    type_: str, data: Any, condition: str, subject: str, active: bool
) -> None:
    signal = platform_signal(Event(type_, type_.split(".")[0], "x", data))
    assert signal is not None
    assert (signal.condition, signal.subject, signal.active) == (condition, subject, active)
    assert signal.pump_id is None
    if isinstance(data, dict):
        assert all(value in signal.title for name, value in data.items() if value and name != "kind")


def test_other_platform_events_raise_no_signal() -> None:
    assert platform_signal(Event("archive.verified", "archiver", "2026-01-01", {})) is None


def sender(**other: Any) -> Sender:
    return Sender(DiagnosticsSettings(**other))


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "json://example.com/hook",
        "syslog://",
        "nonsense",
        "http://example.com/",
        "jsons://127.0.0.1/hook",
        "jsons://[::1]/hook",
        "jsons://169.254.169.254/latest/meta-data",
        "jsons://10.0.0.8/hook",
        "jsons://example.com/hook?verify=no",
        "jsons://example.com/hook?redirect=yes",
        "workflows://example.com/1/2?template=/etc/passwd",
        "mailtos://user:pass@example.com?smtp=127.0.0.1&to=a@example.com",
        "jsons://[",
    ],
    ids=[
        "file",
        "plain-http",
        "local-log",
        "nonsense",
        "not-apprise",
        "loopback",
        "loopback-6",
        "metadata",
        "private",
        "unverified",
        "redirecting",
        "template",
        "smtp-loopback",
        "broken",
    ],
)
def test_forbidden_destinations_are_rejected(url: str) -> None:
    with pytest.raises(DestinationRefused):
        sender().open(url)


@pytest.mark.parametrize(
    "url",
    ["jsons://hooks.example.com/a?+X-Token=t", "mailtos://u:p@example.com?to=a@example.com", "slack://a/b/c"],
    ids=["webhook", "mail", "slack"],
)
def test_common_destinations_are_allowed(url: str) -> None:
    allowed = sender()
    if url.startswith("slack"):
        url = "slack://T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ/%23alerts"
    assert allowed.open(url).redirects is False


def test_a_private_host_may_be_listed() -> None:
    assert sender(notify_hosts="10.0.0.8, relay").open("jsons://10.0.0.8/hook")


@pytest.mark.parametrize(
    ("url", "may_be_shown"),
    [
        (
            "jsons://u:secret@hooks.example.com:8443/secret?+X-Token=secret",
            "jsons://hooks.example.com:8443/…",
        ),
        ("mailtos://u:secret@example.com", "mailtos://example.com/…"),
        ("slack://secret/secret/secret", "slack://…"),
        ("jsons://example.com:secret/", "jsons://example.com/…"),
    ],
    ids=["webhook", "mail", "slack", "port"],
)
def test_secrets_of_destinations_are_redacted(url: str, may_be_shown: str) -> None:
    assert redacted(url) == may_be_shown
