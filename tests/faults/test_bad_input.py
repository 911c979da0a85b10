"""What cannot be kept as it is: each reading is quarantined once, its neighbours are stored."""

import asyncio
from datetime import UTC, datetime, timedelta

import aio_pika
import numpy as np
import pytest
from esp_common.contracts import arrow
from esp_common.contracts.readings import empty_readings
from esp_platform.databases import OWNER
from rig import batches, readings, until

GOOD = 100


@pytest.fixture(scope="module", autouse=True)
def worker(deployment):
    """One worker for all: nothing that gateways send may harm what comes after."""
    with deployment.ingest("worker").running() as worker:
        yield worker


def spoiled(**changes):
    """A reading of its own instant, with `changes`; a value of ... takes the name out."""
    reading = readings(1, start=datetime.now(UTC) - timedelta(minutes=2))[0] | changes
    return {name: value for name, value in reading.items() if value is not ...}


def states(rig, reason):
    rows = rig.deployment.admin("SELECT count(*) FROM ingest.quarantine WHERE reason = %s", reason)
    return rows[0][0]


@pytest.mark.parametrize(
    ("reason", "reading"),
    [
        (
            "no-channels",
            dict.fromkeys(("intake_pressure_psi", "motor_temp_c", "motor_current_a", "running"), ...),
        ),
        ("unknown-pump", {"pump_id": "NO-SUCH-PUMP"}),
        ("foreign-gateway", {"pump_id": "SIM-050"}),
        ("time-in-future", {"time": (datetime.now(UTC) + timedelta(hours=1)).isoformat()}),
        ("time-too-old", {"time": "1999-06-30T23:59:59Z"}),
        ("clock-not-set", {"time": "2000-01-01T00:00:07Z"}),
        ("invalid-time", {"time": "2026-01-01T00:00:00"}),
        ("invalid-time", {"time": ...}),
        ("invalid-schema", {"pump_id": ...}),
    ],
)
async def test_bad_reading_in_a_good_batch_is_quarantined_alone(rig, reason, reading):
    good = readings(GOOD)
    batch = [*good[:50], spoiled(**reading), *good[50:]]
    await rig.publish([batch])
    await rig.publish([batch])
    await until(lambda: rig.taken() == 2 * len(batch))
    found = await rig.reconciled()
    assert (found.sums["rows"], found.sums["rows_quarantined"], states(rig, reason)) == (GOOD, 1, 1)
    assert (found.receipt.stored, found.receipt.quarantined) == (2 * GOOD, 2)


@pytest.mark.parametrize(
    ("reason", "channel", "value"),
    [
        ("not-finite", "motor_temp_c", float("nan")),
        ("not-finite", "motor_temp_c", float("inf")),
        ("out-of-range", "motor_temp_c", 4_000),
        ("sentinel-value", "motor_temp_c", -9999),
        ("status-text", "motor_temp_c", "Bad"),
        ("invalid-schema", "motor_temp_c", "hot"),
        ("unknown-channel", "moter_temp_c", 100),
    ],
)
async def test_bad_channel_is_quarantined_and_its_reading_stored(rig, reason, channel, value):
    good = readings(GOOD)
    batch = [*good[:50], spoiled(**{channel: value}), *good[50:]]
    await rig.publish([batch])
    await rig.publish([batch])
    await until(lambda: rig.taken() == 2 * len(batch))
    found = await rig.reconciled()
    assert (found.sums["rows"], found.sums["rows_quarantined"]) == (GOOD + 1, 0)
    assert (found.sums["channels_quarantined"], states(rig, reason)) == (1, 1)
    assert (found.receipt.stored, found.receipt.channels_refused) == (2 * (GOOD + 1), 2)


def arrow_body(count=10):
    batch = empty_readings(count)
    start = int(datetime.now(UTC).timestamp() * 1e6) - 60_000_000
    batch.pump_id[:] = "SIM-001"
    batch.time_us[:] = start + np.arange(count) * 1_000_000
    batch.values[:, 0] = 900
    return arrow.encode(batch)


@pytest.mark.parametrize(
    ("reason", "body", "content_type"),
    [
        ("undecodable", arrow_body()[:-200], arrow.MEDIA_TYPE),
        ("undecodable", b'[{"pump_id": "SIM-001", ', "application/json"),
        ("undecodable", b"\xff\xfe\x00", "application/json"),
        ("unsupported-media-type", b"<reading/>", "application/xml"),
        ("unsupported-media-type", arrow_body(), "text/plain"),
    ],
    ids=["truncated Arrow", "truncated JSON", "no text", "XML", "Arrow as text"],
)
async def test_message_that_cannot_be_read_is_quarantined_whole_and_its_neighbours_stored(
    rig, reason, body, content_type
):
    await rig.publish(batches(readings(GOOD), 10))
    await rig.publish_body(body, content_type)
    await rig.publish_body(body, content_type)
    await until(lambda: rig.taken() >= GOOD + 2)
    found = await rig.reconciled()
    assert (found.sums["rows"], states(rig, reason), found.dead_letters) == (GOOD, 1, 0)


async def test_body_of_20_mb_is_refused_to_its_sender_and_harms_nobody(rig):
    with pytest.raises((aio_pika.exceptions.AMQPError, ConnectionError, asyncio.CancelledError)):
        await rig.publish_body(b" " * 20_000_000, "application/json")
    await rig.publish(batches(readings(GOOD), 10))
    found = await rig.reconciled()
    assert found.receipt.stored == GOOD


async def test_readings_10_days_late_are_stored_and_rolled_up(rig):
    hour = (datetime.now(UTC) - timedelta(days=10)).replace(minute=0, second=0, microsecond=0)
    await rig.publish(batches(readings(600, start=hour), 100))
    found = await rig.reconciled()
    assert found.receipt.stored == 600
    rig.role("maintenance", database_url=rig.deployment.url(OWNER), rollup_s=1)

    def rolled_up():
        rows = rig.deployment.admin(
            "SELECT sum(readings) FROM telemetry_v1.readings_1hour WHERE bucket = %s", hour
        )
        return rows[0][0] == 600

    await until(rolled_up, 60)


async def test_poison_is_buried_with_its_reason_and_its_neighbours_are_stored(rig):
    # A reading that the database itself will not have: nothing in the worker knows why.
    rig.deployment.admin("ALTER TABLE ingest.telemetry ADD CONSTRAINT refuses CHECK (trip_code <> 666)")
    try:
        good = readings(2_000)
        poison = spoiled(trip_code=666)
        await rig.publish([*batches(good[:1_000], 50), [poison], *batches(good[1_000:], 50)])
        await until(lambda: rig.taken() == 2_000, 30)
        found = await rig.reconciled(90)
        assert (found.receipt.stored, found.receipt.dead_lettered, found.dead_letters) == (2_000, 1, 1)
        letter = next(
            line
            for line in rig.deployment.run("esp_ingest", "dead-letters", "list").splitlines()
            if "CheckViolation" in line
        )
    finally:
        rig.deployment.admin("ALTER TABLE ingest.telemetry DROP CONSTRAINT refuses")
    rig.deployment.run("esp_ingest", "dead-letters", "replay", letter.split()[0])
    await until(lambda: rig.taken() == 2_001)
    found = await rig.reconciled()
    assert (found.receipt.stored, found.dead_letters) == (2_001, 0)


async def test_reconcile_says_so_and_fails_when_a_confirmed_reading_is_missing(rig):
    await rig.publish(batches(readings(GOOD), 10))
    await rig.reconciled()
    assert "all accounts agree" in rig.deployment.run(
        "esp_ingest", "reconcile", "--receipt", str(rig.receipt)
    )
    rig.deployment.admin(
        "DELETE FROM ingest.telemetry WHERE pump_no = (SELECT min(pump_no) FROM ingest.telemetry)"
    )
    with pytest.raises(SystemExit, match="10 confirmed readings lost"):
        rig.deployment.run("esp_ingest", "reconcile", "--receipt", str(rig.receipt))
