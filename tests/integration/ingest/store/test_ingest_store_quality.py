"""Each pump's hours are scored from what is stored, once they are over, and again when more comes."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from esp_ingest.quality import score_hours
from esp_ingest.rollups import roll_up
from esp_ingest.store.batch import Batch, Tally

BatchOf = Callable[..., Batch]

HOUR = timedelta(hours=1)
NOW = datetime.now(UTC).replace(minute=30, second=0, microsecond=0)
CLOSED = NOW.replace(minute=0) - HOUR
LIMIT = 80.0


def every_10_s(pump: int, start: datetime, count: int = 360) -> list[tuple[int, datetime]]:
    return [(pump, start + timedelta(seconds=10 * i)) for i in range(count)]


async def score(stored: Any, now: datetime = NOW) -> int:
    await roll_up(stored.owner, stored.engine, now.date())
    return int(await score_hours(stored.owner, now, LIMIT))


async def hour_of(stored: Any, pump: int, hour: datetime = CLOSED) -> dict[str, Any]:
    rows = await stored.rows(
        "SELECT * FROM ingest.quality_hours WHERE pump_no = $1 AND hour = $2", pump, hour
    )
    return dict(rows[0])


async def announced(stored: Any, pump: int) -> int:
    return int(
        await stored.value(
            "SELECT count(*) FROM ingest.outbox WHERE routing_key = 'quality.degraded'"
            " AND headers ->> 'cloudEvents_subject' = $1",
            f"P-{pump}",
        )
    )


async def test_a_complete_hour_of_good_readings_scores_100(stored: Any, batch_of: BatchOf) -> None:
    good = {"intake_pressure_psi": 100_000, "discharge_pressure_psi": 300_000, "running": 1}
    currents = {
        "motor_current_a": 30_000,
        "current_a_a": 30_100,
        "current_b_a": 29_900,
        "current_c_a": 30_000,
    }
    await stored.write(batch_of(every_10_s(1, CLOSED), **good, **currents))
    await score(stored)
    hour = await hour_of(stored, 1)
    assert (hour["readings"], hour["completeness"], hour["consistency"], hour["score"]) == (
        360,
        1.0,
        1.0,
        100.0,
    )
    assert not await announced(stored, 1)


async def test_what_is_wrong_shows_in_its_own_share(stored: Any, batch_of: BatchOf) -> None:
    start = CLOSED
    upside_down = {"intake_pressure_psi": 300_000, "discharge_pressure_psi": 100_000}
    await stored.write(batch_of(every_10_s(2, start, 90), running=1, **upside_down))
    await stored.write(batch_of(every_10_s(2, start + HOUR / 4, 90), running=1, fault_mask=1, **upside_down))
    unlike = {"motor_current_a": 30_000, "current_a_a": 40_000, "current_b_a": 40_000, "current_c_a": 40_000}
    await stored.write(batch_of(every_10_s(2, start + HOUR / 2, 90), running=1, **unlike))
    tallies = [Tally(2, start, duplicates=90, late=27, rejected=30)]
    await stored.write(
        batch_of(every_10_s(2, start + 3 * HOUR / 4, 90), running=0, **upside_down), tallies=tallies
    )
    await score(stored)
    hour = await hour_of(stored, 2)
    assert hour["completeness"] == 1.0
    assert hour["validity"] == pytest.approx(270 / 390)
    assert hour["uniqueness"] == pytest.approx(360 / 450)
    assert hour["timeliness"] == pytest.approx(333 / 360)
    assert hour["consistency"] == pytest.approx(1 - 180 / 270)


async def test_refused_and_clamped_channels_are_counted_once(stored: Any, batch_of: BatchOf) -> None:
    refused = batch_of(every_10_s(10, CLOSED, 36), choke_pct=1, refused_mask=1 << 18 | 1 << 24)
    for _ in range(2):
        await stored.write(refused)
    await stored.write(batch_of(every_10_s(10, CLOSED + HOUR / 10, 324), choke_pct=0, clamped_mask=1 << 23))
    await score(stored)
    hour = await hour_of(stored, 10)
    assert (hour["readings"], hour["refused_channels"], hour["clamped_channels"]) == (360, 72, 324)
    assert hour["validity"] == pytest.approx(324 / 360)


async def test_an_hour_is_scored_only_when_it_is_over(stored: Any, batch_of: BatchOf) -> None:
    await stored.write(batch_of(every_10_s(3, CLOSED + HOUR, 60), choke_pct=1))
    await score(stored)
    assert (await hour_of(stored, 3, CLOSED + HOUR))["computed_at"] is None


async def test_crossing_the_limit_is_announced_once_and_late_data_mends_the_score(
    stored: Any, batch_of: BatchOf
) -> None:
    before, first = CLOSED - 2 * HOUR, CLOSED - HOUR
    await stored.write(batch_of(every_10_s(4, before), choke_pct=1))
    await stored.write(batch_of(every_10_s(4, first, 100), choke_pct=1))
    await stored.write(batch_of(every_10_s(4, CLOSED, 90), choke_pct=1))
    await score(stored)
    assert (await hour_of(stored, 4, before))["score"] == 100.0
    assert (await hour_of(stored, 4, first))["score"] == pytest.approx(74.7, abs=0.1)
    # The second bad hour is the same trouble still.
    assert await announced(stored, 4) == 1
    await stored.write(batch_of(every_10_s(4, first), choke_pct=1))
    assert await score(stored) >= 1
    assert (await hour_of(stored, 4, first))["completeness"] == 1.0
    await stored.write(
        batch_of([(4, first + timedelta(seconds=5))], choke_pct=1), tallies=[Tally(4, first, rejected=999)]
    )
    await score(stored)
    assert (await hour_of(stored, 4, first))["score"] < LIMIT
    assert await announced(stored, 4) == 1
    assert await score(stored) == 0


async def test_a_pump_that_falls_silent_is_announced(stored: Any, batch_of: BatchOf) -> None:
    await stored.write(batch_of(every_10_s(5, CLOSED - 2 * HOUR), choke_pct=1))
    await score(stored)
    hour = await hour_of(stored, 5, CLOSED - HOUR)
    assert (hour["readings"], hour["completeness"], hour["validity"], hour["score"]) == (0, 0.0, None, 0.0)
    assert (await hour_of(stored, 5))["score"] == 0.0
    assert await announced(stored, 5) == 1


async def test_a_pumps_first_hour_begins_with_its_first_reading(stored: Any, batch_of: BatchOf) -> None:
    await stored.write(batch_of(every_10_s(6, CLOSED + 3 * HOUR / 4, 90), choke_pct=1))
    await score(stored)
    assert (await hour_of(stored, 6))["completeness"] == 1.0


async def test_a_pump_that_reports_by_exception_is_complete_with_a_sign_of_life_every_20_minutes(
    stored: Any, batch_of: BatchOf
) -> None:
    await stored.rows("UPDATE ingest.pumps SET expected_interval_s = NULL WHERE pump_no IN (7, 8)")
    signs = [CLOSED + timedelta(minutes=minute) for minute in (1, 2, 3, 25, 59)]
    await stored.write(batch_of([(7, time) for time in signs], choke_pct=1))
    await stored.write(batch_of([(8, time) for time in signs[:3]], choke_pct=1))
    await score(stored)
    assert (await hour_of(stored, 7))["completeness"] == 1.0
    assert (await hour_of(stored, 8))["completeness"] == pytest.approx(1 / 2)


async def test_an_archive_being_replayed_is_scored_and_is_no_news(stored: Any, batch_of: BatchOf) -> None:
    hour = datetime(2020, 3, 9, 10, tzinfo=UTC)
    await stored.write(batch_of([(9, hour), (9, hour + timedelta(minutes=50))], choke_pct=1))
    await score(stored)
    assert (await hour_of(stored, 9, hour))["score"] < LIMIT
    assert not await announced(stored, 9)
    assert await stored.value("SELECT count(*) FROM ingest.quality_hours WHERE pump_no = 9") == 1
