"""Aggregates that fall behind and background jobs that fail are told of, once, and so is their end."""

import asyncio
import json
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from esp_common.messaging import Publisher
from esp_ingest.app import run_maintenance
from esp_ingest.maintenance import Maintenance
from esp_ingest.rollups import roll_up
from esp_ingest.settings import IngestSettings
from esp_ingest.store import rollups
from esp_ingest.store.batch import Batch
from esp_ingest.store.late import watermark
from esp_ingest.watch import AggregateWatch
from esp_stack.programs import free_port
from esp_stack.servers import Vhost
from prometheus_client import REGISTRY
from waiting import until

BatchOf = Callable[..., Batch]
TODAY = datetime.now(UTC).date()
FAILING_JOB = """
CREATE FUNCTION ingest.fail(job_id int, config jsonb) RETURNS void LANGUAGE plpgsql AS
'BEGIN RAISE EXCEPTION ''no room''; END';
SELECT add_job('ingest.fail', '1 hour', initial_start => now() + INTERVAL '1 hour')
"""


@pytest.fixture
async def watch(stored: Any) -> AggregateWatch:
    await stored.rows("DELETE FROM ingest.outbox")
    await roll_up(stored.owner, stored.engine, TODAY)
    return AggregateWatch(stored.owner, stored.engine, 300)


async def published(stored: Any) -> list[tuple[str, str | None]]:
    """Take what was published of maintenance: type and reason."""
    rows = await stored.rows(
        "DELETE FROM ingest.outbox RETURNING id, routing_key, convert_from(body, 'UTF8') AS body"
    )
    events = sorted((row["id"], row["routing_key"], json.loads(row["body"])["reason"]) for row in rows)
    return [(type_, reason) for _, type_, reason in events if type_.startswith("maintenance.")]


async def test_aggregates_that_fall_behind_are_told_of_once_until_they_are_current(
    stored: Any, watch: AggregateWatch
) -> None:
    await watch.look()
    assert await published(stored) == []
    await stored.rows("UPDATE ingest.aggregate_state SET current_until = now() - INTERVAL '20 minutes'")
    other = AggregateWatch(stored.owner, stored.engine, 300)
    await asyncio.gather(watch.look(), other.look())
    assert await published(stored) == [("maintenance.behind", "1200 s")]
    assert 1200 <= watch.details()["lag_s"] < 1260
    assert REGISTRY.get_sample_value("esp_ingest_aggregate_lag_seconds") >= 1200
    await roll_up(stored.owner, stored.engine, TODAY)
    await watch.look()
    assert await published(stored) == [("maintenance.current", None)]
    assert watch.details()["lag_s"] < 300


async def test_a_background_job_that_fails_is_told_of_until_it_works_or_is_gone(
    stored: Any, watch: AggregateWatch
) -> None:
    if stored.engine != "timescale":
        assert watch.details()["failing_jobs"] == []
        return
    assert await stored.rows("SELECT FROM timescaledb_information.jobs WHERE job_id >= 1000") == []
    for statement in FAILING_JOB.split(";\nSELECT"):
        await stored.rows(statement if statement.lstrip().startswith("CREATE") else f"SELECT{statement}")
    (job,) = await stored.rows("SELECT job_id FROM timescaledb_information.jobs WHERE job_id >= 1000")
    await stored.rows("SELECT alter_job($1, next_start => now())", job["job_id"])
    failed = "SELECT FROM timescaledb_information.job_stats WHERE job_id = $1 AND last_run_status = 'Failed'"
    await until(lambda: stored.rows(failed, job["job_id"]), "the job failed", 60)
    await watch.look()
    await watch.look()
    ((type_, reason),) = await published(stored)
    assert type_ == "maintenance.jobs-failing"
    assert f"[{job['job_id']}]: no room" in reason
    await stored.rows("SELECT delete_job($1)", job["job_id"])
    await watch.look()
    assert await published(stored) == [("maintenance.jobs-working", None)]


async def test_maintenance_does_the_work_of_timescaledbs_jobs(
    stored: Any, vhost: Vhost, batch_of: BatchOf, new_day: datetime
) -> None:
    now = datetime.now(UTC)
    await stored.write(batch_of([(1, now - timedelta(minutes=5))], choke_pct=4))
    await stored.write(batch_of([(2, new_day + timedelta(seconds=i)) for i in range(60)], choke_pct=4))
    settings = IngestSettings(amqp_url=vhost.url_for("ingest"), rollup_s=0.2)
    stop = asyncio.Event()
    async with Publisher(vhost.url_for("ingest")) as publisher:
        maintenance = Maintenance(stored.owner, stored.engine, publisher, settings)
        role = asyncio.create_task(maintenance.run(stop))
        try:
            current = "SELECT FROM ingest.aggregate_state WHERE current_until > $1"
            await until(lambda: stored.rows(current, now), "the aggregates are current", 60)
            if stored.engine == "timescale":
                await until(lambda: in_columnstore(stored, new_day), "the old day is in the columnstore", 60)
                async with stored.owner.acquire() as connection:
                    assert await watermark(connection) > now - timedelta(minutes=6)
            await until(lambda: aged(maintenance), "the lag is known")
            assert maintenance.watch.details()["lag_s"] < 60
        finally:
            stop.set()
            await asyncio.wait_for(role, 20)


async def test_readiness_and_metrics_of_the_role_show_how_far_the_aggregates_are_behind(
    stored: Any, vhost: Vhost, watch: AggregateWatch
) -> None:
    port = free_port()
    settings = IngestSettings(
        amqp_url=vhost.url_for("ingest"),
        database_url=stored.database.url("esp_ingest_owner"),
        metrics_port=port,
        rollup_s=0.2,
    )
    stop = asyncio.Event()

    async def shown(is_wanted: Callable[[float], bool]) -> dict[str, Any] | None:
        """Return what `/health/ready` says where it and the metric have the wanted lag."""
        try:
            ready = (await client.get("/health/ready")).json()
        except httpx.TransportError:
            return None
        lag_s = ready.get("aggregates", {}).get("lag_s")
        line = re.search(
            r"^esp_ingest_aggregate_lag_seconds (\S+)$", (await client.get("/metrics")).text, re.M
        )
        both = [lag_s, float(line[1])] if lag_s is not None and line else []
        return ready if ready["status"] == "ok" and both and all(map(is_wanted, both)) else None

    async with (
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=30) as client,
        rollups.leading(stored.owner) as leads,
    ):
        assert leads, "nobody rolls up meanwhile"
        await stored.rows("UPDATE ingest.aggregate_state SET current_until = now() - INTERVAL '20 minutes'")
        role = asyncio.create_task(run_maintenance(settings, stop))
        try:
            ready = await until(lambda: shown(lambda lag_s: lag_s >= 1200), "the lag is shown", 60)
        finally:
            stop.set()
            await asyncio.wait_for(role, 60)
    assert ready["engine"] == stored.engine


async def aged(maintenance: Maintenance) -> bool:
    return maintenance.watch.lag_s is not None


async def in_columnstore(stored: Any, day: datetime) -> list[Any]:
    query = (
        "SELECT FROM timescaledb_information.chunks WHERE hypertable_name = 'telemetry' "
        "AND range_start = $1 AND is_compressed"
    )
    found: list[Any] = await stored.rows(query, day)
    return found


async def test_late_rows_of_a_converted_day_go_into_the_columnstore_too(
    stored: Any, batch_of: BatchOf, new_day: datetime
) -> None:
    if stored.engine != "timescale":
        return
    await stored.write(batch_of([(1, new_day)], choke_pct=4))
    async with stored.owner.acquire() as connection:
        assert await rollups.convert_to_columnstore(connection) >= 1
        await stored.write(batch_of([(1, new_day + timedelta(seconds=1))], choke_pct=4))
        assert await rollups.convert_to_columnstore(connection) >= 1
        assert await rollups.convert_to_columnstore(connection) == 0
